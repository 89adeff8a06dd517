"""Pause, resume, suspend, wakeup.

    pause(vm)            # QEMU stops the vcpus; the guest notices nothing
    suspend(vm)          # the guest sends itself to sleep (ACPI S3)

The first two need nothing of the guest. In the wrong state they fail with a hint, and nothing is
half done: the machine is as before or as requested.
"""

from __future__ import annotations

import time

from qvmsh.errors import DeadlineError, QmpError, StateError
from qvmsh.machine import log, state
from qvmsh.machine.guest import readiness, sleep
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest.clock import put_clock_right_after
from qvmsh.machine.monitor import conversation
from qvmsh.machine.power.reports import Paused, Suspended, Woken
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine


def pause(vm: BaseMachine) -> Paused:
    """Stop the vcpus.

    Raises:
        StateError: it does not run. Nothing changed.
    """
    with work_lock(vm, "pause"):
        _, note = state.require(vm, state.observe(vm), "pause", state.RUNNING)
        _execute(vm, note, "stop")
        note.paused_s = int(time.time()) + 1
        note.write(vm.files.launch_record)
        now = _status(vm, note)
    if now not in ("paused", "io-error", "watchdog", "debug"):
        raise StateError(f"QEMU was asked to pause the guest, but reports {now}", machine=vm.name, actual=now)
    log.note(vm, "paused")
    return Paused(vm.name, is_paused=True)


def resume(vm: BaseMachine) -> Paused:
    """Start the vcpus again.

    Raises:
        StateError: the guest is not paused or must not be resumed. Nothing changed.
    """
    with work_lock(vm, "resume"):
        seen = state.observe(vm)
        _, note = state.require(vm, seen, "resume", state.PAUSED)
        state.require_sound(vm, seen, "resume")
        _execute(vm, note, "cont")
        now = _status(vm, note)
    if now == "io-error":
        raise StateError(
            "the guest was resumed, and QEMU paused it again after another I/O error",
            machine=vm.name,
            hint="`df .` shows whether the host's disk is full; free some, then `qvm resume` again",
            actual=now,
        )
    log.note(vm, "resumed")
    clock = ""
    if now == "running":
        clock = put_clock_right_after(vm, note, time.time() - note.paused_s)
    return Paused(vm.name, is_paused=False, is_asleep=now == "suspended", clock=clock)


def suspend(vm: BaseMachine, *, timeout_s: float | None) -> Suspended:
    """Let the guest send itself to sleep, and wait until it does.

    Raises:
        StateError: it does not run, or nothing in it can be asked. Nothing changed.
        DeadlineError: it was asked but does not sleep; it is still running.
    """
    with work_lock(vm, "suspend"):
        _, note = state.require(vm, state.observe(vm), "suspend", state.RUNNING)
        with conversation.session(vm, note) as qemu, vm.io.stage("suspending the guest"):
            how, seconds = sleep.fall_asleep(
                vm, qemu, note, timeout_s=sleep.SUSPEND_S if timeout_s is None else timeout_s
            )
    log.note(vm, f"suspended by {how}")
    return Suspended(vm.name, how, seconds)


def wakeup(vm: BaseMachine, *, is_waiting: bool, timeout_s: float | None) -> Woken:
    """Wake the guest, and wait until its ssh answers.

    Raises:
        StateError: it does not sleep. Nothing changed.
        DeadlineError: it is awake but does not answer; it is still running.
    """
    began = time.monotonic()
    with work_lock(vm, "wakeup"):
        pid, note = state.require(vm, state.observe(vm), "wake up", state.SUSPENDED)
        with state.Answering(vm), conversation.begin(note) as qemu:
            try:
                sleep.wake(qemu)
            except QmpError as error:  # a key, the clock, or somebody else was faster
                what = f"cannot wake it up: {error.what.partition(': ')[2]}"
                raise StateError(what, machine=vm.name, hint="`qvm status` shows its state") from None
    is_ready = is_waiting and state.has_ssh(vm, note)
    if is_ready:
        _answers_again(vm, pid, note, readiness.attempt_seconds(vm, pid) if timeout_s is None else timeout_s)
    log.note(vm, "woken up")
    return Woken(vm.name, is_ready, time.monotonic() - began)


def _answers_again(vm: BaseMachine, pid: int, note: LaunchRecord, timeout_s: float) -> None:
    with readiness.waiting(vm, "wakeup"), vm.io.stage("waiting for ssh"):
        try:
            readiness.wait(vm, pid, note, timeout_s=timeout_s)
            sleep.refresh(guest.link(vm, note))
        except DeadlineError as error:
            error.what = error.what.replace("the guest did", "the guest is awake, but did")
            error.hint = "`qvm status` shows its state; `qvm stop` or `qvm kill` ends it"
            raise


def _execute(vm: BaseMachine, note: LaunchRecord, command: str) -> None:
    with state.Answering(vm):
        try:
            qmp.ask(note.socket("qmp"), command, timeout_s=30.0)
        except QmpError as error:
            error.machine = error.machine or vm.name
            raise


def _status(vm: BaseMachine, note: LaunchRecord) -> str:
    """QEMU's own word for its state."""
    with state.Answering(vm):
        status: str = qmp.ask(note.socket("qmp"), "query-status", timeout_s=state.GREETING_S)["status"]
    return status
