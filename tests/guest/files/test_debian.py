"""`put`, `get` and `sync` with a guest that has GNU tar, OpenSSH and rsync; one boot for all."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guests import debian as debian_guest
from tests.support.odd_names import make_sparse, make_tree, seen
from tests.support.world import Vm, World, create_debian

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def big(module_world: World, debian: debian_guest.DebianImage) -> Iterator[Vm]:
    vm = create_debian(module_world, debian, "big")
    vm.ok("start", "--ssh-attempts", "120", timeout=300)
    yield vm
    vm.kill()


@pytest.mark.parametrize("way", ["ssh", "sftp", "agent"])
def test_put_and_get_on_debian_keep_a_tree_with_its_holes(big: Vm, tmp_path: Path, way: str) -> None:
    make_tree(tmp_path / "tree")
    make_sparse(tmp_path / "tree/disk", 24 << 20, 4 << 20)
    big.ok("put", "--via", way, tmp_path / "tree", "/var/tmp/")
    big.ok("get", "--via", way, "/var/tmp/tree", tmp_path / "back")
    assert seen(tmp_path / "back") == seen(tmp_path / "tree")
    assert os.stat(tmp_path / "back/disk").st_blocks * 512 < 1 << 20
    if way != "sftp":
        assert int(big.ok("ssh", "sudo du -k /var/tmp/tree/disk").out.split()[0]) < 1024
    big.ok("ssh", "sudo rm -rf /var/tmp/tree")


def test_get_on_debian_of_one_sparse_file_sends_its_data_alone(big: Vm, tmp_path: Path) -> None:
    line = "truncate -s 40G disk; echo data | dd of=disk conv=notrunc seek=10M status=none"
    big.ok("ssh", f"cd /var/tmp; {line}")
    done = json.loads(big.ok("--json", "get", "/var/tmp/disk", tmp_path).out)
    assert done["bytes"] == 40 << 30
    with (tmp_path / "disk").open("rb") as file:
        file.seek(10 * 512 << 20)
        assert file.read(5) == b"data\n"
    big.ok("put", tmp_path / "disk", "/var/tmp/again")
    assert big.ok("ssh", "cd /var/tmp; stat -c %s again; cmp -n 64 disk again").out == f"{40 << 30}\n"
    big.ok("ssh", "cd /var/tmp; rm disk again")


def test_put_over_an_account_without_shell_uses_sftp(big: Vm, tmp_path: Path) -> None:
    """The account may use sftp only: its result names the way, and why the first was not used."""
    make_tree(tmp_path / "tree")
    match = "Match User qvm\\nForceCommand internal-sftp\\n"
    limit = f"printf '{match}' >/etc/ssh/sshd_config.d/only.conf; systemctl reload ssh"
    big.ok("exec", "--via", "agent", "--shell", limit)
    end = ["ssh", "-S", f"{big.runtime}/ssh", "-O", "exit", "x"]
    try:
        subprocess.run(end, capture_output=True)
        done = json.loads(big.ok("--json", "put", tmp_path / "tree", "t").out)
        assert (done["via"], "no POSIX shell" in done["refused"]["ssh"]) == ("sftp", True)
        back = json.loads(big.ok("--json", "get", "t", tmp_path / "back").out)
        assert back["via"] == "sftp"
        assert seen(tmp_path / "back") == seen(tmp_path / "tree")
    finally:
        undo = "rm /etc/ssh/sshd_config.d/only.conf; systemctl reload ssh"
        big.ok("exec", "--via", "agent", "--shell", undo)
        subprocess.run(end, capture_output=True)
    big.answering()


def test_sync_both_ways_copies_what_differs(big: Vm, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    os.unlink(tmp_path / "tree/second name")  # rsync copies it as another file
    first = json.loads(big.ok("--json", "sync", f"{tmp_path}/tree/", ":/tmp/synced dir/").out)
    assert (first["via"], first["files"] > 60, first["failed"]) == ("rsync", True, [])
    (tmp_path / "tree/more").write_text("more")
    again = json.loads(big.ok("--json", "sync", f"{tmp_path}/tree/", ":/tmp/synced dir/").out)
    assert (again["files"], again["bytes"]) == (1, 4)
    big.ok("sync", ":/tmp/synced dir", tmp_path / "back")
    assert seen(tmp_path / "back/synced dir") == seen(tmp_path / "tree")
    (tmp_path / "back/synced dir/extra").write_text("x")
    big.ok("sync", "--delete", ":/tmp/synced dir", tmp_path / "back")
    assert seen(tmp_path / "back/synced dir") == seen(tmp_path / "tree")


def test_sync_of_what_is_missing_is_named(big: Vm) -> None:
    result = big.qvm("sync", ":/nosuch", ".")
    assert (result.status, "not copied: rsync: [sender] link_stat" in result.out) == (1, True), str(result)
