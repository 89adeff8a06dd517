"""`qvm snapshot` with a real guest of two disks: what it wrote before, during and after."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time

import pytest
from conftest import Vm

pytestmark = pytest.mark.guest


def clock_error_s(vm: Vm) -> float:
    """How far the guest's clock is from the host's, whatever time the question took."""
    before = time.time()
    told = float(vm.ok("ssh", "date +%s").out)
    return max(0.0, before - told - 1.0, told - time.time())


def sound(vm: Vm) -> None:
    for disk in ("demo-backing.qcow2", "data.qcow2"):
        done = subprocess.run(["qemu-img", "check", "-q", disk], cwd=vm.directory)
        assert done.returncode in (0, 3)


@pytest.fixture
def vm(guest: Vm) -> Vm:
    run = {"cwd": guest.directory, "check": True}
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "data.raw", "64M"], **run)  # type: ignore[call-overload]
    argv = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "data.raw", "data.qcow2"]
    subprocess.run(argv, **run)  # type: ignore[call-overload]
    guest.ok("disk", "add", "data.qcow2")
    return guest


def fsck(vm: Vm) -> str:
    """What e2fsck finds on the data disk of a machine that is off; it must be clean."""
    raw = vm.directory / "data.raw"
    argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", "data.qcow2", raw.name]
    subprocess.run(argv, cwd=vm.directory, check=True)
    done = subprocess.run(["e2fsck", "-f", "-n", raw.name], cwd=vm.directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


MOUNT = "sudo -n sh -c 'mkdir -p /mnt/d; mount /dev/vdb /mnt/d && chmod 777 /mnt/d'"


def test_two_disks_memory_and_clock_come_back_in_the_same_process(vm: Vm) -> None:
    vm.start()
    vm.ok("ssh", MOUNT)
    vm.ok("ssh", "echo before > /mnt/d/file; echo before > file; echo kept > /tmp/memory; sync")
    # somebody writes all the time: the snapshot is of one moment for both disks
    writer = "i=0; while :; do i=$((i+1)); echo $i > /mnt/d/count; echo $i > /tmp/count; done"
    vm.ok("ssh", f"({writer}) >/dev/null 2>&1 & echo $! > /tmp/writer")
    pid = vm.pid
    saved = vm.ok("snapshot", "save", "ready", "-m", "with a writer")
    assert "2 disks" in saved.out
    vm.ok("ssh", "echo after > /mnt/d/file; echo after > file; sync; echo gone > /tmp/memory")
    time.sleep(5)
    told = vm.ok("snapshot", "restore", "ready").out
    assert "(2 disks and the memory)" in told
    assert "clock" in told
    assert vm.pid == pid
    assert vm.ok("ssh", "cat /mnt/d/file file /tmp/memory").out == "before\nbefore\nkept\n"
    assert clock_error_s(vm) < 5
    vm.ok("ssh", "kill $(cat /tmp/writer); echo later > /mnt/d/later; sync; sudo -n umount /mnt/d")
    assert (
        "clean" in vm.ok("ssh", "sudo -n e2fsck -f -y /dev/vdb >/tmp/f 2>&1; echo $? clean; cat /tmp/f").out
    )
    # the disks alone, frozen for the moment, restored while it is off, booted
    vm.ok("ssh", f"{MOUNT}; echo disks > /mnt/d/file; echo disks > file")
    told = vm.ok("snapshot", "save", "disks", "--disk-only").out
    assert "file systems frozen" in told
    vm.ok("ssh", "echo gone > /mnt/d/file; echo gone > file; sync; sudo -n rm -r /mnt/d/later")
    vm.ok("stop")
    vm.ok("snapshot", "restore", "disks")
    assert "journal recovery" not in fsck(vm)  # frozen means written out
    vm.start()
    vm.ok("ssh", MOUNT)
    assert vm.ok("ssh", "cat /mnt/d/file file /mnt/d/later").out == "disks\ndisks\nlater\n"
    vm.ok("stop")
    fsck(vm)
    sound(vm)


@pytest.mark.parametrize("machine", ["pc", pytest.param("q35", marks=pytest.mark.long)])
def test_sleeping_guest_is_saved_so_that_it_comes_back(guest: Vm, machine: str) -> None:
    guest.set(VM_QEMU_MACHINE=machine)
    guest.start()
    guest.ok("ssh", "echo kept > /tmp/memory")
    guest.ok("suspend")
    told = guest.ok("snapshot", "save", "asleep").out
    if "the guest slept, and is awake now" not in told:  # QEMU 9.0 and later save it asleep
        guest.ok("wakeup")
    guest.ok("ssh", "echo gone > /tmp/memory")
    guest.ok("snapshot", "restore", "asleep")
    assert guest.ok("ssh", "cat /tmp/memory").out == "kept\n"
    assert clock_error_s(guest) < 5
    guest.ok("kill")
    guest.ok("start", "--loadvm", "asleep")
    assert guest.ok("ssh", "cat /tmp/memory").out == "kept\n"
    guest.ok("suspend")  # and it can sleep again
    guest.ok("wakeup")


def test_trim_through_the_guest_gives_room_back(vm: Vm) -> None:
    vm.start()
    vm.ok("ssh", MOUNT)
    vm.ok("ssh", "dd if=/dev/urandom of=/mnt/d/big bs=1M count=24 2>/dev/null; sync; rm /mnt/d/big; sync")
    found = json.loads(vm.ok("disk", "trim", "--json").out)
    assert found["by"] == "the guest agent"
    row = next(row for row in found["disks"] if row["id"] == "disk1")
    assert row["before_bytes"] - row["after_bytes"] > 16 << 20
    vm.ok("disk", "resize", "disk1", "128M")  # and a running guest sees its new size at once
    assert vm.ok("ssh", "cat /sys/block/vdb/size").out == f"{128 << 11}\n"


SEED = int(os.environ.get("QVM_TEST_SEED", "20261121"))


def both(vm: Vm) -> list[str]:
    """What stands on the system's disk and on the data disk, in the guest."""
    vm.ok("ssh", f"[ -e /mnt/d/turn ] || {MOUNT}")
    return vm.ok("ssh", "cat turn /mnt/d/turn").out.split()


