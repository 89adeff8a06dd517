"""Log files: opened without following links, cut off as they grow old, read from their end.

May import: `host.files`.

    rotate("/vm/demo/.qvm/log/serial.log")       # serial.log -> serial.log.1 -> ... -> serial.log.5
    with opened("/vm/demo/.qvm/log/serial.log") as file:
        last_lines(file.fileno(), 10)            # b"...\\r\\ndemo login: "

A log lies in a folder that its machine's owner can write to, and root may be the one who starts the
machine: so a name that has become a link, a pipe or a device is never opened.
"""

from __future__ import annotations

import errno
import os
import stat

from qvmsh.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

KEPT = 5
"""How many earlier logs are kept of each kind."""
OLD_BYTES = 8 << 20
"""What an earlier log may have; of a longer one the end is kept."""
_BLOCK = 65536


def append_to(path: str) -> int:
    """Descriptor of a log, made if it is not there, that writes at its end.

    Raises:
        OSError: something that is no plain file has its name.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return _plain(path, os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600))


def opened(path: str) -> IO[bytes]:
    """A log, open for reading; unbuffered, so that it can be followed.

    Raises:
        OSError: it is not there, or something that is no plain file has its name.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    return open(_plain(path, fd), "rb", buffering=0)


def _plain(path: str, fd: int) -> int:
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "is no plain file", path)


def rotate(path: str, *, kept: int = KEPT, least: int = 1) -> None:
    """Let a new log begin at `path`: what is there becomes `path.1`, that `path.2`, and so on.

    Args:
        kept: how many earlier ones stay.
        least: a log with fewer bytes than this stays where it is.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        os.unlink(path)
        return
    if status.st_size < least:
        return
    for number in range(kept - 1, 0, -1):
        try:
            os.rename(f"{path}.{number}", f"{path}.{number + 1}")
        except FileNotFoundError:
            pass
    os.rename(path, f"{path}.1")
    _cut(f"{path}.1")


def _cut(path: str) -> None:
    """Keep only the end of a log that is too long."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= OLD_BYTES:
            return
        part = f"{path}.part"
        files.remove(part)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.mode(path))
        with open(fd, "wb") as new:
            new.write(b"[qvm: %d bytes before this were cut off]\n" % (size - OLD_BYTES))
            file.seek(size - OLD_BYTES)
            while data := file.read(_BLOCK):
                new.write(data)
    os.rename(part, path)


def last_lines(fd: int, count: int, end: int | None = None) -> bytes:
    """The last `count` lines of the file before offset `end`; an unfinished one counts as a line."""
    end = os.fstat(fd).st_size if end is None else end
    begin, found = end, b""
    while begin > 0 and found.removesuffix(b"\n").count(b"\n") < count:
        step = min(_BLOCK, begin)
        begin -= step
        found = os.pread(fd, step, begin) + found
    lines = found.split(b"\n")
    last = lines.pop()  # what stands after the last line end
    if last:
        lines.append(last)
    chosen = lines[max(0, len(lines) - count) :]
    return b"".join(line + b"\n" for line in chosen).removesuffix(b"\n" if last else b"")
