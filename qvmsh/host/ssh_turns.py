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
                    return True
                except BlockingIOError:
                    if time.monotonic() >= self._deadline:
                        return False
                    time.sleep(LOOK_S)  # a lock cannot be waited for with a time limit
        except BaseException:
            os.close(self._lock)
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)


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
