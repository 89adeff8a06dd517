"""`archive`, `archive --create` and `restore` of a guest that is off, killed at any moment.

The seed is printed; QVM_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time

import pytest

from tests.support.archives import make_frozen_archive
from tests.support.disks import check_images
from tests.support.guest_moments import held, messages, next_command, note_of, require_nothing_under_way
from tests.support.guest_writer import UMOUNT, Writer, align, boot, fsck_both, look_off
from tests.support.killer import ROUNDS
from tests.support.world import DEADLINE_S, Vm

pytestmark = [pytest.mark.guest]

SEED = int(os.environ.get("QVM_TEST_SEED", "20261124"))
USUAL = 1
VERBS = {
    "archive": ["archive"],
    "compressed": ["archive", "-z", "zstd"],
    "create": ["archive", "--create"],
    "restore": ["restore", "--force", "OLD"],
    "restore new": ["restore", "OLD", "../fresh"],
}
MOST_S = 0.35
"""What each takes here when nothing else runs, from its first step on, and somewhat more."""


def write(vm: Vm, count: int) -> int:
    """Let the guest count from where it stands; the number on both disks."""
    writer = Writer(vm, count)
    writer.more(5)
    return align(vm, writer.end())


def power_off(vm: Vm) -> None:
    vm.ok("ssh", UMOUNT)
    vm.ok("stop")


def archive_and_go_on(vm: Vm) -> tuple[str, int, int]:
    """An archived state of the running guest, its number, and the greater one with which the guest is off."""
    boot(vm)
    old = write(vm, 0)
    report = make_frozen_archive(vm)
    there = write(vm, old)
    power_off(vm)
    return f"{report['archive']}/{report['stamp']}", old, there


def is_at_work(vm: Vm, pid: int) -> bool:
    """It has the machine's work lock, or has begun a new machine."""
    words = (vm.directory / ".qvm/work.lock").read_text().split()
    return words[:1] == [str(pid)] or any(vm.world.home.glob(".fresh.part-*"))


def killed(vm: Vm, chooser: random.Random, *words: str) -> bool:
    """Run a command and kill it, alone or with the programs that it began; True if it leaves a journal."""
    is_group, seconds = chooser.random() < 0.5, chooser.uniform(0, MOST_S)
    print(f"  killed {'with its children' if is_group else 'alone'}, {seconds:.3f} s after its first step")
    child = vm.world.popen(*words, cwd=vm.directory, start_new_session=True)
    while child.poll() is None and not is_at_work(vm, child.pid):
        time.sleep(0.001)
    time.sleep(seconds)
    if child.poll() is None and is_group:
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    out, err = child.communicate(timeout=DEADLINE_S)
    assert "Traceback" not in err, err
    print(f"  it said: {(out + err).strip()}")
    return bool(note_of(vm))


def check_off(vm: Vm, verbs: list[str], count: int) -> None:
    chooser = random.Random(f"{SEED} off {verbs} {count}")
    name, old, there = archive_and_go_on(vm)
    for turn in range(count):
        if turn:
            boot(vm)
            there = write(vm, there)
            power_off(vm)
        fsck_both(vm)
        verb = chooser.choice(verbs)
        words = [name if word == "OLD" else word for word in VERBS[verb]]
        print(f"seed {SEED}: turn {turn}: {' '.join(words)}; the guest is at {there}, {name} at {old}")
        has_left = killed(vm, chooser, *words)
        ways = [["start", "--no-wait"], ["doctor", "--fix"], ["archive"], ["restore", "--force", name]]
        following = chooser.choice(ways)
        print(f"  next: {' '.join(following)}")
        result = next_command(vm, *following)
        output = messages(result)
        print(f"  {output.strip()}")
        if has_left:
            assert "was interrupted, and " in output, output
        require_nothing_under_way(vm)
        assert not [each.name for each in vm.world.home.iterdir() if ".part" in each.name]
        allowed = [there, old] if verb == "restore" else [there]
        there = require_one_of(vm, [old] if following[0] == "restore" else allowed)
        if verb == "restore new":
            check_new(vm, name, old, is_booted=count > USUAL)
    vm.ok("archive")
    for folder in vm.directory.glob("demo-*/"):
        assert "is good" in vm.ok("archive", "--verify", folder.name).out
    check_new(vm, "latest", there, is_booted=count > USUAL)


def require_one_of(vm: Vm, allowed: list[int]) -> int:
    """Both disks are whole and have one of these numbers; the machine is off afterwards."""
    is_on = vm.qvm("status", "-s").status == 0
    if is_on:
        vm.ok("kill")
    check_images(vm)
    found = [each.count for each in look_off(vm, is_clean=not is_on)]
    assert found in [[each] * 2 for each in allowed], (found, allowed)
    return found[0]


def check_new(vm: Vm, name: str, count: int, *, is_booted: bool) -> None:
    """A new machine of an archived state: whole, or not there at all; what a killed one left goes."""
    fresh = Vm(vm.world, vm.world.home / "fresh")
    if not fresh.directory.exists():
        vm.ok("restore", name, "../fresh")
    assert not [each.name for each in vm.world.home.iterdir() if ".part" in each.name]
    check_images(fresh, "fresh-base.qcow2", "fresh-backing.qcow2", "data.qcow2")
    assert [each.count for each in look_off(fresh, "fresh")] == [count] * 2
    if is_booted:
        try:
            fresh.start()
            fresh.ok("stop")
        finally:
            fresh.kill()
    shutil.rmtree(fresh.directory)


def test_archive_and_restore_off_survive_random_kills(vm: Vm) -> None:
    check_off(vm, list(VERBS), USUAL)


@pytest.mark.long
@pytest.mark.parametrize("verb", VERBS)
def test_archive_and_restore_off_survive_random_kills_long(vm: Vm, verb: str) -> None:
    check_off(vm, [verb], ROUNDS)


def test_restore_killed_between_two_disks_is_completed(vm: Vm) -> None:
    """All is ready, one disk has its new file already, the other one not: never a mixture."""
    name, old, _ = archive_and_go_on(vm)
    words = ["restore", "--force", name]
    child = held(vm, lambda now: bool(now.note.get("is_ready")), *words, tries=20, step_s=0.0004)
    child.kill()
    child.communicate()
    pairs = note_of(vm)["swap"]
    left = [pair for pair in pairs if (vm.directory / pair[0]).exists()]
    print(f"  {len(left)} of {len(pairs)} were to be renamed")
    if len(left) == len(pairs):  # the kill came just before the first one
        (vm.directory / left[0][0]).rename(vm.directory / left[0][1])
    errors = vm.ok("start", "--no-wait").err
    assert "the restore, begun " in errors
    assert " was interrupted, and was completed" in errors
    require_nothing_under_way(vm)
    assert require_one_of(vm, [old]) == old
