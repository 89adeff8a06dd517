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
        "1 / 0",
    ],
)
def test_end_file_left_open_is_written(more: str, tmp_path: Path) -> None:
    done = run(tmp_path, "script", SCRIPT + more)
    assert done.returncode == (more == "1 / 0"), done.stderr
    assert (tmp_path / "left").read_text() == "all of it"


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
