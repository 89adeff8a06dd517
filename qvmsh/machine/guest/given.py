"""Standard input that qvm itself reads for the guest: `exec` by a way without streams, `put -`.

    for data in pieces(vm, until=None, what="nothing was run"):
        ...

A source may be silent as long as it likes; the deadline and the machine's end are noticed meanwhile.
"""

from __future__ import annotations

import select
import time

from qvmsh.errors import DeadlineError, GuestUnreachableError, QvmError
from qvmsh.machine import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.machine.machine import BaseMachine

PIECE_BYTES = 1 << 20
LOOK_S = 1.0
"""How often the machine is looked at."""
_OFF = (state.STOPPED, state.CRASHED)


class Late(DeadlineError):
    """Standard input has not ended in time; the guest may be well."""


def pieces(vm: BaseMachine, *, until: float | None, what: str) -> Iterator[bytes]:
    """What comes on standard input, until it ends.

    Args:
        until: the deadline, by `time.monotonic`.
        what: what the error says has not been done.

    Raises:
        Late: it has not ended in time.
        GuestUnreachableError: QEMU has ended.
        QvmError: it is closed, or cannot be read.
    """
    if getattr(vm.io.stdin, "was_closed", False):
        raise _unreadable(vm, "it is closed", what)
    stream = vm.io.stdin.buffer
    try:
        fd = stream.fileno()
    except (OSError, ValueError):  # it is in memory
        fd = -1
    while True:
        if fd >= 0:
            _wait(vm, fd, until, what)
        try:
            data = stream.read1(PIECE_BYTES)  # type: ignore[attr-defined]  # it is buffered
        except OSError as error:
            raise _unreadable(vm, error.strerror or str(error), what) from None
        if not data:
            return
        yield data


def _unreadable(vm: BaseMachine, why: str, what: str) -> QvmError:
    return QvmError(f"cannot read standard input: {why}; {what}", machine=vm.name)


def _wait(vm: BaseMachine, fd: int, until: float | None, what: str) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        left_s = LOOK_S if until is None else min(LOOK_S, until - time.monotonic())
        if left_s <= 0:
            raise Late(
                f"standard input had not ended in time, so {what}", machine=vm.name,
                hint="`--timeout` is the limit in seconds",
            )  # fmt: skip
        if poll.poll(max(1, round(1000 * left_s))):
            return
        vm.io.checkpoint()
        seen = state.observe(vm)
        if seen.kind in _OFF:
            raise GuestUnreachableError(
                f"the machine is {seen}, and standard input has not ended", machine=vm.name
            )
