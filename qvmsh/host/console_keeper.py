"""Keeps a guest's serial console: all of it into a log of bounded size, and live to any number of clients.

Run as a program of its own (`python -I -S keeper.py LIFE OUT IN DOOR LOGS NAME [gap]`), so it imports
nothing of qvm. The first five are numbers of descriptors:

- LIFE: readable once QEMU has ended (a pipe whose other end QEMU has, or a pidfd)
- OUT: the FIFO that QEMU's console is written to; locked (flock) by its one reader
- IN: the FIFO that QEMU's console is read from
- DOOR: a socket that listens for clients
- LOGS: the folder of the log, whose name in it is NAME

QEMU must never wait for a client: one that is slower gets the rest from the log, at its own rate. Only what
has left the log by then is left out, and the client gets the number of bytes.

A FIFO holds all that comes while the keeper sleeps or writes, and a write of one byte to it, as by a UART,
costs QEMU less than one to a file. So it reads at most 500 times a second, as much as there is.

Two processes: one that works, and one that waits for it and starts another if it is killed.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from _signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, signal

HEAD_BYTES = 4 << 20
TAIL_BYTES = 8 << 20
"""What is kept of a log that was shortened: its beginning and its end."""
LEFT_OUT = b"\r\n[qvm: %15d bytes left out here]\r\n"
"""The mark in between, always of the same length."""
MARK_BYTES = len(LEFT_OUT % 0)
MISSED = b"\r\n[qvm: %d bytes left out]\r\n"
GAP = b"\r\n[qvm: the log was interrupted here; some bytes may be missing]\r\n"

NAP_S = 0.002
PATIENCE_MS = 60_000
MOST_CLIENTS = 64
_PIECE = 1 << 20
_TYPED = 4096


def left_out(fd: int) -> int:
    """How many bytes are missing in the middle of a log; 0 if it was not shortened."""
    words = os.pread(fd, MARK_BYTES, HEAD_BYTES).split()
    try:
        number = int(words[1])
    except (IndexError, ValueError):
        return 0
    return number if words[0] == b"[qvm:" and words[-1] == b"here]" else 0


def shorten(name: str, fd: int, folder: int | None = None) -> int:
    """Keep the beginning and the end of the log `name`; return a descriptor of the new file.

    Args:
        fd: the log, open for reading.
        folder: where it is; None if `name` is a path.

    Raises:
        OSError: the log is as it was.
    """
    status, before = os.fstat(fd), left_out(fd)
    begin = status.st_size - TAIL_BYTES
    missing = begin - HEAD_BYTES + (before - MARK_BYTES if before else 0)
    part = f"{name}.part"
    try:
        os.unlink(part, dir_fd=folder)
    except FileNotFoundError:
        pass
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    new = os.open(part, flags, 0o600, dir_fd=folder)
    try:
        os.fchmod(new, stat.S_IMODE(status.st_mode))
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(new, status.st_uid, status.st_gid)
        _copy(fd, 0, HEAD_BYTES, new)
        _write(new, LEFT_OUT % missing)
        _copy(fd, begin, status.st_size, new)
        os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        os.close(new)
        os.unlink(part, dir_fd=folder)
        raise
    return new


def _copy(fd: int, at: int, end: int, new: int) -> None:
    while at < end and (data := os.pread(fd, min(_PIECE, end - at), at)):
        _write(new, data)
        at += len(data)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


class Log:
    """The log, which never grows beyond its beginning and twice its end.

    Args:
        folder: descriptor of the folder it is in.
    """

    def __init__(self, folder: int, name: str) -> None:
        self.folder = folder
        self.name = name
        self.lost = 0
        self.position = 0
        """How many bytes have been added, for clients that are behind."""
        self.fd = -1
        self.limit = HEAD_BYTES + MARK_BYTES + 2 * TAIL_BYTES

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self.name, flags, 0o600, dir_fd=self.folder)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(f"{self.name} is not a regular file")
        return fd

    def add(self, data: bytes) -> None:
        """Write `data`; what a full disk does not take is counted, and noted where the log continues."""
        done = 0
        try:
            if self.fd < 0:
                self.fd = self._open()
            if self.lost:
                mark = MISSED % self.lost
                _write(self.fd, mark)
                self.position += len(mark)
                self.lost = 0
            while done < len(data):
                written = os.write(self.fd, data[done:])
                done += written
                self.position += written
        except OSError:
            self.lost += len(data) - done
            return
        status = os.fstat(self.fd)
        if status.st_size > self.limit:
            self._renew(status)

    def read(self, position: int) -> tuple[int, bytes]:
        """A piece of what was added after `position`; and how many bytes of it are no longer there."""
        size = os.fstat(self.fd).st_size
        lag = self.position - position
        gone = max(0, lag - min(size, TAIL_BYTES))
        return gone, os.pread(self.fd, 65536, size - lag + gone)

    def _renew(self, status: os.stat_result) -> None:
        """Shorten the log, or begin a new one if it was removed."""
        try:
            try:
                there = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
                is_there = (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)
            except FileNotFoundError:
                is_there = False
            new = shorten(self.name, self.fd, self.folder) if is_there else self._open()
        except OSError:  # a full disk: try again later
            self.limit = status.st_size + TAIL_BYTES
            return
        os.close(self.fd)
        self.fd = new


class Client:
    """A client: gets what the guest writes from now on, and may write to the guest."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.missed = 0
        self.behind = -1
        """The position in the log up to which it has all; -1 if it has all there is."""
        self.is_deaf = False
        """It reads no more; what it has typed before is still to be taken, up to its end."""
        os.set_blocking(fd, False)

    def give(self, data: bytes, log: Log) -> None:
        """Send what the socket has room for of `data`, just logged."""
        if self.behind >= 0 or self.is_deaf:
            return
        try:
            self._tell()
            sent = os.write(self.fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.is_deaf = True
            return
        rest = len(data) - sent
        if rest and log.lost:
            self.missed += rest
        elif rest:
            self.behind = log.position - rest

    def catch_up(self, log: Log) -> None:
        """Send a piece of what is in the log already."""
        try:
            gone, data = log.read(self.behind)
            self.missed += gone
            self.behind += gone
            self._tell()
            self.behind += os.write(self.fd, data)
        except BlockingIOError:
            pass
        except OSError:
            self.is_deaf, self.behind = True, -1
        if self.behind == log.position:
            self.behind, self.missed = -1, self.missed + log.lost

    def _tell(self) -> None:
        if self.missed:
            os.write(self.fd, MISSED % self.missed)  # so short a text is taken whole, or not at all
            self.missed = 0


class Keeper:
    """One console, until QEMU ends."""

    def __init__(self, life: int, out: int, into: int, door: int, log: Log) -> None:
        import _socket  # `socket` itself costs more than this program

        self.life, self.out, self.into = life, out, into
        self.door = _socket.socket(fileno=door)
        try:
            self.door_inode = os.stat(self.door.getsockname()).st_ino
        except OSError:
            self.door_inode = 0
        self.log = log
        self.clients: dict[int, Client] = {}
        self.typed = b""

    def run(self) -> None:
        is_over = False
        while not is_over:
            ready = self._wait()
            if self.door.fileno() in ready:  # first: a client may wait for the first byte
                self._welcome()
            is_over = self.life in ready or bool(ready.get(self.out, 0) & select.POLLHUP)
            data = self._heard()
            if data:
                self.log.add(data)
                for client in list(self.clients.values()):
                    client.give(data, self.log)
            for fd, what in ready.items():
                if fd not in self.clients:
                    continue
                if what & select.POLLOUT and self.clients[fd].behind >= 0:
                    self.clients[fd].catch_up(self.log)
                if what & ~select.POLLOUT:
                    self._take(self.clients[fd])
            self._type()
            if data and not is_over:
                time.sleep(NAP_S)

    def _wait(self) -> dict[int, int]:
        poll = select.poll()
        for fd in (self.life, self.out):
            poll.register(fd, select.POLLIN)
        if len(self.clients) < MOST_CLIENTS:
            poll.register(self.door.fileno(), select.POLLIN)
        if self.typed:  # the guest reads it when it can
            poll.register(self.into, select.POLLOUT)
        for client in self.clients.values():
            wanted = 0 if self.typed else select.POLLIN
            wanted |= select.POLLOUT if client.behind >= 0 else 0
            if wanted:
                poll.register(client.fd, wanted)
        return dict(poll.poll())

    def _heard(self) -> bytes:
        """All that there is now, at most as much as the FIFO holds."""
        pieces = []
        try:
            while data := os.read(self.out, 65536):
                pieces.append(data)
                if len(pieces) == _PIECE // 65536:
                    break
        except BlockingIOError:
            pass
        return b"".join(pieces)

    def _take(self, client: Client) -> None:
        """What a client types; the others wait until the guest has it."""
        if self.typed:
            return
        try:
            self.typed = os.read(client.fd, _TYPED)
        except BlockingIOError:
            return
        except OSError:
            pass
        if not self.typed:
            self._leave(client)

    def _type(self) -> None:
        try:
            while self.typed:
                self.typed = self.typed[os.write(self.into, self.typed) :]
        except BlockingIOError:
            pass
        except OSError:
            self.typed = b""

    def _welcome(self) -> None:
        try:
            fd, _ = self.door._accept()  # type: ignore[attr-defined]  # not in typeshed
        except OSError:
            return
        self.clients[fd] = Client(fd)

    def _leave(self, client: Client) -> None:
        del self.clients[client.fd]
        os.close(client.fd)

    def see_off(self) -> None:
        """Give clients that are behind the rest, in another process, until none reads for a minute."""
        late = {fd: client for fd, client in self.clients.items() if client.behind >= 0}
        if not late or os.fork():
            return
        for fd in {self.life, self.out, self.into, self.door.fileno(), *self.clients} - late.keys():
            os.close(fd)  # the lock of the console, and the pipes whose end others wait for
        while late:
            poll = select.poll()
            for fd in late:
                poll.register(fd, select.POLLOUT)
            ready = poll.poll(PATIENCE_MS)
            if not ready:
                break
            for fd, _ in ready:
                late[fd].catch_up(self.log)
                if late[fd].behind < 0:
                    os.close(fd)
                    del late[fd]
        os._exit(0)

    def close_door(self) -> None:
        """Remove the keeper's socket, as QEMU does its own; one that the next run has made there stays."""
        try:
            path = self.door.getsockname()
            if os.stat(path).st_ino == self.door_inode:
                os.unlink(path)
        except OSError:
            pass


def main() -> None:
    for number in (SIGTERM, SIGHUP, SIGINT):  # for QEMU too, whose last messages are wanted
        signal(number, SIG_IGN)
    life, out, into, door, folder = map(int, sys.argv[1:6])
    name, has_gap = sys.argv[6], len(sys.argv) > 7
    os.chdir("/")
    if has_gap and os.fork():  # no process waits for this one
        return
    while True:
        child = os.fork()
        if child == 0:
            log = Log(folder, name)
            if has_gap:
                log.add(GAP)
            keeper = Keeper(life, out, into, door, log)
            keeper.run()
            keeper.close_door()
            keeper.see_off()
            os._exit(0)  # at once: a process waits for this one
        if os.waitpid(child, 0)[1] == 0:
            os._exit(0)
        has_gap = True
        time.sleep(0.5)  # if it fails again and again


if __name__ == "__main__":
    main()
