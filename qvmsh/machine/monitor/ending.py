"""Ending QEMU's process: by its monitor, by SIGTERM, by SIGKILL."""

from __future__ import annotations

from qvmsh.errors import QmpError, QvmError
from qvmsh.host import process
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord

QUIT_S = 3.0


def kill(handle: process.Process, note: LaunchRecord | None) -> str:
    """End QEMU: QMP quit, SIGTERM, SIGKILL; return which of them worked.

    Raises:
        PermissionError: it is another user's.
    """
    if note is not None and not process.is_stopped(handle.pid):
        try:
            qmp.ask(note.socket("qmp"), "quit", timeout_s=1.0)
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


def end(pid: int, *, grace_s: float = 5.0) -> None:
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
