"""Ending QEMU without its guest: `kill`, by the monitor's `quit`, by SIGTERM, by SIGKILL."""

from __future__ import annotations

import time

from qvmsh.errors import QmpError, QvmError, StateError
from qvmsh.host import process
from qvmsh.machine import log, state
from qvmsh.machine.work import cleanup
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

QUIT_S = 10.0

BY_ITSELF = "itself"
"""What ended a QEMU that was gone before it could be ended."""


@log.failures
def kill(vm: BaseMachine) -> tuple[str, float]:
    """End QEMU at once; return what worked and the seconds it took.

    Raises:
        StateError: there is nothing to kill, or the pid file's lock is not QEMU's.
        QvmError: not allowed.
    """
    began = time.monotonic()
    seen = state.observe(vm)
    if seen.pid is None:
        raise state.not_in_state(vm, seen, "kill", state.RUNNING)
    if not state.is_qemu(seen.pid):
        raise StateError(f"will not kill: {seen.detail}", machine=vm.name, hint=seen.hint, actual=seen.kind)
    cleanup.keep_record(vm, seen)
    try:
        with process.Process(seen.pid) as handle:
            how = end_qemu(handle, seen.note)
    except ProcessLookupError:
        how = BY_ITSELF
    except PermissionError:
        who = process.user(seen.pid)
        raise QvmError(
            f"cannot kill: QEMU (pid {seen.pid}) belongs to {who}",
            machine=vm.name,
            hint=f"run this as {who} or as root",
        ) from None
    cleanup.tidy(vm, is_asked=how != BY_ITSELF)
    log.note(vm, f"killed by {how}")
    return how, time.monotonic() - began


def end_qemu(handle: process.Process, note: LaunchRecord | None) -> str:
    """End QEMU: QMP quit, SIGTERM, SIGKILL; return which of them worked.

    Raises:
        PermissionError: it is another user's.
    """
    if note is not None and not process.is_stopped(handle.pid):
        try:
            qmp.ask(note.socket("qmp"), "quit", timeout_s=state.GREETING_S)
        except (OSError, QmpError):
            pass
        else:
            if handle.wait(QUIT_S):
                return "quit"
    for name, number in (("SIGTERM", process.SIGTERM), ("SIGKILL", process.SIGKILL)):
        handle.signal(number)
        if handle.wait(QUIT_S):
            return name
    raise QvmError(f"QEMU (pid {handle.pid}) cannot be ended, not even by SIGKILL")


def end_child(pid: int, *, grace_s: float = 5.0) -> None:
    """End a QEMU that this command began: SIGTERM, which it takes as `quit`, then SIGKILL."""
    try:
        handle = process.Process(pid)
    except ProcessLookupError:
        return
    with handle:
        handle.signal(process.SIGTERM)
        if not handle.wait(grace_s):
            handle.signal(process.SIGKILL)
            handle.wait(grace_s)
