"""The pace at which a pipe's lines go to a guest that logs in."""

from __future__ import annotations

import re
import time

PIECE_BYTES = 4096
STUCK_S = 10.0
"""How long a guest may take nothing of what a pipe brings, or show no prompt after a login."""
QUIET_S, UNSURE_S = 0.3, 3.0
"""How long a guest must have been silent after a prompt, and after any other line that has no end."""
_PROMPT = re.compile(rb"[#$%>:?)\]] ?(\x1b\[[\d;?]*\w)*$")


class Pace:
    """When what a pipe brings may go to the guest.

    Programs that log in throw away what was typed before their prompt, and before the one that comes after
    an answer. So each of their prompts gets one line, and the next line waits for the next prompt.

    Args:
        tail: the last lines that the guest has written.
        patience_s: how long the guest must be silent where it shows no prompt.
    """

    def __init__(self, tail: bytes, patience_s: float) -> None:
        self.tail = tail
        self.patience_s = patience_s
        self.is_waiting = True
        self.is_answered = False
        self.heard_at = self.began_at = time.monotonic()

    def heard(self, data: bytes) -> None:
        """Note what the guest writes."""
        self.tail = (self.tail + data)[-PIECE_BYTES:]
        self.heard_at = time.monotonic()

    @property
    def _line(self) -> bytes:
        """The unfinished line that the guest shows, messages of its kernel and of systemd left out."""
        text = re.sub(rb"\[ *[\dA-Z.]+ *\] [^\n]*\n", b"", self.tail)
        head, _, line = text.rpartition(b"\n")
        return b"" if self.is_answered and not head else line.strip(b"\r\0")

    def opens_at(self) -> float:
        """When the guest may be given more, if it writes nothing until then; 0 = at any time."""
        if not self.is_waiting:
            return 0.0
        if self._line:
            return self.heard_at + (QUIET_S if _PROMPT.search(self._line) else UNSURE_S)
        return min(self.heard_at + self.patience_s, self.began_at + STUCK_S)

    def take(self, pending: bytes, *, is_all: bool) -> bytes:
        """What of `pending` may go now; `is_all` = nothing will follow it."""
        if not pending or time.monotonic() < self.opens_at():
            return b""
        self.is_waiting = False
        if not self._is_log_in:
            return pending
        end = pending.find(b"\n") + 1
        return pending[:end] if end or not is_all else pending

    @property
    def _is_log_in(self) -> bool:
        return re.search(rb"(?i)(login|password)[^\n]*: *$", self._line) is not None

    def sent(self, data: bytes) -> None:
        """Note what the guest was given."""
        if self._is_log_in and data.endswith(b"\n"):
            self.tail, self.patience_s = b"", STUCK_S
            self.is_waiting = self.is_answered = True
            self.heard_at = self.began_at = time.monotonic()
