"""Which command uses which cached connection, and which one logs in: blocks of `ssh_connection.Link`.

Written as classes: `contextlib` takes longer to import than a command over ssh may take for itself.
"""

from __future__ import annotations

import os
import time

from qvmsh.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S = 0.02


class Turn:
    """The lock on logins; the block gets whether we have it."""

    def __init__(self, path: str, deadline: float) -> None:
        self._path = path
        self._deadline = deadline

    def __enter__(self) -> bool:
        import fcntl

        self._lock = files.opened(self._path, os.O_RDWR | os.O_CREAT)
        try:
            while True:
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.ftruncate(self._lock, 0)  # of one that was killed while it asked
                    return True
                except BlockingIOError:
                    if time.monotonic() >= self._deadline or asked(self._path):
                        return False
                    time.sleep(LOOK_S)  # a lock cannot be waited for with a time limit
        except BaseException:
            os.close(self._lock)
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)


class Asking:
    """The block in which the holder of the turn asks its user for a password.

    Args:
        path: of the lock, which names the process for others.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._write(str(os.getpid()).encode())

    def __exit__(self, *_: object) -> None:
        self._write(b"")

    def _write(self, data: bytes) -> None:
        fd = files.opened(self._path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)


def asked(path: str) -> int:
    """The process that has the turn and asks its user for a password; 0 if there is none."""
    try:
        text = files.read(path).text
    except OSError:
        return 0
    return int(text) if text.isdecimal() and os.path.exists(f"/proc/{text}") else 0


class Ended:
    """The block of `Link.ended_by_failure`.

    Args:
        end: ends the connection.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, *_: object) -> None:
        if kind:
            self._end()
