"""The script of `ssh --copy-id`, run here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qvmsh.machine.guest import copy_id

BODY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL15MOA5i9GnO7v6l8ASDKEY2vZFoDBODYM06k8rZ5+RU"
LINE = f"{BODY} it's $(touch evil) \\"


def run(home: Path) -> str:
    done = subprocess.run(
        ["sh", "-c", copy_id.script(LINE)], env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, cwd=home,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not done.stderr
    return done.stdout.strip()


def test_script_adds_a_key_of_any_text_once(tmp_path: Path) -> None:
    keys = tmp_path / ".ssh/authorized_keys"
    assert (run(tmp_path), run(tmp_path)) == ("added", "present")
    assert keys.read_text() == f"{LINE}\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == [".ssh"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"# old: {BODY}\n", f"# old: {BODY}\n{LINE}\n"),
        (f'command="false" {BODY}\n', f'command="false" {BODY}\n{LINE}\n'),
        ("ssh-rsa AAAA", f"ssh-rsa AAAA\n{LINE}\n"),
        (f"x\n  {BODY} other\n", f"x\n  {BODY} other\n"),
    ],
)
def test_script_takes_only_a_line_that_lets_the_key_in(tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / ".ssh").mkdir()
    keys = tmp_path / ".ssh/authorized_keys"
    keys.write_text(before)
    assert run(tmp_path) == ("present" if before == after else "added")
    assert keys.read_text() == after
