"""`archive` beside another command on the same guest, which writes all the time: both end well.

The seed is printed; QVM_TEST_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time

import pytest

from tests.support.disks import check_images
from tests.support.guest_moments import held, require_nothing_under_way, wait_for_end
from tests.support.guest_writer import UMOUNT, Writer, align, boot, look, look_off, require_numbers_off
from tests.support.world import Vm

pytestmark = [pytest.mark.guest]

SEED = int(os.environ.get("QVM_TEST_SEED", "20261125"))
ARCHIVE, STOP, SAVE = ["archive", "--full"], ["stop"], ["snapshot", "save", "beside"]
POWEROFF = ["ssh", "sudo -n poweroff"]
PAIRS = {
    "archive and stop": (ARCHIVE, STOP),
    "archive and archive": (ARCHIVE, ["archive"]),
    "archive and snapshot": (ARCHIVE, SAVE),
    "snapshot and archive": (SAVE, ARCHIVE),
    "stop and archive": (STOP, ARCHIVE),
    "archive and kill": (ARCHIVE, ["kill"]),
    "archive and the guest's own poweroff": (ARCHIVE, POWEROFF),
}
USUAL = ["archive and archive", "stop and archive"]
"""None needs a boot; of the others one moment each is below, and that of `kill` in `test_killed.py`."""
ENDS = (STOP, ["kill"], POWEROFF)
MOST_S = 1.2
REFUSALS = ("is working on it", "it is stopped", "it is crashed", "is already", "cannot archive: QEMU ended")


def ended_well(words: list[str], child: subprocess.Popen[str]) -> bool:
    """True if it did what it should, False if it was refused, in words."""
    out, err = child.communicate(timeout=240)
    print(f"  {' '.join(words)} [{child.returncode}]: {(out + err).strip()}")
    assert "Traceback" not in err, err
    if words == POWEROFF:
        return True  # the connection goes down with the guest
    if child.returncode == 0:
        return True
    assert any(each in err for each in REFUSALS), err
    assert "hint: " in err, err
    return False


def check_pair(vm: Vm, chooser: random.Random, writer: Writer, name: str) -> None:
    """Two commands at once; then the guest writes, or the machine is off."""
    pair, seconds = PAIRS[name], chooser.uniform(0.0, MOST_S)
    print(f"seed {SEED}: {name}, the second one {seconds:.3f} s later")
    before, qemu = writer.acked, vm.pid
    first = vm.world.popen(*pair[0], cwd=vm.directory)
    time.sleep(seconds)
    second = vm.world.popen(*pair[1], cwd=vm.directory)
    done = [ended_well(words, child) for words, child in zip(pair, (first, second), strict=True)]
    assert any(done)
    if POWEROFF in pair:  # asked; now it does so
        wait_for_end(qemu)
    after = writer.acked
    is_off = vm.qvm("status", "-s").status != 0
    assert is_off == any(words in ENDS and is_done for words, is_done in zip(pair, done, strict=True))
    require_nothing_under_way(vm)
    if not is_off:
        writer.more()
    if any(words == SAVE and is_done for words, is_done in zip(pair, done, strict=True)):
        check_snapshot(vm, writer, before, after)


def check_snapshot(vm: Vm, writer: Writer, before: int, after: int) -> None:
    """The snapshot is of one moment; the machine is off afterwards, and as it was."""
    last = writer.end()
    vm.ok("ssh", UMOUNT)
    vm.ok("stop")
    vm.ok("snapshot", "save", "present")
    vm.ok("snapshot", "restore", "beside")
    boot(vm)
    found = look(vm)
    assert all(before <= each.count <= after + 2 for each in found), (before, after, found)
    vm.ok("stop")
    vm.ok("snapshot", "restore", "present")
    vm.ok("snapshot", "delete", "beside")
    vm.ok("snapshot", "delete", "present")
    assert last >= after


def check_pairs(vm: Vm, names: list[str]) -> None:
    chooser = random.Random(f"{SEED} {len(names)}")
    boot(vm)
    writer = Writer(vm)
    vm.ok("archive")
    for name in names:
        if vm.qvm("status", "-s").status != 0:
            acked = writer.lost()
            boot(vm)
            writer = Writer(vm, align(vm, acked))
        check_pair(vm, chooser, writer, name)
    require_off_without_loss(vm, writer)  # the last pair ends it, in order
    for folder in vm.directory.glob("demo-*/"):
        assert "is good" in vm.ok("archive", "--verify", folder.name).out


def require_off_without_loss(vm: Vm, writer: Writer) -> None:
    if vm.qvm("status", "-s").status == 0:  # on a busy host `stop` may come too late, and is refused
        vm.ok("stop")
    acked = writer.lost()
    check_images(vm)
    require_numbers_off(vm, acked)


def test_archive_beside_each_other_command_both_end_well(vm: Vm) -> None:
    check_pairs(vm, USUAL)


@pytest.mark.long
def test_archive_beside_each_other_command_both_end_well_long(vm: Vm) -> None:
    check_pairs(vm, list(PAIRS))


def held_in_its_copy(vm: Vm) -> subprocess.Popen[str]:
    """A whole `archive`, so that no chance decides what it is doing."""
    return held(vm, lambda now: now.is_cut and not now.note["is_frozen"] and not now.join, "--json", *ARCHIVE)


def test_stop_during_an_archive_is_refused_until_it_ends(vm: Vm) -> None:
    """The state that it then makes is of one moment. What the guest does itself cannot be refused."""
    boot(vm)
    writer = Writer(vm)
    vm.ok("archive")
    before = writer.more()
    child = held_in_its_copy(vm)
    after = writer.acked
    for words in (STOP, ["archive"], SAVE, ["stop", "--savevm", "x"], ["disk", "commit"]):
        refused = vm.qvm(*words)
        assert refused.status == 3, str(refused)
        assert f"`qvm archive`, pid {child.pid}, since " in refused.err
        assert "hint: wait for it to end" in refused.err
    writer.more()
    child.send_signal(signal.SIGCONT)
    out, err = child.communicate(timeout=200)
    assert child.returncode == 0, err
    report = json.loads(out)
    require_nothing_under_way(vm)
    writer.more()
    child, qemu = held_in_its_copy(vm), vm.pid
    writer.more()
    vm.qvm(*POWEROFF)
    wait_for_end(qemu)
    child.send_signal(signal.SIGCONT)
    ended_well(ARCHIVE, child)
    require_nothing_under_way(vm)
    require_off_without_loss(vm, writer)
    vm.ok("restore", f"{report['archive']}/{report['stamp']}", "../twin")
    twin = Vm(vm.world, vm.world.home / "twin")
    found = look_off(twin, "twin", is_clean=report["consistency"] == "frozen")  # the agent may be too slow
    assert all(before <= each.count <= after + 1 for each in found), (before, after, found)
