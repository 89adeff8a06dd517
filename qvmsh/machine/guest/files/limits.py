"""How long a transfer may take, and how long nothing may move in it.

limit = Limit(vm, timeout_s=None)
while not poll.poll(limit.step_ms()):
    limit.require_time(waited_since)
"""

from __future__ import annotations

import contextlib
import time

from qvmsh.errors import DeadlineError
from qvmsh.machine import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.machine.machine import BaseMachine

STALL_S = 60.0
"""How long nothing may move: a busy guest writes its cache to its disk meanwhile."""
FLUSH_S = 600.0
"""The same while the guest writes to its disk what it has in memory, all at once."""
STEP_S = 0.2


class Limit:
    """The deadlines of one transfer.

    Args:
        timeout_s: for all of it; None: no limit.
    """

    def __init__(self, vm: BaseMachine, timeout_s: float | None) -> None:
        self._vm = vm
        self._timeout_s = timeout_s
        self._stall_s = STALL_S
        self.until = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until something must move."""
        stall_s = self._stall_s
        return stall_s if self.until is None else max(0.0, min(stall_s, self.until - time.monotonic()))

    @property
    def total_s(self) -> float | None:
        """Seconds until the end of all; None: no limit."""
        return None if self.until is None else max(0.1, self.until - time.monotonic())

    def step_ms(self) -> int:
        """How long to wait before looking again, for poll(2)."""
        self._vm.io.checkpoint()
        return max(1, int(1000 * min(STEP_S, self.left_s)))

    def require_time(self, since: float) -> None:
        """Raise if a deadline has passed.

        Args:
            since: when something moved, by `time.monotonic`.

        Raises:
            DeadlineError: the text says which.
        """
        now = time.monotonic()
        if self.until is not None and now >= self.until:
            raise self.error(f"the files were not copied within {self._timeout_s:g} s")
        if now - since >= self._stall_s:
            raise self.error(f"nothing has moved for {self._stall_s:.0f} s")

    @contextlib.contextmanager
    def flushing(self) -> Iterator[None]:
        """Let the guest write to its disk in the block."""
        self._stall_s = FLUSH_S
        try:
            yield
        finally:
            self._stall_s = STALL_S

    def extend(self, seconds: float) -> None:
        """Give what is left to be done at least this time."""
        if self.until is not None:
            self.until = max(self.until, time.monotonic() + seconds)

    def error(self, what: str) -> DeadlineError:
        """The error, with what the machine's state has to do with it."""
        seen = state.observe(self._vm)
        why = "" if seen.kind == state.RUNNING else f": the machine is {seen}"
        return DeadlineError(what + why, machine=self._vm.name, hint="`qvm status` shows the machine's state")
