"""`qvm snapshot` with a real guest of two disks: what it wrote before, during and after."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.support.disks import check_images
from tests.support.guest_writer import MOUNT, boot, text_off
from tests.support.killer import Killer
from tests.support.pty_terminal import PtyTerminal
from tests.support.world import DEADLINE_S, Vm, World

pytestmark = pytest.mark.guest


@pytest.fixture
def vm(guest_with_data: Vm) -> Vm:
    return guest_with_data


def fsck(vm: Vm) -> str:
    """What e2fsck finds on the data disk of a machine that is off; it must be clean."""
    raw = vm.directory / "data.raw"
    argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", "data.qcow2", raw.name]
    subprocess.run(argv, cwd=vm.directory, check=True)
    done = subprocess.run(["e2fsck", "-f", "-n", raw.name], cwd=vm.directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_restore_of_disks_memory_and_clock_keeps_the_process(vm: Vm) -> None:
    boot(vm)
    vm.ok("ssh", "echo before > /mnt/d/file; echo before > file; echo kept > /tmp/memory; sync")
    vm.ok("ssh", "sudo -n date -s @$(( $(date +%s) - 7200 ))")  # as if it had been saved two hours ago
    # the guest writes all the time: the snapshot is of one moment for both disks
    writer = "i=0; while :; do i=$((i+1)); echo $i > /mnt/d/count; echo $i > /tmp/count; done"
    vm.ok("ssh", f"({writer}) >/dev/null 2>&1 & echo $! > /tmp/writer")
    pid = vm.pid
    saved = vm.ok("snapshot", "save", "ready", "-m", "with a writer")
    assert "2 disks" in saved.out
    vm.ok("ssh", "echo after > /mnt/d/file; echo after > file; sync; echo gone > /tmp/memory")
    output = vm.patiently("snapshot", "restore", "ready").out
    assert "(2 disks and the memory)" in output
    assert re.search(r"; clock was 7\d\d\d s behind, set by (the guest agent|ssh)", output)
    assert vm.pid == pid
    assert vm.ok("ssh", "cat /mnt/d/file file /tmp/memory").out == "before\nbefore\nkept\n"
    assert vm.clock_error_s() < 5
    vm.ok("ssh", "kill $(cat /tmp/writer); echo later > /mnt/d/later; sync; sudo -n umount /mnt/d")
    assert (
        "clean" in vm.ok("ssh", "sudo -n e2fsck -f -y /dev/vdb >/tmp/f 2>&1; echo $? clean; cat /tmp/f").out
    )
    # the disks alone, frozen for the moment, restored while it is off
    vm.ok("ssh", f"{MOUNT}; echo disks > /mnt/d/file; echo disks > file")
    output = vm.patiently("snapshot", "save", "disks", "--disk-only").out
    assert "file systems frozen" in output
    vm.ok("ssh", "echo gone > /mnt/d/file; echo gone > file; sync; sudo -n rm -r /mnt/d/later")
    vm.ok("stop")
    vm.ok("snapshot", "restore", "disks")
    assert "journal recovery" not in fsck(vm)  # frozen means written out
    assert text_off(vm, "data.qcow2", "/file", "/later") == ["disks\n", "later\n"]
    assert text_off(vm, "demo-backing.qcow2", "/home/qvm/file") == ["disks\n"]
    check_images(vm, "demo-backing.qcow2", "data.qcow2")


def check_sleeping(guest: Vm) -> None:
    guest.ok("ssh", "echo kept > /tmp/memory")
    guest.ok("suspend")
    output = guest.ok("snapshot", "save", "asleep").out
    if "the guest was suspended, and is awake now" not in output:  # QEMU 9.0 and later save it asleep
        guest.ok("wakeup")
    guest.ok("ssh", "echo gone > /tmp/memory")
    guest.ok("snapshot", "restore", "asleep")
    assert guest.ok("ssh", "cat /tmp/memory").out == "kept\n"
    assert guest.clock_error_s() < 5
    guest.ok("kill")
    guest.ok("start", "--loadvm", "asleep")
    assert guest.ok("ssh", "cat /tmp/memory").out == "kept\n"
    guest.ok("suspend")  # and it can sleep again
    guest.ok("wakeup")


def test_sleeping_guest_is_saved_so_that_it_comes_back(vm: Vm) -> None:
    boot(vm)
    check_sleeping(vm)


@pytest.mark.long
def test_sleeping_guest_on_q35_is_saved_so_that_it_comes_back(guest: Vm) -> None:
    guest.set(VM_QEMU_MACHINE="q35")
    guest.start()
    check_sleeping(guest)


def test_trim_through_the_guest_frees_space(vm: Vm) -> None:
    boot(vm)
    vm.ok("ssh", "dd if=/dev/urandom of=/mnt/d/big bs=1M count=24 2>/dev/null; sync; rm /mnt/d/big; sync")
    found = json.loads(vm.ok("disk", "trim", "--json").out)
    assert found["by"] in ("the guest agent", "fstrim over ssh")
    row = next(row for row in found["disks"] if row["id"] == "disk1")
    assert row["before_bytes"] - row["after_bytes"] > 16 << 20
    vm.ok("disk", "resize", "disk1", "128M")  # and a running guest sees its new size at once
    assert vm.ok("ssh", "cat /sys/block/vdb/size").out == f"{128 << 11}\n"


def test_restore_while_paused_sets_the_clock_when_resumed(vm: Vm) -> None:
    boot(vm)
    vm.ok("ssh", "echo kept > /tmp/memory; sudo -n date -s @$(( $(date +%s) - 7200 ))")
    vm.ok("snapshot", "save", "a")
    vm.ok("ssh", "echo gone > /tmp/memory")
    vm.ok("pause")
    output = vm.ok("snapshot", "restore", "a").out
    assert "`qvm resume` resumes it and sets its clock" in output
    assert vm.qvm("status", "-s").out.startswith("demo: paused")
    output = vm.patiently("resume").out
    assert re.match(r"demo: resumed; clock was 7\d\d\d s behind, set by ", output)
    assert vm.ok("ssh", "cat /tmp/memory").out == "kept\n"
    assert vm.clock_error_s() < 5
    vm.ok("pause")
    assert not re.search(r"clock was \d{3,}", vm.ok("resume").out)  # this time it was held for a moment


@pytest.mark.long
def test_much_memory_is_seen_while_it_is_saved_and_read(world: World, tiny: str) -> None:
    """1 GiB, of which 700 MiB are noise: how much and how fast, on a terminal."""
    made = world.run("create", "demo", "--image", "tiny", "--mem", "1024")
    assert made.status == 0, str(made)
    vm = Vm(world, world.home / "demo")
    vm.start()
    try:
        noise = "dd if=/dev/urandom of=/mnt/r/x bs=1M count=700 2>/dev/null; md5sum /mnt/r/x > /tmp/sum"
        vm.ok("ssh", f"sudo -n sh -c 'mkdir -p /mnt/r; mount -t tmpfs -o size=750m none /mnt/r; {noise}'")
        terminal = PtyTerminal(vm, "snapshot", "save", "big")
        assert terminal.end() == 0
        shown = [float(part) for part in re.findall(r"saving big: ([\d.]+) MiB written, ", terminal.text)]
        print(f"seen while it was saved: {shown}")
        assert len(shown) >= 2
        assert shown == sorted(shown)
        assert vm.clock_error_s() < 3  # it stood still for all that time
        terminal = PtyTerminal(vm, "snapshot", "restore", "big")
        assert terminal.end() == 0
        assert re.search(r"keeping the current state: [\d.]+ MiB written, ", terminal.text)
        assert re.search(r"restoring big: \d+ %", terminal.text)
        assert vm.ok("ssh", "md5sum /mnt/r/x | cmp - /tmp/sum && echo same").out == "same\n"
    finally:
        vm.kill()


def asked(vm: Vm, command: str) -> list[str]:
    """What the guest says; it is woken where it went to sleep after all, as a killed verb had asked it to."""
    for _ in range(5):
        try:
            result = vm.qvm("ssh", command, timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:  # asleep under the question
            result = None
        if result is not None and result.status == 0:
            return result.out.split()
        assert vm.qvm("status", "-s").out.startswith("demo: suspended"), result
        vm.ok("wakeup")
    raise AssertionError("the guest falls asleep again and again")


def both(vm: Vm) -> list[str]:
    """What is on the system's disk and on the data disk, in the guest."""
    asked(vm, f"[ -e /mnt/d/turn ] || {MOUNT}")
    return asked(vm, "cat turn /mnt/d/turn")


