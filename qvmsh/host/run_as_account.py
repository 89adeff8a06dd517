"""A program run with another account's rights, on a terminal that is not root's.

    status = run(argv, account=guido, environ=environ, has_keys=True, pass_fds=[])

A process that shares a terminal with root can type into it, read what root types later, or change its modes.
So where a standard stream is a terminal the program gets a terminal of its own (a pty) in its place, and a
session of its own; qvm passes bytes, size and signals. Files and pipes are inherited.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import tty

from qvmsh import errors
from qvmsh.host import tty_mode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any

    from qvmsh.host.accounts import Account

_PIECE = 65536
_LINGER_MS = 300
_PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""


INTERPRETERS = ("/usr/bin/python3", "/usr/local/bin/python3")
"""Tried where the account may not run root's own Python (one in root's home)."""


def qvm(account: Account, environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The Pythons with which `-P -m qvmsh` may work for the account, best first; and its environment."""
    own = os.path.dirname(os.path.dirname(errors.__file__))
    packages = [own, *(each for each in sys.path if os.path.basename(each) == "site-packages")]
    found = account.environment(environ) | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(packages))}
    return list(dict.fromkeys((sys.executable, *INTERPRETERS))), found


def run(
    argv: Sequence[str],
    *,
    account: Account,
    environ: dict[str, str],
    has_keys: bool,
    pass_fds: Sequence[int],
    readers: dict[int, Callable[[bytes], object]],
) -> int:
    """Run a program to its end; its exit status, 128 + N after signal N.

    Args:
        has_keys: what is typed is the program's; else only Ctrl-C and Ctrl-Z reach it.
        pass_fds: descriptors that the program inherits; they are closed here.
        readers: called with what comes from a descriptor.

    Raises:
        OSError: the account cannot run it.
    """
    relay = _Relay(has_keys=has_keys)
    try:
        child = relay.begin(list(argv), account, environ, pass_fds)
    except BaseException:
        relay.close()
        raise
    finally:
        for fd in pass_fds:
            os.close(fd)
    try:
        with relay:
            relay.pump(child, readers)
    finally:
        relay.close()
        status = child.wait()
    return 128 - status if status < 0 else status


class _Relay:
    """The terminal between root's and the program's; none where no standard stream is one."""

    def __init__(self, *, has_keys: bool) -> None:
        terminals = [fd for fd in (0, 1, 2) if os.isatty(fd)]
        self.fd = terminals[0] if terminals else -1
        self.output = next((fd for fd in terminals if fd), -1)
        # a process in the background must not touch the terminal's mode: it would be stopped
        is_in_front = bool(terminals) and _is_in_front(self.fd)
        self.has_keys = has_keys and 0 in terminals and is_in_front
        self.master = self.slave = -1
        self._mode: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._child: subprocess.Popen[bytes] | None = None
        if terminals:
            self.master, self.slave = pty.openpty()
            mode = termios.tcgetattr(self.fd)
            if not self.has_keys:
                mode[1] &= ~termios.OPOST  # root's terminal does that
            termios.tcsetattr(self.slave, termios.TCSANOW, mode)
            self._resize()

    def begin(
        self, argv: list[str], account: Account, environ: dict[str, str], pass_fds: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        streams: list[int | None] = [self.slave if os.isatty(fd) else None for fd in (0, 1, 2)]
        if streams[0] is not None and not self.has_keys:
            streams[0] = subprocess.DEVNULL
        if self.slave >= 0:
            os.fchown(self.slave, account.uid, -1)
        prctl = _prctl()

        def prepare() -> None:
            """In the child, with the account's rights."""
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if self.slave >= 0:
                fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
            os.close(os.open(errors.__file__, os.O_RDONLY))  # qvm itself

        try:
            self._child = subprocess.Popen(
                argv,
                user=account.uid,
                group=account.gid,
                extra_groups=account.groups,
                env=environ,
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509  # one command line, and no threads yet
            )
        except subprocess.SubprocessError:  # all that `prepare` can fail at
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), errors.__file__) from None
        return self._child

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            self._handlers[number] = signal.signal(number, self._pass_on)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop)
        self._handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: self._resize())
        if self.has_keys:
            self._mode = termios.tcgetattr(self.fd)
            tty.setraw(self.fd)

    def __exit__(self, *_: object) -> None:
        tty_mode.restore(self.fd, self._mode)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def close(self) -> None:
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)
        self.master = self.slave = -1

    def pump(self, child: subprocess.Popen[bytes], readers: dict[int, Callable[[bytes], object]]) -> None:
        """Pass bytes both ways until the program has ended and all that it wrote is passed."""
        end = os.pidfd_open(child.pid)
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1
            os.set_blocking(self.master, False)
        sources = {fd for fd in (self.master, *readers) if fd >= 0}
        keys = {self.fd} if self.has_keys else set()
        typed = b""
        is_over = False
        while sources or not is_over:
            poll = select.poll()
            for fd in sources | (set() if typed else keys) | (set() if is_over else {end}):
                poll.register(fd, select.POLLIN)
            if typed and self.master in sources:
                poll.register(self.master, select.POLLIN | select.POLLOUT)
            ready = dict(poll.poll(_LINGER_MS if is_over else None))
            if is_over and not ready:
                break  # what the program has left behind keeps its terminal open
            is_over = is_over or end in ready
            for fd in ready.keys() & keys:
                typed = _read(fd) or b""
                keys = keys if typed else set()
            for fd in ready.keys() & sources:
                if fd == self.master and ready[fd] & select.POLLOUT:
                    typed = typed[_write_some(fd, typed) :]
                if ready[fd] & ~select.POLLOUT:
                    data = _read(fd)
                    if data is not None:
                        sources -= set() if data else {fd}
                        _write(self.output, data) if fd == self.master else readers[fd](data)
        os.close(end)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        """Ctrl-C and the like reach the program and its children, as on its own terminal."""
        if self._child is not None and self._child.returncode is None:
            try:
                if number in (signal.SIGINT, signal.SIGQUIT):
                    os.killpg(self._child.pid, number)
                else:
                    self._child.send_signal(number)
            except ProcessLookupError:
                pass

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z stops the program and this process; `fg` resumes both."""
        if self._child is not None and self._child.returncode is None:
            os.killpg(self._child.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._child is not None and self._child.returncode is None:
            os.killpg(self._child.pid, signal.SIGCONT)

    def _resize(self) -> None:
        try:
            size = fcntl.ioctl(self.fd, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
        except OSError:  # the terminal has gone
            pass


def _is_in_front(fd: int) -> bool:
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # not our controlling terminal
        return False


def _prctl() -> Callable[..., object]:
    """prctl(2), found before the child has lost root's rights."""
    import ctypes

    found: Callable[..., object] = ctypes.CDLL(None).prctl
    return found


def _read(fd: int) -> bytes | None:
    """What can be read; empty at the end, None if there is nothing now."""
    try:
        return os.read(fd, _PIECE)
    except BlockingIOError:
        return None
    except OSError:  # EIO: no process has the other end of a pty open
        return b""


def _write_some(fd: int, data: bytes) -> int:
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


def _write(fd: int, data: bytes) -> None:
    """Write all of `data`, unless the reader has gone."""
    view = memoryview(data)
    while view and fd >= 0:
        try:
            view = view[os.write(fd, view) :]
        except OSError:
            return
