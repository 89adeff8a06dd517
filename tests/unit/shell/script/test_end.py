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
    write_vmrc(tmp_path)
    (tmp_path / "script").write_text(SCRIPT + more)
    done = subprocess.run(
        [sys.executable, "-m", "qvmsh", "sh", "script"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (more == "1 / 0"), done.stderr
    assert (tmp_path / "left").read_text() == "all of it"
