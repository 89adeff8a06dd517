"""A guest that counts on two disks (guests/counter.py), so what it has written is known at any moment."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.archives import make_archive
from tests.support.guests import counter
from tests.support.world import DEADLINE_S, Vm

NO_WAITING = {"VM_GUEST_AGENT": "no", "VM_NET_MODEL": "none"}
"""A machine without an agent: all of an archive's time is the split, the copy, the commit."""

SEED = int(os.environ.get("QVM_TEST_SEED", "20261122"))


def last_number(vm: Vm) -> int:
    return counter.last_number(vm.directory / ".qvm/log/serial.log")


def wait_for_more(vm: Vm) -> None:
    """Wait until the guest has written some more."""
    wanted, deadline = last_number(vm) + 10, time.monotonic() + DEADLINE_S
    while last_number(vm) < wanted:
        assert time.monotonic() < deadline, f"the guest stands still at {last_number(vm)}"
        time.sleep(0.02)


def require_all(directory: Path, name: str, least: int) -> int:
    """Both disks hold all numbers up to `least` at least, and are of one moment; returns the last."""
    first = counter.newest(directory / f"{name}-backing.qcow2", least)
    second = counter.newest(directory / "data.qcow2", least)
    assert second in (first, first - 1)
    return first


def wait_until_off(vm: Vm) -> None:
    """Wait until QEMU has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while vm.world.pids("qemu-system") or "running" in vm.qvm("status", "-s").out:
        assert time.monotonic() < deadline, "QEMU has not ended"
        time.sleep(0.02)


COUNTED = """
import os, signal, sys
from qvmsh.host import files
from qvmsh.machine import journal
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
counted(journal, "_write")
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


def run_to_step(vm: Vm, last: int, *words: str, number: int = signal.SIGKILL) -> tuple[int, int, str]:
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
        timeout=2 * DEADLINE_S,
    )
    return done.returncode, int(report.read_text()) if report.exists() else 0, done.stdout + done.stderr


def clear(vm: Vm, words: tuple[str, ...]) -> None:
    """Free space for the next turn."""
    catalogue = vm.directory / ".qvm/snapshots.json"
    known = catalogue.read_text() if catalogue.exists() else ""
    for tag in ("m", "s"):
        if f'"{tag}"' in known:
            vm.qvm("snapshot", "delete", tag)
    if words[0] == "archive":
        for path in vm.directory.glob("demo-2*"):
            shutil.rmtree(path)
        make_archive(vm)


def require_order(vm: Vm) -> None:
    """Nothing is left in the running QEMU, nor beside the disks."""
    jobs = vm.ok("qmp", "query-jobs").out
    assert jobs.strip() == "[]", jobs
    nodes = vm.ok("qmp", "query-named-block-nodes").out
    assert "qvm-cut" not in nodes
    assert "qvm-changes" not in nodes
    assert not list(vm.directory.glob(".qvm/*.unfinished"))
    assert not list(vm.directory.glob(".qvm/cut-*"))


def count_steps(vm: Vm, words: tuple[str, ...]) -> int:
    """How many steps qvm takes where nothing stops it."""
    clear(vm, words)
    status, steps, said = run_to_step(vm, 0, *words)
    assert status == 0, said
    assert steps > 10, said
    return steps


def some_steps(vm: Vm, count: int, of: str) -> list[tuple[tuple[str, ...], int, bool]]:
    """Way, step, and whether QEMU is killed too: one step of `count` ways, drawn at random."""
    chooser = random.Random(f"{SEED} {of}")
    ways = chooser.sample(WAYS, count)
    return [(words, chooser.randint(1, count_steps(vm, words)), at % 2 == 1) for at, words in enumerate(ways)]


def every_step(vm: Vm, words: tuple[str, ...], of: str) -> list[tuple[tuple[str, ...], int, bool]]:
    """The same of each step of a way, every second one with QEMU killed too; the seed says which ones."""
    first = random.Random(f"{SEED} {of} {words}").randint(0, 1)
    return [(words, step, (step + first) % 2 == 0) for step in range(1, count_steps(vm, words) + 1)]
