"""Giving root's files away: only root's own, only with one name, never through a link."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from qvmsh.host import accounts

NOBODY = accounts.Account(pwd.getpwnam("nobody"))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@as_root
def test_give_folder_gives_roots_files_and_nothing_else(tmp_path: Path) -> None:
    folder, outside = tmp_path / "state", tmp_path / "outside"
    (folder / "log").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").touch()
    (outside / "twin").touch()
    (folder / "mine").touch()
    (folder / "log/serial.log").touch()
    (folder / "foreign").touch()
    os.chown(folder / "foreign", 1, 1)
    (folder / "link").symlink_to(outside / "secret")
    (folder / "folder-link").symlink_to(outside)
    (folder / "hard").hardlink_to(outside / "twin")
    os.mkfifo(folder / "fifo")  # is not waited for
    accounts.give_folder(str(folder), NOBODY)
    owners = {path.name: path.lstat().st_uid for path in [folder, *folder.rglob("*")]}
    given = {name for name, uid in owners.items() if uid == NOBODY.uid}
    assert given == {"state", "log", "mine", "serial.log"}
    assert owners["foreign"] == 1
    assert {path.stat().st_uid for path in [outside, *outside.iterdir()]} == {0}


@as_root
def test_give_folder_that_is_a_link_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    accounts.give_folder(str(tmp_path / "link"), NOBODY)
    assert (tmp_path / "real").stat().st_uid == (tmp_path / "real/file").stat().st_uid == 0


def test_environment_of_another_account_has_nothing_of_roots() -> None:
    root = {
        "HOME": "/root",
        "PATH": "/bin",
        "SUDO_UID": "1",
        "SSH_AUTH_SOCK": "/s",
        "XDG_RUNTIME_DIR": "/run/user/0",
        "PYTHONPATH": "/x",
        "VM_QEMU_ACCEL": "tcg",
        "TOKEN": "secret",
        "VM_HOME": "/vm/other",
        "LC_ALL": "C.UTF-8",
    }
    found = NOBODY.environment(root)
    assert found == {
        "PATH": "/bin",
        "VM_QEMU_ACCEL": "tcg",
        "LC_ALL": "C.UTF-8",
        "HOME": NOBODY.home,
        "USER": "nobody",
        "LOGNAME": "nobody",
        "SHELL": NOBODY.shell,
    }
