"""QEMU's jobs over a small `Exchange`: for a start, which should not load asyncio.

    jobs = Jobs(exchange)
    jobs.job("snapshot-load", {"tag": "ready", "vmstate": "disk0", "devices": ["disk0"]})

Source: QEMU docs/interop/qmp-spec.
"""

from __future__ import annotations

import os

from qvmsh.errors import QmpError
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from qvmsh.qemu.qmp import Exchange

    class Watcher(Protocol):
        """Shows the progress of a job."""

        @property
        def is_wanted(self) -> bool: ...

        def show(self, job: dict[str, Any] | None) -> None:
            """Called with the job's row of `query-jobs`; with None while QEMU's main loop is blocked."""


class Jobs:
    """Commands and jobs on a negotiated connection.

    Args:
        watch: called some times a second while a job is at work.
    """

    def __init__(self, exchange: Exchange, watch: Watcher | None = None) -> None:
        self._exchange = exchange
        self._watcher = watch

    @property
    def _watch(self) -> Watcher | None:
        return self._watcher if self._watcher and self._watcher.is_wanted else None

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Execute one command.

        Raises:
            QmpError: QEMU refused.
            OSError: QEMU has ended.
        """
        return self._exchange.ask(command, arguments, timeout_s=None)

    def job(self, command: str, arguments: dict[str, Any]) -> None:
        """Run a command that makes a job, wait for the job's end, dismiss it.

        Raises:
            QmpError: the job failed, with its own error.
            OSError: QEMU has ended.
        """
        name = f"qvm-{os.getpid()}-{command}"
        self.drain()
        watch = self._watch
        tick = (lambda: watch.show(None)) if watch else None
        self._exchange.ask(command, {"job-id": name, **arguments}, timeout_s=None, tick=tick)
        error = self._concluded(name)
        if error:
            raise QmpError(f"{command}: {error}")

    def drain(self) -> None:
        """Wait for the end of a job that a killed or interrupted command has begun, and dismiss it."""
        for each in self.execute("query-jobs"):
            if each["id"].startswith("qvm-") and each.get("type", "").startswith("snapshot-"):
                self._concluded(each["id"])

    def until(self, name: str, *statuses: str) -> dict[str, Any] | None:
        """Wait until the job is in one of `statuses`, or over; None where there is none (any more)."""
        while True:
            before = self._exchange.passed_over
            found = [each for each in self.execute("query-jobs") if each["id"] == name]
            if not found or found[0]["status"] in ("concluded", *statuses):
                return found[0] if found else None
            watch = self._watch
            if watch:
                watch.show(found[0])
            if self._exchange.passed_over != before:
                continue  # QEMU may have sent the event before an answer that is older than it
            if watch and not self._exchange.is_readable(qmp.TICK_S):
                continue
            self._exchange.message()  # any event: the job's next state sends one

    def _concluded(self, name: str) -> str:
        """Wait until the job is over, dismiss it, and return its error."""
        found = self.until(name)
        if found is None:
            return ""
        self.execute("job-dismiss", {"id": name})
        return str(found.get("error", ""))

    def finish(self, name: str, what: str) -> None:
        """Wait until the job is over and dismiss it."""
        error = self._concluded(name)
        if error:
            raise QmpError(f"{what}: {error}")