def check_killed(vm: Vm, count: int) -> None:
    """`kill -9` of qvm, QEMU, or both at random moments of a save or a restore."""
    chooser = random.Random(f"{SEED} guest {count}")
    vm.start()
    vm.ok("ssh", MOUNT)
    vm.ok("ssh", "echo base > turn; echo base > /mnt/d/turn; sync; echo base > /tmp/memory")
    vm.ok("snapshot", "save", "base")
    for turn in range(count):
        verb, victim = chooser.choice(["save", "restore"]), chooser.choice(["qvm", "qemu", "both"])
        seconds = chooser.uniform(0.05, 1.0)
        print(f"seed {SEED}: snapshot {verb} with {victim} killed after {seconds:.3f} s")
        vm.ok("ssh", f"echo {turn} > turn; echo {turn} > /mnt/d/turn; sync; echo {turn} > /tmp/memory")
        qemu = vm.pid
        words = ["save", f"s{turn}"] if verb == "save" else ["restore", "base", "--no-wait"]
        child = vm.world.popen("snapshot", *words, cwd=vm.directory)
        time.sleep(seconds)
        if victim != "qemu":
            child.kill()
        if victim != "qvm":
            with contextlib.suppress(ProcessLookupError):
                os.kill(qemu, signal.SIGKILL)
        child.communicate(timeout=120)
        vm.ok("doctor", "--fix")
        if vm.qvm("status", "-s").status == 0:
            assert vm.pid == qemu
            found = both(vm)
            assert vm.ok("ssh", "cat /tmp/memory").out.split() == found[:1]  # of the same moment
            vm.ok("kill")
        sound(vm)
        vm.start()  # it boots from its disks
        found = both(vm)
        assert found in ([str(turn)] * 2, ["base"] * 2), found
        listed = json.loads(vm.ok("snapshot", "list", "--json").out)["snapshots"]
        assert not [row for row in listed if row["missing"]]
        vm.ok("snapshot", "restore", "base")
        assert both(vm) == ["base", "base"]
        assert vm.ok("ssh", "cat /tmp/memory").out == "base\n"
    vm.ok("ssh", "sync; sudo -n umount /mnt/d")
    vm.ok("stop")
    fsck(vm)
    sound(vm)


def test_killed_at_random_the_guest_comes_back_with_data_of_one_moment(vm: Vm) -> None:
    check_killed(vm, 3)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_at_random_the_guest_comes_back_with_data_of_one_moment_long(vm: Vm) -> None:
    check_killed(vm, 20)
