"""A program whose standard streams qvm passes on: `ssh`, which gives its own to its cached connection.

    status = run(argv, stdin=0, stdout=1, stderr=2, tty=False)

The process behind a cached connection is in no job of the caller's shell. With the caller's streams it reads
a terminal (a password, too) whatever is in the foreground, continues when the reader has gone, waits for ever
for a full disk, and leaves pipes in a mode that breaks what is written there next. So ssh gets pipes, and qvm
does what a program does: a terminal is read only in the foreground (in the background the command runs
without input, and is not stopped), and what cannot be written ends the command. A command with a terminal
gets one of qvm's, in the mode and the size of the caller's.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import termios
import time
from _signal import SIGWINCH

from qvmsh.host.child import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qvmsh.host.ssh_watch import Watch

_PIECE = 65536
_ATOMIC = 4096
"""What a pipe takes without blocking when poll(2) reports it as writable. Source: pipe(7)."""
_BACKGROUND_MS = 500
"""How often a command in the background checks whether it has the terminal now."""
_LINGER_MS = 2000
"""How long the last output may take once the program has ended."""
_CLOSED = b"onnection to %s closed.\r\n"
"""ssh's last line on a terminal, printed if it logs more than errors."""


def run(
    argv: Sequence[str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    tty: bool,
    host: str = "",
    timeout_s: float | None = None,
    watch: Watch | None = None,
) -> int:
    """Run a program to its end; its exit status, 128 + N after signal N.

    Args:
        stdin, stdout, stderr: descriptors; the program gets none of them.
        tty: it gets a terminal where `stdin` is one.
        host: what ssh calls the other side.
        timeout_s: how long it may take; None: as long as it likes.
        watch: looks whether the guest has taken the command.

    Raises:
        TimeoutError: it had not ended in time, or `watch` gave up; it has been ended.
        OSError: what it wrote could not be written; the program has been ended.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with _Undo() as undo:
        tty = tty and os.isatty(stdin)
        theirs, sink = _terminal_like(stdin) if tty else os.pipe()
        try:
            if os.isatty(stdin):  # opened again: O_NONBLOCK must not hold for the other readers
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                stdin = os.open(f"/dev/fd/{stdin}", flags)
                undo.later(os.close, stdin)
        except OSError:  # another account's terminal
            pass
        keys = _Flow(stdin, sink, has_terminal=tty or os.isatty(stdout))
        undo.later(keys.close)
        try:
            if tty:
                undo.later(_raw(stdin))
            child = Child(argv, stdin=theirs, is_leader=tty)
        finally:
            os.close(theirs)
        undo.later(child.close)
        if tty:
            undo.later(_following_size(stdin, keys, child))
        flows = [_Flow(child.stdout, stdout), _Flow(child.stderr, stderr, _CLOSED % os.fsencode(host))]
        try:
            _pump(keys, flows, child.pidfd, deadline, watch)
        except BaseException:
            child.kill()
            raise
        status = child.wait()
    return 128 - status if status < 0 else status


class _Undo:
    """What is done when the block ends, the last first; `contextlib` costs more than the rest of this."""

    def __init__(self) -> None:
        self._calls: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def later(self, call: Callable[..., object], *words: object) -> None:
        self._calls.append((call, words))

    def __enter__(self) -> _Undo:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self._calls:
                call, words = self._calls.pop()
                call(*words)
        finally:
            if self._calls:
                self.__exit__()


def _raw(stdin: int) -> Callable[[], None]:
    """Set the terminal to raw mode; what sets it back."""
    from qvmsh.host import tty_mode  # late, as in the following: most commands have no terminal

    mode = tty_mode.Raw(stdin)
    mode.__enter__()
    return mode.__exit__


def _following_size(stdin: int, keys: _Flow, child: Child) -> Callable[[], object]:
    """Pass changes of the terminal's size on; what ends that."""
    import signal

    before = signal.signal(signal.SIGWINCH, lambda *_: _resize(stdin, keys.sink, child))
    return lambda: signal.signal(signal.SIGWINCH, before)


def _terminal_like(stdin: int) -> tuple[int, int]:
    """A terminal in the mode and the size of the caller's; the program's end of it, and ours."""
    try:
        termios.tcdrain(stdin)  # in the background this stops us, as it does ssh
    except termios.error:
        pass
    sink, theirs = os.openpty()
    termios.tcsetattr(theirs, termios.TCSANOW, termios.tcgetattr(stdin))
    _resize(stdin, sink)
    return theirs, sink


class _Flow:
    """Bytes on their way from one descriptor to another; no more is read before they are written.

    Args:
        leave: a last line that is dropped.
        has_terminal: no other process of the pipeline can be reading the source, a terminal.
    """

    def __init__(self, source: int, sink: int, leave: bytes = b"", *, has_terminal: bool = True) -> None:
        self.source = source
        self.sink = sink
        self.data = b""
        self.is_open = True
        self._leave = leave
        self._has_terminal = has_terminal
        mode = os.fstat(sink).st_mode
        self._piece = _ATOMIC if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else _PIECE

    def may_read(self) -> bool:
        """False for a terminal that another job owns, or that a pager in the pipeline has set to raw mode."""
        if not os.isatty(self.source):
            return True
        try:
            is_raw = not termios.tcgetattr(self.source)[3] & termios.ICANON
            return os.tcgetpgrp(self.source) == os.getpgrp() and (self._has_terminal or not is_raw)
        except (OSError, termios.error):  # not our controlling terminal, or gone
            return True

    def read(self) -> None:
        try:
            self.data = os.read(self.source, _PIECE)
        except BlockingIOError:
            return
        except OSError:  # EIO: the terminal has gone
            self.data = b""
        self.is_open = bool(self.data)
        if self._leave and self.data.endswith(self._leave):
            self.data = self.data[: self.data.rindex(self._leave)].rpartition(b"\n")[0]

    def write(self) -> None:
        try:
            self.data = self.data[os.write(self.sink, self.data[: self._piece]) :]
        except BlockingIOError:  # another program has set that mode
            pass

    def close(self) -> None:
        """The end of what the program can read."""
        if self.sink >= 0:
            os.close(self.sink)
        self.sink, self.data, self.is_open = -1, b"", False


def _pump(keys: _Flow, flows: list[_Flow], end: int, deadline: float | None, watch: Watch | None) -> None:
    """Pass bytes until the program has ended and all that it wrote is passed.

    Raises:
        TimeoutError: the deadline has passed before the program's end.
    """
    is_over = False
    while not is_over or any(flow.is_open or flow.data for flow in flows):
        poll = select.poll()
        wait_ms = _LINGER_MS if is_over else None
        wanted: dict[int, int] = {} if is_over else {end: select.POLLIN}
        active = flows if is_over or keys.sink < 0 else [keys, *flows]
        for flow in active:
            if flow.data:
                wanted[flow.sink] = wanted.get(flow.sink, 0) | select.POLLOUT
            elif not flow.may_read():
                wait_ms = _BACKGROUND_MS
            elif flow.is_open:
                wanted[flow.source] = wanted.get(flow.source, 0) | select.POLLIN
        for fd, events in wanted.items():
            poll.register(fd, events)
        for moment in (deadline, watch.at if watch else None):
            if moment is not None and not is_over:
                left_ms = max(0, round((moment - time.monotonic()) * 1000))
                wait_ms = left_ms if wait_ms is None else min(wait_ms, left_ms)
        ready = dict(poll.poll(wait_ms))
        if watch and end not in ready:
            watch.look()
        if deadline is not None and not is_over and time.monotonic() >= deadline and end not in ready:
            raise TimeoutError
        if is_over and not ready and not any(flow.data for flow in flows):
            return
        is_over = is_over or end in ready
        for flow in active:
            if flow.data and flow.sink in ready:
                try:
                    flow.write()
                except OSError:
                    if flow is not keys:
                        raise
                    flow.close()  # the command reads no more
            elif not flow.data and flow.is_open and flow.source in ready and flow.may_read():
                flow.read()
        if keys.sink >= 0 and not keys.is_open and not keys.data:
            keys.close()


def _resize(source: int, target: int, child: Child | None = None) -> None:
    """Give a terminal the size of another, and tell the program."""
    try:
        size = fcntl.ioctl(source, termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(target, termios.TIOCSWINSZ, size)
    except OSError:  # it has gone
        return
    if child is not None:
        child.send_signal(SIGWINCH)
