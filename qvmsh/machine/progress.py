"""Progress of long work: a line on the terminal with bytes, rate and time left; nothing in a pipe.

with Progress(vm.io, "copying demo-base.qcow2", size_bytes) as progress:
    send(source, target, progress.tell, vm.io.checkpoint)

with vm.io.stage("saving ready"):                    # a job of QEMU's
    Jobs(exchange, Watch(vm.io, vmstate_file)).job("snapshot-save", ...)
"""

from __future__ import annotations

import os
import threading
import time

from qvmsh.errors import printable
from qvmsh.io import failure_mark, isatty, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from qvmsh.io import Io

EVERY_S = 0.2


class Progress:
    """One copy; the final line says how much was copied, and how fast.

    Args:
        position: how many bytes are done, if `tell` is not called: a compressor that reads the file
            itself may write nothing for a long time.
    """

    def __init__(
        self, io: Io, title: str, size_bytes: int, position: Callable[[], int] | None = None
    ) -> None:
        self._io = io
        self._title = printable(title)
        self._size = size_bytes
        self._position = position
        self._done = 0
        self._began = self._shown = 0.0
        self._is_drawn = io.shows_stages and isatty(io.stderr)
        self._turn = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Progress:
        self._began = self._shown = time.monotonic()
        if self._is_drawn:
            self._io.begin_line()
            self._thread.start()
        return self

    def tell(self, done_bytes: int) -> None:
        """Report how many bytes are done."""
        self._done = done_bytes
        if self._is_drawn and time.monotonic() - self._shown >= EVERY_S:
            self._draw()

    def _look(self) -> None:
        """Draw the line also while nothing is reported."""
        while not self._end.wait(EVERY_S):
            if time.monotonic() - self._shown >= 2 * EVERY_S:
                try:
                    self._done = max(self._done, self._position() if self._position else 0)
                except OSError:
                    pass
                self._draw()

    def _draw(self) -> None:
        with self._turn:
            if self._end.is_set():
                return
            self._shown = now = time.monotonic()
            done = (
                f"{size(self._done)} of {size(self._size)}, {part(self._done, self._size, now - self._began)}"
            )
            tell(self._io.stderr, f"  {self._title}: {done}", begin="\r", end="\x1b[K")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._turn:
            self._end.set()
        if self._is_drawn:
            self._thread.join()
        if not self._io.shows_stages:
            return
        took = time.monotonic() - self._began
        rate = size(int(self._size / max(took, 0.001)))
        mark = failure_mark(kind) or f"{size(self._size)} in {took:.1f} s, {rate}/s"
        begin, end = ("\r", "\x1b[K\n") if self._is_drawn else ("", "\n")
        tell(self._io.stderr, f"  {self._title}: {mark}", begin=begin, end=end)


class Watch:
    """Shows the progress of a QEMU job behind the title of the current stage.

    QEMU reports it, but not while it saves or loads memory: its main loop is blocked, and `query-jobs` is
    answered at the end. From outside one can see how its image grows, and how much it has read.

    Args:
        path: the image that QEMU writes to.
        reads: how much the process has read so far, for a job that reads; None = it writes.
        total_bytes: how much there is to read.
    """

    def __init__(
        self, io: Io, path: str, *, reads: Callable[[], int] | None = None, total_bytes: int = 0
    ) -> None:
        self._io = io
        self._path = path
        self._reads = reads
        self._total = total_bytes
        self._began = time.monotonic()
        self._before = self._now()

    @property
    def is_wanted(self) -> bool:
        """True if it is displayed; else QEMU is not polled."""
        return self._io.current is not None and self._io.current.is_drawn

    def show(self, job: dict[str, Any] | None) -> None:
        """Read the progress and show it.

        Args:
            job: its row of `query-jobs`; None while QEMU does not answer.
        """
        stage = self._io.current
        if stage is None:
            return
        took_s = time.monotonic() - self._began
        if job and job.get("total-progress", 0) > 1:  # of bytes; a job of memory counts itself as one
            stage.progress(part(job["current-progress"], job["total-progress"], took_s))
            return
        done = max(0, self._now() - self._before)
        if self._total and self._reads:
            stage.progress(part(min(done, self._total), self._total, took_s))
        elif done:
            stage.progress(f"{size(done)} written, {size(int(done / max(took_s, 0.001)))}/s")

    def _now(self) -> int:
        if self._reads:
            return self._reads()
        try:
            return os.stat(self._path).st_blocks * 512
        except OSError:
            return 0


def part(done_bytes: int, total_bytes: int, took_s: float) -> str:
    """Share done, rate and time left: `62 %, 312.0 MiB/s, 0:03 left`."""
    rate = done_bytes / max(took_s, 0.001)
    left = clock((total_bytes - done_bytes) / rate) + " left" if rate else "waiting"
    return f"{100 * done_bytes // max(total_bytes, 1)} %, {size(int(rate))}/s, {left}"


def clock(seconds: float) -> str:
    """A time for people: `0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: int) -> str:
    """A number of bytes for people: `12.3 MiB`."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
