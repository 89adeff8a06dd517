"""The man page says what the table of commands says, and man shows it without a complaint."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from qvmsh.cli import man
from qvmsh.commands.index import COMMANDS
from tests.support.world import ROOT

PAGE = ROOT / "rc/man/qvm.1"


def test_man_page_is_up_to_date() -> None:
    assert PAGE.read_text() == man.page(), "run: python -m qvmsh.cli.man"


def test_man_shows_every_command_and_option_without_a_complaint() -> None:
    if not shutil.which("man"):
        if os.environ.get("CI"):
            pytest.fail("man is not installed")
        pytest.skip("man is not installed")
    env = os.environ | {"MANWIDTH": "100", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"}
    done = subprocess.run(
        ["man", "--warnings=w", "-l", PAGE], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    for verb, row in COMMANDS.items():
        assert f"qvm {verb}" in shown, verb
        for option in row[8]:
            for flag in option[2]:
                assert flag in shown, (verb, flag)
    assert "EXIT STATUS" in shown
    assert "`" not in shown
