"""Archives of real guests: taken while they work, restored, booted, their file systems clean."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
from pathlib import Path

import pytest

from tests.support.archives import make_archive, make_frozen_archive, state_name
from tests.support.disks import check_images
from tests.support.guest_writer import DATA, boot, names_off, text_off
from tests.support.programs import qemu_img, qemu_io
from tests.support.world import Vm, World, write_vmrc

pytestmark = pytest.mark.guest

HOST_KEY = "/etc/dropbear/dropbear_ed25519_host_key"
WRITER = (
    "trap '' HUP; (i=0; while :; do i=$((i+1)); echo $i > n.new; mv n.new n; sync; done) "
    "> /dev/null 2>&1 < /dev/null & echo"
)


def facts(vm: Vm) -> dict[str, str]:
    """What the guest sees of its machine."""
    return {
        "uuid": vm.ok("ssh", "sudo -n cat /sys/class/dmi/id/product_uuid").out.strip().lower(),
        "mac": vm.ok("ssh", "cat /sys/class/net/e*/address").out.strip().lower(),
        "name": vm.ok("ssh", "hostname").out.strip(),
        "keys": vm.ok("ssh", "cat .ssh/authorized_keys").out.strip(),
        "host key": vm.ok("ssh", f"sudo -n dropbearkey -y -f {HOST_KEY}").out.splitlines()[1],
    }


def write(vm: Vm, word: str) -> None:
    """A file of that name on the system's disk and on the data disk."""
    vm.ok("ssh", f"echo {word} > {word}; echo {word} > /mnt/d/{word}; sync")


def test_archive_while_the_guest_works_comes_back_whole(vm: Vm) -> None:
    """Data of before, during and after; two disks; a snapshot with memory; no agent; boot, fsck, verify."""
    boot(vm)
    write(vm, "before")
    vm.ok("ssh", f"echo kept > /tmp/memory; {WRITER}")
    own = facts(vm)
    first = make_frozen_archive(vm)
    write(vm, "during")
    second = make_frozen_archive(vm)
    assert second["incremental"] is True
    memory = make_archive(vm, "--savevm", "live")
    assert memory["snapshots"] == ["live"]
    write(vm, "after")
    vm.ok("status", "-s")  # it has worked all the time
    counted = int(vm.ok("ssh", "cat n").out)
    vm.end_in_guest("qemu-ga")
    assert make_archive(vm)["consistency"] == "crash-consistent"
    assert "powered off" in vm.ok("stop").out
    vm.ok("archive", "--verify", first["archive"])
    assert " boots, ready after " in vm.ok("archive", "--verify", "--boot").out  # the crash-consistent one
    assert vm.ok("list").out.count("\ndemo ") == 1  # what was booted to verify is not a known machine
    check_twin(vm, state_name(first), ["before"], counted, {})
    check_twin(vm, state_name(second), ["before", "during"], counted, own)
    vm.ok("restore", "--force", state_name(memory))
    assert "ready after" in vm.ok("start", "--loadvm", "live").out
    assert vm.ok("ssh", "cat during /mnt/d/during /tmp/memory").out == "during\nduring\nkept\n"
    assert vm.qvm("ssh", "cat after").status == 1
    vm.ok("stop")
    check_resumed_twin(vm, state_name(memory))


def check_resumed_twin(vm: Vm, name: str) -> None:
    """A new machine that resumes the memory of a state keeps the key with which one logs in there."""
    report = json.loads(vm.ok("--json", "restore", name, "../twin").out)
    assert "the ssh keys are still those of demo, which its snapshots need" in report["notes"]
    twin = Vm(vm.world, vm.world.home / "twin")
    try:
        twin.ok("start", "--loadvm", "live")
        assert twin.ok("ssh", "cat during /tmp/memory").out == "during\nkept\n"
    finally:
        twin.kill()


def check_twin(vm: Vm, name: str, words: list[str], counted: int, own: dict[str, str]) -> None:
    """A new machine of a state: its file systems are clean, its files of that moment.

    Args:
        own: the facts of the machine that was archived, none of which are those of this one; {}: do not boot.
    """
    vm.ok("restore", name, "../twin")
    twin = Vm(vm.world, vm.world.home / "twin")
    for disk, folder in (("twin-backing.qcow2", "/home/qvm"), (DATA, "")):
        names = names_off(twin, disk, folder)
        assert names & {"before", "during", "after"} == set(words), (disk, names)
        assert text_off(twin, disk, f"{folder}/before") == ["before\n"]
    assert 0 < int(text_off(twin, "twin-backing.qcow2", "/home/qvm/n")[0]) <= counted
    if own:
        twin.start()
        try:
            found = facts(twin)
            assert (found["name"], twin.ok("ssh", "cat during").out) == ("twin", "during\n")
            assert {key for key in own if found[key] == own[key]} == set()
            assert "powered off" in twin.ok("stop").out
        finally:
            twin.kill()
        check_images(twin, "twin-base.qcow2", "twin-backing.qcow2", DATA)
    shutil.rmtree(twin.directory)


def test_archive_on_another_host_by_ssh(guest_with_data: Vm, tmp_path: Path) -> None:
    """The other host is a guest; ssh is the user's own, with the user's own configuration."""
    host = guest_with_data
    boot(host)
    report = json.loads(host.ok("--json", "status", "-s").out)
    there = host.ok("ssh", "pwd").out.strip()
    home = tmp_path / "user"
    home.mkdir()
    key = home / "key"
    shutil.copy(host.directory / ".qvm/id_ed25519", key)
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
    world: World = host.world
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
    host.ok("ssh", 'rm "a store"/*/far-base.qcow2')
    assert "is missing" in vm.qvm("archive", "--verify", env=env).err
    refused = vm.qvm("--set", "VM_ARCHIVE=ssh://nobody@127.0.0.1:1/x", "archive", env=env)
    assert refused.status == 1
    assert "ssh://nobody@127.0.0.1:1/x cannot be used" in refused.err
    left = host.ok("ssh", 'find "a store" -name "*.part*"').out
    assert not left
