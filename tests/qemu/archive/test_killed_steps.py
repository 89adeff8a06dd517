"""Work on a running machine's disks, killed before each of its steps: the guest goes on, and nothing is lost.

A step is a question to QEMU, a note on the disk, or a file removed. The guest counts on two disks at once
(tests/guests/counter.py), so every number that it told must be there, and both disks must be of one moment.
The usual run takes some steps, drawn at random (the seed is printed, QVM_TEST_SEED repeats); `--all` all.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import Vm
from test_archive import archived, name_of, nothing_left
from test_killed_archive import SEED, check_disks, counting, goes_on, gone, has_all, told  # noqa: F401

COUNTED = """
import os, signal, sys
from qvmsh.host import files
from qvmsh.machine import interrupted
from qvmsh.qemu import qmp, session

steps, last, number, report = 0, int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def counted(owner, name):
    original = getattr(owner, name)

    def step(*words, **options):
        global steps
        steps += 1
        if steps == last:
            os.kill(os.getpid(), number)
        return original(*words, **options)

    setattr(owner, name, step)


counted(session.Session, "execute")
counted(qmp.Exchange, "ask")
counted(interrupted, "write")
counted(files, "remove")
counted(files, "write_atomic")
sys.argv = ["qvm", *sys.argv[4:]]
from qvmsh.__main__ import main

try:
    status = main()
finally:
    with open(report, "w") as file:
        file.write(str(steps))
sys.exit(status)
"""

WAYS = (
    ("archive",),
    ("archive", "--full"),
    ("archive", "--savevm", "m"),
    ("disk", "commit"),
    ("snapshot", "save", "--disk-only", "s"),
    ("snapshot", "save", "s"),
)


def perform(vm: Vm, last: int, *words: str, number: int = signal.SIGKILL) -> tuple[int, int, str]:
    """Run qvm; before the step `last` (0 = none) it gets the signal.

    Returns: its status, its steps, what it said.
    """
    report = vm.world.home / "steps"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(last), str(int(number)), str(report), *words],
        cwd=vm.directory,
        env=vm.world.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, int(report.read_text()) if report.exists() else 0, done.stdout + done.stderr


def clear(vm: Vm, words: tuple[str, ...]) -> None:
    """Make room for the next turn."""
    for tag in ("m", "s"):
        vm.qvm("snapshot", "delete", tag)
    if words[0] == "archive":
        for path in vm.directory.glob("demo-2*"):
            shutil.rmtree(path)
        archived(vm)


def check_step(vm: Vm, words: tuple[str, ...], step: int, *, is_qemu_too: bool) -> None:
    clear(vm, words)
    status, _, said = perform(vm, step, *words)
    if status != -signal.SIGKILL:
        assert status == 0, said  # it took fewer steps this time
        goes_on(vm)
        return
    assert "Traceback" not in said
    if is_qemu_too:
        os.kill(vm.pid, signal.SIGKILL)
        gone(vm)
        least = told(vm)
        vm.ok("doctor", "--fix")
        has_all(vm.directory, "demo", least)
        vm.ok("start", "--no-wait")
        goes_on(vm)
    else:
        goes_on(vm)  # without any other command
        vm.ok("pause")
        vm.ok("resume")
        goes_on(vm)
    require_order(vm)
    before = told(vm)
    report = archived(vm)
    vm.ok("restore", name_of(report), "../twin")
    has_all(vm.world.home / "twin", "twin", before)
    shutil.rmtree(vm.world.home / "twin")
    nothing_left(vm)


def require_order(vm: Vm) -> None:
    """Nothing is left in the running QEMU, nor beside the disks."""
    jobs = vm.ok("qmp", "query-jobs").out
    assert jobs.strip() == "[]", jobs
    nodes = vm.ok("qmp", "query-named-block-nodes").out
    assert "qvm-cut" not in nodes
    assert "qvm-changes" not in nodes
    assert not list(vm.directory.glob(".qvm/*.unfinished"))
    assert not list(vm.directory.glob(".qvm/cut-*"))


def steps_of(vm: Vm, count: int | None, of: str) -> list[tuple[tuple[str, ...], int, bool]]:
    """Way, step, and whether QEMU is killed too: all there are, or some that chance has drawn."""
    every = []
    for words in WAYS:
        clear(vm, words)
        status, steps, said = perform(vm, 0, *words)
        assert status == 0, said
        assert steps > 10, said
        every += [(words, step, qemu) for step in range(1, steps + 1) for qemu in (False, True)]
    return random.Random(f"{SEED} {of} {count}").sample(every, count) if count else every


def check(vm: Vm, count: int | None) -> None:
    for words, step, is_qemu_too in steps_of(vm, count, "steps"):
        print(f"seed {SEED}: {' '.join(words)}, killed before step {step}{', QEMU too' * is_qemu_too}")
        check_step(vm, words, step, is_qemu_too=is_qemu_too)
    vm.ok("kill")
    least = told(vm)
    has_all(vm.directory, "demo", least)
    check_disks(vm)


def test_killed_before_a_step_the_guest_goes_on_and_nothing_is_lost(counting: Vm) -> None:  # noqa: F811
    check(counting, 4)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_before_every_step_the_guest_goes_on_and_nothing_is_lost_long(counting: Vm) -> None:  # noqa: F811
    check(counting, None)
