"""Locks: which process holds the pid file, which command works on a machine.

Two kinds. QEMU takes a POSIX record lock on its pid file and keeps it for life, so the kernel
knows the pid that runs a machine, whatever the file contains::

    holder("/vm/demo/.qvm/qemu.pid")     # 4711, or None

A `WorkLock` (flock) is held by a qvm command while it changes a machine; its file names the command.
Source: fcntl(2), flock(2); QEMU util/oslib-posix.c `qemu_write_pidfile`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time

from qvmsh.host import files, process

RECOVERING = "settle"
"""The work of a holder that recovers a killed command's work: others wait until it is done."""
RECOVERY_S = 60.0
_NOTE_S = 5.0
"""How long a holder on a busy host may take from its lock to its entry in the file."""
_GETLK = getattr(fcntl, "F_OFD_GETLK", fcntl.F_GETLK)
_SETLK = getattr(fcntl, "F_OFD_SETLK", fcntl.F_SETLK)


def holder(path: str, byte: int | None = None) -> int | None:
    """Pid of the process that holds a record lock on `path`, None if there is none.

    Args:
        byte: only a lock on that byte counts. QEMU's locks on images are such; the pid is -1 then.

    Raises:
        OSError: the file cannot be opened (PermissionError: another user's machine), or is not a file.
    """
    try:
        # an image may be a device
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        fd = files.opened(path) if byte is None else os.open(path, flags)
    except FileNotFoundError:
        return None
    start, count = (0, 0) if byte is None else (byte, 1)
    try:
        answer = fcntl.fcntl(fd, _GETLK, _range(fcntl.F_WRLCK, start, count))
    finally:
        os.close(fd)
    if int.from_bytes(answer[:2], sys.byteorder) == fcntl.F_UNLCK:
        return None
    return int.from_bytes(answer[24:28], sys.byteorder, signed=True)


def take_byte(fd: int, byte: int) -> bool:
    """Lock one byte of an open file until it is closed; False if another process has locked it."""
    try:
        fcntl.fcntl(fd, _SETLK, _range(fcntl.F_WRLCK, byte, 1))
    except (BlockingIOError, PermissionError):
        return False
    return True


def release_byte(fd: int, byte: int) -> None:
    fcntl.fcntl(fd, _SETLK, _range(fcntl.F_UNLCK, byte, 1))


def _range(kind: int, start: int, count: int) -> bytes:
    """Linux' `struct flock` on 64 bits: l_type, l_whence, 4 bytes, l_start, l_len, l_pid, 4 bytes.

    By hand: the module `struct` costs a tenth of what `qvm status -s` may take.
    """
    where = start.to_bytes(8, sys.byteorder) + count.to_bytes(8, sys.byteorder)
    return kind.to_bytes(2, sys.byteorder) + bytes(6) + where + bytes(8)  # SEEK_SET and the pid are zero


class Holder:
    """The holder of a `WorkLock`: pid, command, start (seconds since the epoch)."""

    __slots__ = ("pid", "since", "what")

    def __init__(self, pid: int, what: str, since: float) -> None:
        self.pid = pid
        self.what = what
        self.since = since

    def __str__(self) -> str:
        if not self.pid:
            return "another qvm command"
        what = "the recovery of interrupted work" if self.what == RECOVERING else f"`qvm {self.what}`"
        return f"{what}, pid {self.pid}, since {time.strftime('%T', time.localtime(self.since))}"


class Held(Exception):
    """Another process holds the lock."""

    def __init__(self, by: Holder) -> None:
        super().__init__(str(by))
        self.by = by


HELD: list[int] = []
"""The locks of this process. A program that changes a machine's files inherits them, so that
no other command begins while that program outlives a qvm that was killed."""


class WorkLock:
    """An exclusive flock on a file that names its holder; ends with the process, however it ends.

    The descriptor may be passed to a child (`fd`): then the lock lasts until both release it.
    """

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = what
        self.fd = -1

    def acquire(self) -> WorkLock:
        """Take the lock at once (or after a holder that is `RECOVERING`).

        Raises:
            Held: with the holder.
            OSError: its path is not a file.
        """
        fd = files.opened(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                by = _holder(fd)
                # a holder writes its name just after it has the lock: look again rather than guess
                patience_s = RECOVERY_S if by and by.what == RECOVERING else 0.0 if by and by.pid else _NOTE_S
                if by and (self.what == RECOVERING or time.monotonic() - began > patience_s):
                    os.close(fd)
                    raise Held(by) from None
                process.wait_readable([], 0.005)
        _write_note(fd, self.what)
        self.fd = fd
        HELD.append(fd)
        return self

    def begin_again(self) -> None:
        """Let the time that the file names be now."""
        _write_note(self.fd, self.what)

    def release(self) -> None:
        if self.fd >= 0:
            if self.fd in HELD:
                HELD.remove(self.fd)
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> WorkLock:
        return self if self.fd >= 0 else self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _write_note(fd: int, what: str) -> None:
    """Name this process as the holder, since now."""
    note = f"{os.getpid()} {time.time():.0f} {what}\n".encode()
    try:
        os.pwrite(fd, note, 0)
        os.ftruncate(fd, len(note))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.ftruncate(fd, 0)  # it holds without its holder's name


def working(path: str) -> Holder | None:
    """The holder of the `WorkLock` at `path`; None if there is none (or it is not a file)."""
    try:
        fd = files.opened(path)
    except OSError:
        return None
    try:
        return _holder(fd)
    finally:
        os.close(fd)


def _holder(fd: int) -> Holder | None:
    """Who has the lock; None where it is free, or others just ask this."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(fd)
    fcntl.flock(fd, fcntl.LOCK_UN)
    return None


def _read(fd: int) -> Holder:
    """The holder that the file names; written just after the lock is taken, so a dead one is stale."""
    line = os.pread(fd, 200, 0).partition(b"\n")[0]  # the rest is of an earlier holder
    words = line.decode(errors="replace").split(None, 2)
    pid, since = (*map(process.number, words), 0, 0)[:2]
    if len(words) == 3 and pid and since and process.exists(pid):
        return Holder(pid, words[2].strip(), float(since))
    return Holder(0, "", 0.0)
