"""Log files: opened without following links, rotated, read from their end.

    rotate("/vm/demo/.qvm/log/serial.log")       # serial.log -> serial.log.1 -> ... -> serial.log.5
    with opened("/vm/demo/.qvm/log/serial.log") as file:
        last_lines(file.fileno(), 10)            # b"...\\r\\ndemo login: "

A log is in a folder that its machine's owner can write to, and root may start the
machine: so a name that has become a link, a pipe or a device is never opened.
"""

from __future__ import annotations

import os
import stat

from qvmsh.host import console_keeper as keeper
from qvmsh.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

KEPT = 5
"""How many earlier logs are kept of each kind."""
_BLOCK = 65536
_LINE_BYTES, _LEAST_BYTES = 4096, 1 << 20


def append_to(path: str) -> int:
    """Descriptor of a log, made if it is not there, that writes at its end.

    Raises:
        OSError: its path is not a regular file.
    """
    return files.opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)


def opened(path: str) -> IO[bytes]:
    """A log, open for reading; unbuffered, so that it can be followed.

    Raises:
        OSError: it does not exist, or is not a regular file.
    """
    return open(files.opened(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0)


def rotate(path: str, *, kept: int = KEPT, least: int = 1) -> None:
    """Make way for a new log at `path`: the present one becomes `path.1`, that `path.2`, and so on.

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
    _shorten(f"{path}.1")


def _shorten(path: str) -> None:
    """Keep only the beginning and the end of a log that is too long."""
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > keeper.HEAD_BYTES + keeper.MARK_BYTES + keeper.TAIL_BYTES:
            os.close(keeper.shorten(path, file.fileno()))


def last_lines(fd: int, count: int, end: int | None = None) -> bytes:
    """The last `count` lines of the file before offset `end`; one without an end counts as a line."""
    end = os.fstat(fd).st_size if end is None else end
    begin, ends, blocks = end, 0, []
    first = max(0, end - max(_LINE_BYTES * count, _LEAST_BYTES))  # a guest may never end its line
    while begin > first and ends <= count:
        step = min(_BLOCK, begin - first)
        begin -= step
        blocks.append(os.pread(fd, step, begin))
        ends += blocks[-1].count(b"\n")
    lines = b"".join(reversed(blocks)).split(b"\n")
    last = lines.pop()  # the text after the last line end
    if last:
        lines.append(last)
    chosen = lines[max(0, len(lines) - count) :]
    return b"".join(line + b"\n" for line in chosen).removesuffix(b"\n" if last else b"")
