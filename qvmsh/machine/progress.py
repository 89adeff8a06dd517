"""How far a long copy is: a line on the terminal with rate and time left; in a pipe nothing.

May import: `io`.

    with Progress(vm.io, "copying demo-base.qcow2", size_bytes) as progress:
        send(source, target, progress.tell, vm.io.checkpoint)
"""

from __future__ import annotations

import time

from qvmsh.io import isatty, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from qvmsh.io import Io

EVERY_S = 0.2


class Progress:
    """One copy; the line that is left says how much was copied, and how fast."""

    def __init__(self, io: Io, title: str, size_bytes: int) -> None:
        self._io = io
        self._title = title
        self._size = size_bytes
        self._done = 0
        self._began = self._shown = 0.0
        self._is_drawn = io.shows_stages and isatty(io.stderr)

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        return self

    def tell(self, done_bytes: int) -> None:
        """So much has been done."""
        self._done = done_bytes
        now = time.monotonic()
        if not self._is_drawn or now - self._shown < EVERY_S:
            return
        self._shown = now
        rate = done_bytes / max(now - self._began, 0.001)
        left_s = (self._size - done_bytes) / rate if rate else 0.0
        part = 100 * done_bytes // max(self._size, 1)
        left = f"{left_s // 60:.0f}:{left_s % 60:02.0f} left"
        tell(self._io.stderr, f"\r  {self._title}: {part} %, {size(int(rate))}/s, {left}\x1b[K", end="")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._io.shows_stages:
            return
        took = time.monotonic() - self._began
        rate = size(int(self._size / max(took, 0.001)))
        mark = "failed" if kind else f"{size(self._size)} in {took:.1f} s, {rate}/s"
        begin, end = ("\r", "\x1b[K\n") if self._is_drawn else ("", "\n")
        tell(self._io.stderr, f"{begin}  {self._title}: {mark}", end=end)


def size(count: int) -> str:
    """A number of bytes for people: `12.3 MiB`."""
    value, unit = float(count), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
