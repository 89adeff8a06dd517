"""`archive` and `restore` of a real guest that writes all the time, killed at any moment.

After it the next command says what was under way and completes it, the guest goes on writing, all that it
has told the host is on its two disks after a power cut, and every archived state is of one moment.
The seed is printed; QVM_TEST_SEED repeats a run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.support.disks import check_images
from tests.support.guest_moments import (
    Seen,
    held,
    messages,
    next_command,
    note_of,
    require_nothing_under_way,
    wait_for_end,
)
from tests.support.guest_writer import (
    UMOUNT,
    Writer,
    align,
    boot,
    fsck_both,
    look,
    look_off,
    require_numbers,
    require_numbers_off,
)
from tests.support.killer import ROUNDS
from tests.support.world import Vm

pytestmark = [pytest.mark.guest]

SEED = int(os.environ.get("QVM_TEST_SEED", "20261123"))
VERBS = {
    "full": (["archive", "--full"], 0.8),
    "changes": (["archive"], 0.7),
    "zstd": (["archive", "-z", "zstd"], 0.7),
    "savevm": (["archive", "--savevm", "live"], 1.0),
}
"""What each verb takes here when nothing else runs, and somewhat more."""
VICTIMS = ["qvm", "qemu", "both"]


class Machine:
    """The guest under test, and what is known of it and of its archives."""

    def __init__(self, vm: Vm, chooser: random.Random) -> None:
        self.vm = vm
        self.chooser = chooser
        boot(vm)
        self.writer = Writer(vm)
        self.bounds: dict[str, tuple[int, int, bool]] = {}
        """Of each archived state: what had been printed before and after, and whether it was frozen."""
        self.of_killed: list[str] = []
        """Those of them whose QEMU was killed while they were made."""

    def archive(self, *words: str) -> dict[str, Any]:
        before = self.writer.acked
        report: dict[str, Any] = json.loads(self.vm.ok("--json", "archive", *words).out)
        name = f"{report['archive']}/{report['stamp']}"
        self.bounds[name] = (before, self.writer.acked, report["consistency"] == "frozen")
        return report

    def kill(self, victim: str, child: Any, before: int) -> str:
        """Kill qvm, QEMU, or both; return what qvm printed, if it could.

        Args:
            before: what the guest had printed when the command began.
        """
        pid = self.vm.pid
        if victim in ("qvm", "both"):
            child.kill()
        if victim in ("qemu", "both"):
            os.kill(pid, signal.SIGKILL)
        if victim == "quit":  # in order, as far as QEMU can while its disks are at work
            self.vm.ok("kill")
        if victim in ("qemu", "quit"):
            child.send_signal(signal.SIGCONT)
        out, err = child.communicate(timeout=200)
        assert "Traceback" not in err, err
        assert child.returncode in (0, -signal.SIGKILL) or "\nhint: " in err, err
        if victim != "qvm":
            wait_for_end(pid)
            self.writer.lost()
        for line in out.splitlines():
            if ": archived as " in line:
                name = line.partition(": archived as ")[2].partition(":")[0]
                self.bounds[name] = (before, self.writer.acked, "(guest frozen " in line)
                self.of_killed.append(name)
        return str(out + err)

    def goes_on(self, was_under_way: bool) -> str:
        """The next command while the guest still runs: it reports, completes, and the guest writes."""
        vm = self.vm
        ways = [["archive"], ["doctor", "--fix"], ["pause"], ["snapshot", "save", "next"]]
        words = self.chooser.choice(ways)
        print(f"  next: {' '.join(words)}")
        output = messages(next_command(vm, *words))
        assert "Traceback" not in output
        if was_under_way:
            assert "was interrupted: " in output or "begun " in output, output
        if words == ["pause"]:
            vm.ok("resume")
        require_nothing_under_way(vm)
        assert "running" in vm.ok("status").out
        self.writer.more()
        vm.ok("ssh", "true")
        if "snapshot" in words:
            vm.ok("snapshot", "delete", "next")
        return output

    def lose_power(self) -> None:
        pid = self.vm.pid
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
        self.writer.lost()

    def comes_back(self, was_under_way: bool, *, is_booted: bool = True) -> str:
        """The next command after QEMU's end, and the boot: all that was printed is there.

        Args:
            is_booted: False: it is ended as it begins to boot, and the disks are looked at as they are.
        """
        vm, acked = self.vm, self.writer.acked
        words = self.chooser.choice([["start"], ["doctor", "--fix"], ["archive"]])
        print(f"  next: {' '.join(words)}, told {acked}")
        output = ""
        if words != ["start"]:
            output = messages(next_command(vm, *words))
            require_nothing_under_way(vm)
        if is_booted:
            output += boot(vm)
        else:
            output += vm.ok("start", "--no-wait").err
            vm.ok("kill")
        assert "Traceback" not in output
        if was_under_way:
            assert "was interrupted: " in output or "begun " in output, output
        check_images(vm)
        if is_booted:
            self.writer = Writer(vm, align(vm, acked))
        else:
            require_numbers_off(vm, acked)
        require_nothing_under_way(vm)
        return output

    def end(self, *, is_long: bool = False) -> None:
        """Off in order, if it runs; the disks and what is archived are sound.

        Args:
            is_long: look at every state, and boot one.
        """
        vm = self.vm
        if vm.qvm("status", "-s").status == 0:
            self.archive()
            last = self.writer.end()
            require_numbers(vm, last)
            vm.ok("ssh", UMOUNT)
            vm.ok("stop")
            fsck_both(vm)
        check_images(vm)
        require_nothing_under_way(vm)
        for folder in vm.directory.glob("demo-*/"):
            assert "is good" in vm.ok("archive", "--verify", folder.name).out
        twin = Vm(vm.world, vm.world.home / "twin")
        for name in list(self.bounds) if is_long else list(self.bounds)[-3:]:
            least, most, is_frozen = self.bounds[name]
            vm.ok("restore", name, "../twin")
            found = look_off(twin, "twin", is_clean=is_frozen)
            assert all(least <= each.count <= most + 2 for each in found), (name, least, most, found)
            shutil.rmtree(twin.directory)
        if is_long:
            self._boot_state(twin, self.chooser.choice(sorted(self.of_killed or self.bounds)))

    def _boot_state(self, twin: Vm, name: str) -> None:
        least, most, is_frozen = self.bounds[name]
        print(f"  {name} is booted: {least} to {most}")
        self.vm.ok("restore", name, "../twin")
        boot(twin)
        try:
            found = look(twin, is_clean=is_frozen)
            assert all(least <= each.count <= most + 2 for each in found), found
            twin.ok("ssh", UMOUNT)
            twin.ok("stop")
        finally:
            twin.kill()
        check_images(twin, "twin-base.qcow2", "twin-backing.qcow2", "data.qcow2")
        fsck_both(twin, "twin")
        shutil.rmtree(twin.directory)


def check_live(vm: Vm, verbs: list[str], count: int) -> None:
    chooser = random.Random(f"{SEED} {verbs} {count}")
    it = Machine(vm, chooser)
    it.archive()
    for turn in range(count):
        verb, victim = chooser.choice(verbs), chooser.choice(VICTIMS)
        words, most_s = VERBS[verb]
        if verb == "changes":
            it.archive()  # whatever the turn before was: the changes since this one are known
        is_at_work, seconds = chooser.random() < 0.75, chooser.uniform(0.0, most_s)
        since = "since it is at work" if is_at_work else "since its begin"
        print(f"seed {SEED}: turn {turn}: {' '.join(words)}, {victim} killed {seconds:.3f} s {since}")
        before = it.writer.acked
        child = vm.world.popen(*words, cwd=vm.directory)
        while is_at_work and child.poll() is None and not any(vm.directory.glob(".qvm/*.unfinished")):
            time.sleep(0.001)
        time.sleep(seconds)
        output = it.kill(victim, child, before)
        was_under_way = bool(note_of(vm)) or (vm.directory / ".qvm/snapshot.unfinished").exists()
        print(f"  {'under way' if was_under_way else 'nothing under way'}; it said: {output.strip()}")
        if victim == "qvm":
            print(f"  {it.goes_on(was_under_way).strip()}")
            it.lose_power()
            was_under_way = False
        print(f"  {it.comes_back(was_under_way).strip()}")
        if verb == "savevm":
            vm.qvm("snapshot", "delete", "live")
    it.end(is_long=True)


@pytest.mark.long
@pytest.mark.parametrize("verb", VERBS)
def test_archive_killed_at_random_the_guest_loses_nothing_long(vm: Vm, verb: str) -> None:
    check_live(vm, [verb], ROUNDS)


MOMENTS: dict[str, tuple[str, Callable[[Seen], bool]]] = {
    "frozen, not cut yet": ("full", lambda now: bool(now.note.get("is_frozen")) and not now.is_cut),
    "cut, not thawed yet": ("full", lambda now: bool(now.note.get("is_frozen")) and now.is_cut),
    "held while its memory is saved": ("savevm", lambda now: now.status == "paused" and now.has_journal),
    "held, its memory is saved": ("savevm", lambda now: now.status == "paused" and not now.has_journal),
    "copying": ("full", lambda now: now.is_cut and not now.note.get("is_frozen") and not now.join),
    "copying changes": ("changes", lambda now: any(job.startswith("qvm-changes") for job in now.jobs)),
    "ready to be joined": ("full", lambda now: now.join == "ready"),
    "joined but for the last step": ("full", lambda now: now.join == "pending" and "back" not in now.states),
    "noted as joined": ("full", lambda now: now.join == "pending" and now.states == ["back", "open"]),
    "all noted as joined": ("full", lambda now: now.join == "pending" and now.states == ["back", "back"]),
    "joined, the overlay is there": (
        "full", lambda now: now.join in ("concluded", "") and "back" in now.states and now.has_overlay
    ),
    "one disk joined": ("full", lambda now: now.states == ["back", "open"] and not now.join),
    "all joined": ("full", lambda now: now.states == ["back", "back"] and not now.has_overlay),
    "renamed": ("full", lambda now: now.is_renamed),
}  # fmt: skip
"""Moments that chance might miss, each with a verb that has it."""


USUAL = {
    "qvm": ["cut, not thawed yet", "held while its memory is saved", "copying changes"],
    "qemu": ["copying"],
    "both": ["one disk joined"],
    "quit": ["ready to be joined"],
}
"""By victim; a guest whose QEMU was killed would have to boot to go on, so here its disks are looked at."""


def check_moments(it: Machine, victim: str, moments: Iterable[str], *, is_booted: bool) -> None:
    vm = it.vm
    for moment in moments:
        verb, is_now = MOMENTS[moment]
        it.archive()
        before = it.writer.acked
        child = held(vm, is_now, *VERBS[verb][0])
        was_told = it.writer.acked
        time.sleep(0.3)  # QEMU and the guest continue meanwhile, as far as they can
        print(f"seed {SEED}: {verb}, {moment}: {victim} killed, told {was_told}, {it.writer.acked}")
        output = it.kill(victim, child, before)
        print(f"  it said: {output.strip()}")
        if victim == "qvm":
            print(f"  {it.goes_on(True).strip()}")
        else:
            print(f"  {it.comes_back(bool(note_of(vm)), is_booted=is_booted).strip()}")
        if verb == "savevm":
            vm.qvm("snapshot", "delete", "live")


def check_first(it: Machine) -> None:
    """Of a new archive the base is copied too; the guest is neither held nor split meanwhile."""
    vm = it.vm
    first: list[tuple[list[str], Callable[[Seen], bool]]] = [
        (["archive", "--savevm", "live"], lambda now: now.has_base and not now.note.get("cuts")),
        (["archive"], lambda now: now.is_cut and not now.note.get("is_frozen")),
    ]
    for words, is_now in first:
        child = held(vm, is_now, *words, tries=1)
        it.writer.more()
        it.kill("qvm", child, 0)
        print(it.goes_on(True))
        vm.qvm("snapshot", "delete", "live")
        it.archive()
        for folder in vm.directory.glob("demo-*/"):
            assert "is good" in vm.ok("archive", "--verify", folder.name).out
            shutil.rmtree(folder)  # as a user might; the next one starts again, under the same name
        it.bounds.clear()


@pytest.mark.parametrize("victim", USUAL)
def test_archive_killed_in_a_dangerous_moment(vm: Vm, victim: str) -> None:
    it = Machine(vm, random.Random(f"{SEED} moments {victim}"))
    check_moments(it, victim, USUAL[victim], is_booted=False)
    it.end()


@pytest.mark.long
@pytest.mark.parametrize("victim", USUAL)
def test_archive_killed_in_a_dangerous_moment_long(vm: Vm, victim: str) -> None:
    it = Machine(vm, random.Random(f"{SEED} moments {victim}"))
    check_moments(it, victim, MOMENTS, is_booted=True)
    if victim == "qvm":
        it.lose_power()
        it.comes_back(False)
    it.end(is_long=True)


def test_first_archive_killed_is_repeated_and_blocks_nothing(vm: Vm) -> None:
    it = Machine(vm, random.Random(SEED))
    check_first(it)
    it.archive("--savevm", "live")
    it.lose_power()
    it.comes_back(False, is_booted=False)
    it.end()
