"""Archives of real guests: taken while they work, restored, booted, their file systems clean."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
from pathlib import Path

import pytest

from tests.support.archives import make_archive
from tests.support.guest_writer import fsck
from tests.support.programs import qemu_img, qemu_io
from tests.support.world import Vm, World, write_vmrc

pytestmark = pytest.mark.guest

WRITER = (
    "trap '' HUP; (i=0; while :; do i=$((i+1)); echo $i > n.new; mv n.new n; sync; done) "
    "> /dev/null 2>&1 < /dev/null & echo"
)


def test_archive_while_the_guest_works_comes_back_whole(guest: Vm) -> None:
    """Data of before, during and after; two disks; a snapshot with memory; boot, fsck, verify."""
    qemu_img(guest, "create", "-q", "-f", "qcow2", "data.qcow2", "8M")
    guest.set(VM_DISKS="data.qcow2")
    guest.start()
    guest.ok("ssh", "echo before > before; echo one | sudo -n dd of=/dev/vdb bs=512 conv=sync; sync")
    guest.ok("ssh", WRITER)
    first = make_archive(guest)
    assert first["consistency"] == "frozen"
    guest.ok("ssh", "echo during > during; echo two | sudo -n dd of=/dev/vdb bs=512 conv=sync; sync")
    second = make_archive(guest)
    assert second["incremental"] is True
    memory = make_archive(guest, "--savevm", "live")
    assert memory["snapshots"] == ["live"]
    guest.ok("ssh", "echo after > after; sync")
    guest.ok("status")  # it has worked all the time
    counted = int(guest.ok("ssh", "cat n").out)
    assert "powered off" in guest.ok("stop").out
    guest.ok("archive", "--verify", first["archive"])
    names = [f"{each['archive']}/{each['stamp']}" for each in (first, second, memory)]
    assert " boots, ready after " in guest.ok("archive", "--verify", "--boot", names[1]).out
    assert guest.ok("list").out.count("\ndemo ") == 1  # what was booted to verify is not a known machine
    for name, words in ((names[0], ["before"]), (names[1], ["before", "during"])):
        guest.ok("restore", name, "../twin")
        twin = Vm(guest.world, guest.world.home / "twin")
        fsck(twin, "twin-backing.qcow2")
        twin.start()
        try:
            files = twin.ok("ssh", "ls").out.split()
            assert set(files) & {"before", "during", "after"} == set(words)
            assert 0 < int(twin.ok("ssh", "cat n").out) <= counted
            output = twin.ok("ssh", "sudo -n head -c 3 /dev/vdb").out
            assert output == ("two" if "during" in words else "one")
            assert "powered off" in twin.ok("stop").out
        finally:
            twin.kill()
        qemu_img(twin, "check", "twin-backing.qcow2")
        shutil.rmtree(twin.directory)
    guest.ok("restore", "--force", names[2])
    loaded = guest.ok("start", "--loadvm", "live")
    assert "ready after" in loaded.out
    assert guest.ok("ssh", "cat during; ls || true").out.split()[0] == "during"
    assert guest.qvm("ssh", "cat after").status == 1


def test_archive_without_an_agent_is_crash_consistent_and_boots(loaded: Vm) -> None:
    loaded.ok("ssh", "sudo -n killall qemu-ga; echo kept > note")
    assert make_archive(loaded)["consistency"] == "crash-consistent"
    loaded.ok("stop")
    assert " boots, ready after " in loaded.ok("archive", "--verify", "--boot").out


def test_archive_on_another_host_by_ssh(running: Vm, tmp_path: Path) -> None:
    """The other host is a guest; ssh is the user's own, with the user's own configuration."""
    report = json.loads(running.ok("--json", "status").out)
    there = running.ok("ssh", "pwd").out.strip()
    home = tmp_path / "user"
    home.mkdir()
    key = home / "key"
    shutil.copy(running.directory / ".qvm/id_ed25519", key)
    key.chmod(0o600)
    config = home / "config"
    config.write_text(
        f"Host store\n HostName 127.0.0.1\n Port {report['ssh_port']}\n User qvm\n IdentityFile {key}\n"
        f" StrictHostKeyChecking no\n UserKnownHostsFile {home}/known\n LogLevel ERROR\n"
    )
    program = home / "ssh"
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {shlex.quote(str(config))} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    env = {"PATH": f"{home}:{os.environ['PATH']}"}
    world: World = running.world
    write_vmrc(world.home / "far", "far", VM_ARCHIVE=f"ssh://store{there}/a store")
    vm = Vm(world, world.home / "far")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "far-seed.qcow2", "16M")
    vm.ok("init")

    def write(value: int) -> None:
        qemu_io(vm, "-c", f"write -P {value} 0 64k", "far-backing.qcow2")

    write(1)
    vm.ok("archive", env=env)
    write(2)
    vm.ok("archive", "-z", "zstd", env=env)
    rows = json.loads(vm.ok("--json", "archive", "--list", env=env).out)["states"]
    assert len(rows) == 2
    assert "is good" in vm.ok("archive", "--verify", rows[0]["archive"], env=env).out
    vm.ok("restore", "-f", rows[0]["stamp"], env=env)
    assert "01" in qemu_io(vm, "-c", "read -v 0 1", "far-backing.qcow2")
    vm.ok("restore", f"ssh://store{there}/a store/{rows[0]['archive']}", "../near", env=env)
    near = Vm(world, world.home / "near")
    assert "02" in qemu_io(near, "-c", "read -v 0 1", "near-backing.qcow2").split()[1]
    write(3)
    vm.ok("archive", "--keep", "1", env=env)
    assert len(json.loads(vm.ok("--json", "archive", "--list", env=env).out)["states"]) == 1
    running.ok("ssh", 'rm "a store"/*/far-base.qcow2')
    assert "is missing" in vm.qvm("archive", "--verify", env=env).err
    refused = vm.qvm("--set", "VM_ARCHIVE=ssh://nobody@127.0.0.1:1/x", "archive", env=env)
    assert refused.status == 1
    assert "ssh://nobody@127.0.0.1:1/x cannot be used" in refused.err
    left = running.ok("ssh", 'find "a store" -name "*.part*"').out
    assert not left
