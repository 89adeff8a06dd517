"""Checksums of files and streams, made while they are copied: XXH3 of 128 bits, which `xxh128sum` can check.

found = like("")
found.update(b"...")
found.digest()
"""

from __future__ import annotations

import os
import threading

import xxhash

from qvmsh.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Tell = Callable[[int], None]
    """Called with the number of bytes of the source that are done."""

OF_DATA = "data:"
BLOCK_BYTES = 1 << 16
ZEROS = bytes(BLOCK_BYTES)


class Sum:
    """The checksum of bytes that come in order: XXH3 of them all, or (`data:`) of what is not zero.

    That is of each block of 64 KiB that is not all zero, with its place before it as 8 bytes (big
    endian), and of the size at the end. How a file system stores the zeros makes no difference.

    Args:
        is_of_data: the second kind.
    """

    def __init__(self, *, is_of_data: bool) -> None:
        self._is_of_data = is_of_data
        self._sum = xxhash.xxh3_128()
        self._rest = b""
        self.size = 0

    def update(self, data: bytes | memoryview) -> None:
        """The next bytes."""
        self.size += len(data)
        if not self._is_of_data:
            self._sum.update(data)
            return
        data = self._rest + bytes(data)
        begin = self.size - len(data)
        whole = len(data) - len(data) % BLOCK_BYTES
        for at in range(0, whole, BLOCK_BYTES):
            self._add(begin + at, data[at : at + BLOCK_BYTES])
        self._rest = data[whole:]

    def _add(self, at: int, block: bytes) -> None:
        if block != ZEROS[: len(block)]:
            self._sum.update(at.to_bytes(8, "big"))
            self._sum.update(block)

    def skip(self, count: int) -> None:
        """As many zeros as a hole has bytes."""
        if self._is_of_data:
            head = min(count, -self.size % BLOCK_BYTES)
            self.update(ZEROS[:head])
            count -= head
            self.size += count - count % BLOCK_BYTES
            count %= BLOCK_BYTES
        while count:
            self.update(ZEROS[: min(count, BLOCK_BYTES)])
            count -= min(count, BLOCK_BYTES)

    def digest(self) -> str:
        """The checksum of all that came."""
        if not self._is_of_data:
            return self._sum.hexdigest()
        self._add(self.size - len(self._rest), self._rest)
        self._sum.update(self.size.to_bytes(8, "big"))
        return OF_DATA + self._sum.hexdigest()


def like(checksum: str) -> Sum:
    """A checksum of the same kind as a recorded one."""
    return Sum(is_of_data=checksum.startswith(OF_DATA))


def add_file(fd: int, found: Sum, checkpoint: Callable[[], object], tell: Tell = lambda _: None) -> None:
    """Hash an open file, whose holes are not read; its position does not matter."""
    buffer = bytearray(1 << 20)  # it stays in the processor's cache
    for begin, end in files.extents(fd):
        found.skip(begin - found.size)
        while found.size < end:
            count = os.preadv(fd, [memoryview(buffer)[: end - found.size]], found.size)
            if not count:
                return
            found.update(memoryview(buffer)[:count])
            tell(found.size)
            checkpoint()
    found.skip(max(0, os.fstat(fd).st_size - found.size))


class _Stopped(Exception):
    pass


class Hashing:
    """The checksum of an open file, made by a thread."""

    def __init__(self, fd: int, found: Sum) -> None:
        self._fd = fd
        self._sum = found
        self._error: OSError | None = None
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            add_file(self._fd, self._sum, self._checkpoint)
        except OSError as error:
            self._error = error
        except _Stopped:
            pass

    def _checkpoint(self) -> None:
        if self._is_stopped:
            raise _Stopped

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._is_stopped = True
        self._thread.join()

    def digest(self) -> str:
        if self._error:
            raise self._error
        return self._sum.digest()
