"""Work on a running machine's disks, with Ctrl-C before each of its steps, and with steps that fail.

Unlike a killed command (test_killed_steps), an interrupted one leaves everything in order at once.
The usual run takes one step of some ways, drawn at random (the seed is printed, QVM_TEST_SEED repeats);
`--all` takes all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.support.archives import require_nothing_left
from tests.support.counting import (
    SEED,
    WAYS,
    clear,
    every_step,
    last_number,
    require_all,
    require_order,
    run_to_step,
    some_steps,
    wait_for_more,
    wait_until_off,
)
from tests.support.world import DEADLINE_S, Vm

FAILING = """
import os, sys
from qvmsh.errors import QmpError
from qvmsh.qemu import session

how, fails, execute, fsync = sys.argv[1], 1, session.Session.execute, os.fsync


def refused(self, command, arguments=None):
    global fails
    if command == "job-finalize" and fails:
        fails = 0
        raise QmpError("job-finalize: not now", error_class="GenericError")
    return execute(self, command, arguments)


def unsynced(fd):
    global fails
    path = os.readlink(f"/proc/self/fd/{fd}")
    if fails and path.endswith("/archive.unfinished") and '"back"' in open(path).read():
        fails = 0
        raise OSError(5, "Input/output error", "the note")
    return fsync(fd)


if how == "refused":
    session.Session.execute = refused
else:
    os.fsync = unsynced
sys.argv = ["qvm", *sys.argv[2:]]
from qvmsh.__main__ import main

sys.exit(main())
"""


def check_step(vm: Vm, words: tuple[str, ...], step: int, *, is_qemu_too: bool) -> None:
    clear(vm, words)
    status, _, said = run_to_step(vm, step, *words, number=signal.SIGINT)
    assert "Traceback" not in said, said
    assert "never retrieved" not in said, said
    assert status in (0, 130), said
    if is_qemu_too:
        os.kill(vm.pid, signal.SIGKILL)
        wait_until_off(vm)
        least = last_number(vm)
        require_all(vm.directory, "demo", least)  # no other command had to bring it there
        vm.ok("start", "--no-wait")
    wait_for_more(vm)
    require_order(vm)
    require_nothing_left(vm)


def check(vm: Vm, steps: list[tuple[tuple[str, ...], int, bool]]) -> None:
    for words, step, is_qemu_too in steps:
        print(
            f"seed {SEED}, qvm {' '.join(words)}: Ctrl-C at step {step}, QEMU killed after it: {is_qemu_too}"
        )
        check_step(vm, words, step, is_qemu_too=is_qemu_too)


def test_interrupted_at_some_steps_everything_is_in_order(counting: Vm) -> None:
    check(counting, some_steps(counting, 4, "stopped"))


@pytest.mark.long
@pytest.mark.parametrize("words", WAYS, ids=" ".join)
def test_interrupted_at_every_step_everything_is_in_order_long(counting: Vm, words: tuple[str, ...]) -> None:
    check(counting, every_step(counting, words, "stopped"))


@pytest.mark.parametrize("how", ["refused", "unsynced"])
def test_join_that_cannot_be_ended_keeps_what_the_guest_writes(counting: Vm, how: str) -> None:
    """Noted as joined, then not joined: the guest writes on to the overlay, which must not be thrown away."""
    vm = counting
    done = subprocess.run(
        [sys.executable, "-c", FAILING, how, "archive"],
        cwd=vm.directory,
        env=vm.world.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 1, done.stderr
    assert "cannot commit what the guest wrote in the meantime" in done.stderr
    assert ("not now" if how == "refused" else "Input/output error") in done.stderr
    wait_for_more(vm)
    assert '"back"' not in (vm.directory / ".qvm/archive.unfinished").read_text()
    os.kill(vm.pid, signal.SIGKILL)
    wait_until_off(vm)
    least = last_number(vm)
    assert "was interrupted" in vm.ok("doctor", "--fix").out
    require_all(vm.directory, "demo", least)
    require_nothing_left(vm)
