"""The script's own objects are ended as Python ends them, though it does not look at ours any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.world import ROOT, write_vmrc

SCRIPT = """
file = open("left", "w")
file.write("all of it")
def held(): return file
"""
GARBAGE = """
class Loop:
    def __init__(self): self.me = self
    def __del__(self):
        import colorsys  # impossible once Python takes the modules apart
        print("collected")
loop = Loop()
del loop
"""
NAMES = """
import sys
class Named:
    def __init__(self, name): self.name = name
    def __del__(self): print(WORD, self.name, sys.argv[1:])
def late():
    try: yield
    finally: print(WORD, "generator")
WORD = "ended:"
first = Named("first")
waiting = late()
next(waiting)
import atexit
atexit.register(lambda: print("at exit"))
sys.exit(7)
"""


@pytest.mark.parametrize(
    "more",
    [
        "",
        "start.held = held",
        "disk.add.held = held",
        "vm.held = held",
        "from qvmsh.here import vm as mine",
        "import os; os.held = held",
        "import sys; sys.breakpointhook = held",
        "import atexit; atexit.register(held)",
        "import signal; signal.signal(signal.SIGTERM, held)",
        "import colorsys; colorsys.file = file",
        "import io; wrapped = io.BytesIO(); io.TextIOWrapper(wrapped).detach()",
        "1 / 0",
    ],
)
def test_end_file_left_open_is_written(more: str, tmp_path: Path) -> None:
    done = run(tmp_path, "script", SCRIPT + more)
    assert done.returncode == (more == "1 / 0"), done.stderr
    assert (tmp_path / "left").read_text() == "all of it"


def test_end_objects_of_a_script_still_see_its_names(tmp_path: Path) -> None:
    done = run(tmp_path, "script", NAMES)
    assert done.returncode == 7, done.stderr
    first, *rest = done.stdout.splitlines()
    assert (first, sorted(rest)) == ("at exit", ["ended: first []", "ended: generator"])


@pytest.mark.parametrize("text", ["print(40 + 2)", "import threading\nprint(40 + 2)", "import helper"])
def test_end_is_left_to_python_only_where_it_may_matter(text: str, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("print(40 + 2)\n")
    done = run(tmp_path, "script", "import os; os._exit = print\n" + text)
    assert done.stdout == ("42\n0\n" if text.startswith("print") else "42\n"), done.stderr


def test_end_output_in_the_buffer_of_c_code_is_written(tmp_path: Path) -> None:
    done = run(tmp_path, "script", "import ctypes\nctypes.CDLL(None).puts(b'said')\n")
    assert done.stdout == "said\n", done.stderr


@pytest.mark.parametrize("more", ["", "aliases['held'] = held", "events.on_exit(held)"])
def test_end_xonsh_file_left_open_is_written(more: str, tmp_path: Path) -> None:
    done = run(tmp_path, "script.xsh", SCRIPT.replace("held()", "held(**_)") + more + "\n")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "left").read_text() == "all of it"


def test_end_xonsh_garbage_of_the_script_is_collected(tmp_path: Path) -> None:
    done = run(tmp_path, "script.xsh", GARBAGE)
    assert done.stdout == "collected\n", done.stderr


def run(folder: Path, name: str, text: str) -> subprocess.CompletedProcess[str]:
    write_vmrc(folder)
    (folder / name).write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "qvmsh", "sh", name],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
