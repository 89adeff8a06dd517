"""What `scripts/test` prints of tests that fail and pass when they are run again: two real runs of pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.world import ROOT

TESTS = """\
from pathlib import Path
import pytest

def fails_once(name):
    seen = Path(__file__).with_name(name).exists()
    Path(__file__).with_name(name).touch()
    assert seen

@pytest.fixture
def broken_afterwards():
    yield
    assert False

def test_good(): pass
def test_once(): fails_once("a")
def test_always(): assert False
@pytest.mark.parametrize("n", [1])
def test_with_parameter(n): fails_once("b")
def test_then_error(broken_afterwards): pass
"""


def run(folder: Path, *words: str) -> list[str]:
    argv = [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:xonsh", "--rootdir", str(folder)]
    done = subprocess.run([*argv, *words, str(folder)], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_passed_only_the_second_time_are_named(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").touch()
    second = ("--last-failed", "-p", "tests.support.second_run")
    assert "3 failed, 2 passed, 1 error in " in run(tmp_path)[-1]
    output = run(tmp_path, *second)
    title = next(at for at, line in enumerate(output) if "passed only the second time: 2" in line)
    assert output[title + 1 : title + 3] == ["test_it.py::test_once", "test_it.py::test_with_parameter[1]"]
    assert "1 failed, 3 passed, 1 error in " in output[-1]
    output = run(tmp_path, *second)
    assert "1 failed, 1 passed, 1 error in " in output[-1]
    assert not [line for line in output if "second time" in line]
