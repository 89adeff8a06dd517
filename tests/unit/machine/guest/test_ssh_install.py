"""The file of `ssh-config --install`: blocks are replaced, those of machines that are gone are left out."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from qvmsh.errors import QvmError, UsageError
from qvmsh.io import QUIET
from qvmsh.machine.guest import ssh_install
from qvmsh.machine.guest.ssh_config import Host


def host(folder: Path, name: str, port: str = "1") -> Host:
    folder.mkdir(exist_ok=True)
    (folder / ".vmrc").touch()
    return Host(name, str(folder), [("Port", port)])


def install(home: Path, *hosts: Host) -> ssh_install.Installed:
    return ssh_install.install(hosts, QUIET, {"HOME": str(home)}, is_sure=True)


def test_install_keeps_replaces_and_drops_blocks(tmp_path: Path) -> None:
    one, two, three = (host(tmp_path / name, name) for name in ("one", "two", "three"))
    install(tmp_path, one, two)
    install(tmp_path, three)
    (tmp_path / "two/.vmrc").unlink()
    install(tmp_path, host(tmp_path / "one", "one", "2"))
    blocks = (tmp_path / ".config/qvm/ssh_config").read_text().split("\n\n")[1:]
    assert [block.strip("\n") for block in blocks] == [
        f"# qvm: {tmp_path}/one\nHost one\n    Port 2", f"# qvm: {tmp_path}/three\nHost three\n    Port 1"
    ]  # fmt: skip


def test_install_of_a_second_machine_of_a_name_is_refused(tmp_path: Path) -> None:
    install(tmp_path, host(tmp_path / "one", "demo"))
    before = (tmp_path / ".config/qvm/ssh_config").read_text()
    with pytest.raises(UsageError, match="two machines are called demo"):
        install(tmp_path, host(tmp_path / "two", "demo"))
    assert (tmp_path / ".config/qvm/ssh_config").read_text() == before


def test_install_keeps_mode_link_and_content_of_the_users_file(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    real = tmp_path / "dotfiles"
    real.write_bytes(b"Host x\r\n\xff")
    real.chmod(0o640)
    (tmp_path / ".ssh/config").symlink_to(real)
    first = install(tmp_path, host(tmp_path / "one", "one"))
    again = install(tmp_path, host(tmp_path / "two", "two"))
    assert (first.added, again.added) == (True, False)
    assert (tmp_path / ".ssh/config").is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert real.read_bytes() == f"Include {tmp_path}/.config/qvm/ssh_config\n".encode() + b"Host x\r\n\xff"


@pytest.mark.parametrize("before", ["Host other\n    {}\n", "User x\nmatch host a\n{}\n", "HOST=a\n {}\n"])
def test_install_adds_the_line_where_it_is_for_one_host_only(tmp_path: Path, before: str) -> None:
    (tmp_path / ".ssh").mkdir()
    line = f"Include {tmp_path}/.config/qvm/ssh_config"
    config = tmp_path / ".ssh/config"
    config.write_text(before.format(line))
    assert install(tmp_path, host(tmp_path / "one", "one")).added
    assert config.read_text() == f"{line}\n{before.format(line)}"
    assert not install(tmp_path, host(tmp_path / "one", "one")).added


def test_install_through_a_link_without_a_file_makes_it(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").symlink_to(tmp_path / "dotfiles")
    install(tmp_path, host(tmp_path / "one", "one"))
    assert (tmp_path / ".ssh/config").is_symlink()
    assert (tmp_path / "dotfiles").read_text().startswith("Include ")


@pytest.mark.parametrize("name", [".ssh", ".ssh/config"])
def test_install_through_a_link_to_nowhere_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("/nowhere/at/all")
    with pytest.raises(QvmError, match="is a broken link: there is no directory /nowhere/at"):
        install(tmp_path, host(tmp_path / "one", "one"))
    assert path.is_symlink()
    assert not (tmp_path / ".config/qvm").exists()


def test_install_at_the_same_time_loses_no_block(tmp_path: Path) -> None:
    install(tmp_path)
    hosts = [host(tmp_path / f"m{i}", f"m{i}") for i in range(12)]
    threads = [threading.Thread(target=install, args=(tmp_path, each)) for each in hosts]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    text = (tmp_path / ".config/qvm/ssh_config").read_text()
    assert all(f"Host {each.name}\n" in text for each in hosts)


def test_install_into_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / ".ssh/config").mkdir(parents=True)
    with pytest.raises(QvmError, match=r"ssh-config: .*\.ssh/config: "):
        install(tmp_path, host(tmp_path / "one", "one"))
    assert not os.path.exists(tmp_path / ".config/qvm/ssh_config")
