"""A QEMU that has crashed: whether, and with which last output.

if crash.has_crashed(vm):
    raise crash.error(vm, "while the guest was powering off")
"""

from __future__ import annotations

import os

from qvmsh.errors import LaunchError, QmpError, QvmError
from qvmsh.host import locks, process
from qvmsh.machine import paths, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine


def has_crashed(vm: BaseMachine) -> bool:
    """True if QEMU crashed: otherwise it removes its pid file at its end."""
    try:
        return os.path.lexists(vm.files.pid_file) and locks.holder(vm.files.pid_file) is None
    except OSError:
        return False


def error(vm: BaseMachine, when: str, status: int = 0) -> LaunchError:
    """The error for a QEMU that has crashed, with its last output.

    Args:
        when: what was in progress: `while the guest was starting`.
        status: the process' return code as `subprocess` has it, where that is known.
    """
    words = paths.tail(vm.files.qemu_stderr, 5)
    how = f" ({process.signal_name(-status)})" if status < 0 else ""
    return LaunchError(f"QEMU crashed {when}{how}", machine=vm.name, details=words, hint=state.AGAIN)


def add_to(vm: BaseMachine, failure: QvmError) -> None:
    """Add to a failed conversation with QEMU or the guest that QEMU has crashed, if that is its cause."""
    if (not isinstance(failure, QmpError) or state.has_ended(vm, failure)) and has_crashed(vm):
        failure.details = (*failure.details, last_words(vm))
        failure.hint = failure.hint or state.AGAIN


def last_words(vm: BaseMachine) -> str:
    """How QEMU ended, as a remark."""
    if not has_crashed(vm):
        return "QEMU has ended"
    words = paths.tail(vm.files.qemu_stderr, 1)
    return "; ".join(["QEMU crashed", *(f"its last output: {line}" for line in words)])