def both_off(vm: Vm) -> list[str]:
    """The same of a machine that is off."""
    disks = {"demo-backing.qcow2": "/home/qvm/turn", "data.qcow2": "/turn"}
    return [text_off(vm, disk, path, is_clean=False)[0].strip() for disk, path in disks.items()]


def check_killed(vm: Vm, count: int) -> None:
    """`kill -9` of qvm, QEMU, or both at random moments of a save, a restore, or a `stop --savevm`."""
    vm.set(VM_MACHINE_CPUS="1")  # on a busy host tcg may starve the timers of a second one
    killer = Killer(vm, "snapshots of a guest")
    boot(vm)
    vm.ok("ssh", "echo base > turn; echo base > /mnt/d/turn; sync; echo base > /tmp/memory")
    vm.ok("snapshot", "save", "base")
    for turn in range(count):
        verb = killer.chooser.choice(["save", "restore", "savevm"])
        victim = killer.chooser.choice(["qvm", "qemu", "both"])
        name = f"s{turn}"
        vm.ok("ssh", f"echo {turn} > turn; echo {turn} > /mnt/d/turn; sync; echo {turn} > /tmp/memory")
        qemu = vm.pid
        print(f"{verb}: ", end="")
        words = {
            "save": ["snapshot", "save", name],
            "restore": ["snapshot", "restore", "base", "--no-wait"],
            "savevm": ["stop", "--savevm", name],
        }
        killer.kill(victim, *words[verb])
        vm.ok("doctor", "--fix")
        if vm.qvm("status", "-s").out.startswith("demo: suspended"):  # asked to sleep before the kill
            vm.ok("wakeup")
        if vm.qvm("status", "-s").status == 0:
            assert vm.pid == qemu
            found = both(vm)
            assert asked(vm, "cat /tmp/memory") == found[:1]  # of the same moment
            vm.ok("kill")
        check_images(vm, "demo-backing.qcow2", "data.qcow2")
        found = both_off(vm)
        assert found in ([str(turn)] * 2, ["base"] * 2), found
        listed = json.loads(vm.ok("snapshot", "list", "--json").out)["snapshots"]
        assert not [row for row in listed if row["missing"]]
        if name in [row["name"] for row in listed]:  # it is whole: this turn's memory and disks
            vm.ok("start", "--loadvm", name)
            assert [*both(vm), *asked(vm, "cat /tmp/memory")] == [str(turn)] * 3
        else:
            vm.ok("start", "--loadvm", "base")
        vm.ok("snapshot", "restore", "base")
        assert both(vm) == ["base", "base"]
        assert vm.ok("ssh", "cat /tmp/memory").out == "base\n"
    vm.ok("ssh", "sync; sudo -n umount /mnt/d")
    vm.ok("stop")
    fsck(vm)
    check_images(vm, "demo-backing.qcow2", "data.qcow2")
    if count > 10:
        killer.require_hits()


def test_snapshot_killed_at_random_keeps_data_of_one_moment(vm: Vm) -> None:
    check_killed(vm, 1)


@pytest.mark.long
def test_snapshot_killed_at_random_keeps_data_of_one_moment_long(vm: Vm) -> None:
    check_killed(vm, 20)
