"""QEMU's jobs over a small `Exchange`: for a start, which should not pay for asyncio.

May import: `qmp`, `errors`.

    jobs = Jobs(exchange)
    jobs.job("snapshot-load", {"tag": "ready", "vmstate": "disk0", "devices": ["disk0"]})

Source: QEMU docs/interop/qmp-spec; as `session.Session.job`, whose errors it shares.
"""

from __future__ import annotations

import os

from qvmsh.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.qemu.qmp import Exchange


class Jobs:
    """Commands and jobs on a negotiated connection."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

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
        self.execute(command, {"job-id": name, **arguments})
        error = self._concluded(name)
        if error:
            raise QmpError(f"{command}: {error}")

    def drain(self) -> None:
        """Wait for the end of what a command that was killed or interrupted has begun, and dismiss it.

        Raises:
            OSError: QEMU has ended.
        """
        for each in self.execute("query-jobs"):
            if each["id"].startswith("qvm-") and each["type"].startswith("snapshot-"):
                self._concluded(each["id"])

    def until(self, name: str, *statuses: str) -> dict[str, Any] | None:
        """Wait until the job is in one of `statuses`, or over; None where there is none (any more)."""
        while True:
            before = self._exchange.passed_over
            found = [each for each in self.execute("query-jobs") if each["id"] == name]
            if not found or found[0]["status"] in ("concluded", *statuses):
                return found[0] if found else None
            if self._exchange.passed_over == before:
                self._exchange.message()  # any event: the job's next state is one
            # else QEMU may have sent the event before an answer that is older than it: ask again

    def _concluded(self, name: str) -> str:
        """Wait until the job is over, dismiss it, and return its error."""
        found = self.until(name)
        if found is None:
            return ""
        self.execute("job-dismiss", {"id": name})
        return str(found.get("error", ""))

    def finish(self, name: str, what: str) -> None:
        """Wait until the job is over and dismiss it.

        Raises:
            QmpError: it failed.
        """
        error = self._concluded(name)
        if error:
            raise QmpError(f"{what}: {error}")
