"""Pause and resume: QEMU stops the vcpus and starts them again; the guest notices nothing."""

from __future__ import annotations

import time

from qvmsh.errors import QmpError, StateError
from qvmsh.machine import log, state
from qvmsh.machine.guest.clock import put_clock_right_after
from qvmsh.machine.power.reports import Paused
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
    clock = ""
    if now == "running":
        clock = put_clock_right_after(vm, note, time.time() - note.paused_s)
        now = state.observe(vm).status  # a write that failed may have been tried again since
    if now == "io-error":
        raise StateError(
            "the guest was resumed, and QEMU paused it again after another I/O error",
            machine=vm.name,
            hint="`df .` shows whether the host's disk is full; free some, then `qvm resume` again",
            actual=now,
        )
    log.note(vm, "resumed")
    return Paused(vm.name, is_paused=False, is_asleep=now == "suspended", clock=clock)


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
