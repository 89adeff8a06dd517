"""The live table of `qvm top` on a terminal: drawn by rich, sorted by keys.

    Screen(io, sampler, 3.0, "cpu").show(None)

It takes the alternate screen and gives it back, however it ends; Ctrl-Z too. Columns that do not fit are
left out from the right, machines from the bottom.
"""

from __future__ import annotations

import os
import signal
import termios
import time
import tty

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

from qvmsh.host import process, tty_mode
from qvmsh.machine.overview.top_frame import Frame, Measured, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.io import Io
    from qvmsh.machine.overview.top_measuring import Sampler

KEYS = {"c": "cpu", "m": "mem", "i": "io", "n": "name"}
HELP = "sort by %s; keys: c cpu, m memory, i I/O, n name, q quit"


class Screen:
    """A live table.

    Args:
        interval_s: the time from one measuring to the next.
        sort: what it is sorted by at first.
    """

    def __init__(self, io: Io, sampler: Sampler, interval_s: float, sort: str) -> None:
        self._io = io
        self._sampler = sampler
        self._interval_s = interval_s
        self._sort = sort
        self._console = Console(file=io.stdout, highlight=False, markup=False, emoji=False)
        self._machines: list[Measured] = []
        self._took_s = 0.0
        self._live: Live | None = None

    def show(self) -> None:
        """Show it until `q` or Ctrl-C."""
        fd = self._io.stdin.fileno()
        with _Signals() as signals, tty_mode.Kept(fd):
            self._open(fd)
            try:
                before = time.monotonic()
                while True:
                    now = time.monotonic()
                    self._machines = [Measured(*each) for each in self._sampler.measure()]
                    self._took_s, before = now - before, now
                    self._draw()
                    if not self._wait(fd, signals, before + self._interval_s):
                        return
            finally:
                self._close()

    def _open(self, fd: int) -> None:
        tty.setcbreak(fd, termios.TCSADRAIN)
        self._live = Live(console=self._console, screen=True, auto_refresh=False, redirect_stderr=False)
        self._live.start()

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        assert self._live is not None
        width, height = _size(self._io.stdout.fileno())
        self._console.size = ConsoleDimensions(width, height)
        frame = Frame(self._machines, self._took_s, self._sort)
        head, *rows = table(frame.machines, width)
        lines = [Text(frame.title(self._interval_s)), Text(HELP % self._sort, style="dim")]
        lines += [Text(f"{head:{width}}", style="reverse"), *map(Text, rows)]
        for line in lines[:height]:
            line.no_wrap, line.overflow = True, "crop"
        self._live.update(Group(*lines[:height]), refresh=True)

    def _wait(self, fd: int, signals: _Signals, until: float) -> bool:
        """Serve the keys until the next frame is due; False to quit."""
        while (left_s := until - time.monotonic()) > 0:
            ready = process.wait_readable([fd, signals.fd], left_s, self._io.checkpoint)
            if ready == signals.fd:
                if signals.is_to_suspend():
                    self._suspend(fd)
                self._draw()
            elif ready == fd:
                keys = os.read(fd, 100)
                if b"q" in keys or not keys:  # the terminal has gone
                    return False
                for key in keys.decode(errors="replace"):
                    self._sort = KEYS.get(key, self._sort)
                self._draw()
        return True

    def _suspend(self, fd: int) -> None:
        """Ctrl-Z: give the terminal back, and stop until the shell continues this process."""
        mode: Any = termios.tcgetattr(fd)
        self._close()
        mode[3] |= termios.ICANON | termios.ECHO
        tty_mode.restore(fd, mode)
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)
        self._open(fd)


def _size(fd: int) -> tuple[int, int]:
    """The terminal's columns and lines now; COLUMNS and LINES may be those of another one."""
    width, height = os.get_terminal_size(fd)
    return width or 80, height or 24


class _Signals:
    """SIGWINCH and SIGTSTP make `fd` readable while the block lasts."""

    def __init__(self) -> None:
        self.fd = self._writer = -1
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        self.fd, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGWINCH, signal.SIGTSTP):
            self._before[number] = signal.signal(number, lambda _number, _frame: None)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._writer)

    def is_to_suspend(self) -> bool:
        """Take the signals that have come; True if one was SIGTSTP."""
        try:
            return signal.SIGTSTP in os.read(self.fd, 512)
        except BlockingIOError:
            return False
