"""A file of a machine that goes into a package: where it holds data, that data, and its checksum.

found = look(fd)
found.runs               # [(0, 65536), (1048576, 65536)]: where it holds data
with Summing(found) as total:
    for at, data in slices(fd, found, tell, checkpoint):
        total.add(at, data)                # on another processor
total.digest()
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from dataclasses import dataclass

from qvmsh.host import checksum, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Tell = Callable[[int], None]


SLICE_BYTES = 1 << 20
HOLE_BYTES = 1 << 16
"""The smallest hole."""
MOST_RUNS = 1 << 20
"""In a larger file the smallest hole is larger, so that a list of what it holds stays short."""
MOST_HASHED_BYTES = 1 << 30
"""A file with holes of so many bytes gets a checksum of its data alone: hashing zeros takes time too."""
OF_DATA = checksum.OF_DATA
_ZEROS = bytes(HOLE_BYTES)


@dataclass(frozen=True)
class Scan:
    """What is known of a file before it is read.

    Args:
        runs: offset and length of each part that may hold data; multiples of HOLE_BYTES, but for the end.
        is_of_data: its checksum is that of its data alone.
        changed_ns: when it was last written to.
    """

    size_bytes: int
    runs: tuple[tuple[int, int], ...]
    is_of_data: bool
    changed_ns: int

    @property
    def data_bytes(self) -> int:
        return sum(length for _, length in self.runs)

    @property
    def has_holes(self) -> bool:
        return self.data_bytes < self.size_bytes

    @property
    def placeholder(self) -> str:
        """As long as its checksum."""
        return OF_DATA * self.is_of_data + "0" * 64


class Changed(Exception):
    """The file was written to while it was read."""


class Sha256:
    """SHA-256 of a file whose data comes in pieces, in its order.

    Of the second kind (`data:`) it is that of each block of 64 KiB that is not all zero, with its place
    before it as 8 bytes (big endian), and of the size at the end.

    Args:
        is_of_data: the second kind.
    """

    def __init__(self, *, is_of_data: bool) -> None:
        self._is_of_data = is_of_data
        self._sum = hashlib.sha256()
        self._at = 0

    def add(self, at: int, data: bytes) -> None:
        """A piece that begins at a multiple of HOLE_BYTES; what is before it and did not come is zeros."""
        if self._is_of_data:
            _add_blocks(self._sum, at, data)
            return
        self._skip(at)
        self._sum.update(data)
        self._at += len(data)

    def _skip(self, to: int) -> None:
        zeros = bytes(min(SLICE_BYTES, max(0, to - self._at)))
        while self._at < to:
            part = zeros[: to - self._at]
            self._sum.update(part)
            self._at += len(part)

    def digest(self, size_bytes: int) -> str:
        """The checksum of a file of that size."""
        if self._is_of_data:
            self._sum.update(size_bytes.to_bytes(8, "big"))
            return OF_DATA + self._sum.hexdigest()
        self._skip(size_bytes)
        return self._sum.hexdigest()


def _add_blocks(found: hashlib._Hash, at: int, data: bytes) -> None:
    """Add the blocks that are not all zero, each with its place."""
    for first, length in parts(data):
        for begin in range(first, first + length, HOLE_BYTES):
            found.update((at + begin).to_bytes(8, "big"))
            found.update(data[begin : min(begin + HOLE_BYTES, first + length)])


class Summing:
    """The checksum of a file, made by another thread while its data is packed."""

    def __init__(self, found: Scan) -> None:
        self._size_bytes = found.size_bytes
        self._sum = Sha256(is_of_data=found.is_of_data)
        self._left: queue.Queue[tuple[int, bytes] | None] = queue.Queue(maxsize=8)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Summing:
        self._thread.start()
        return self

    def add(self, at: int, data: bytes) -> None:
        """The next piece, see `Sha256.add`."""
        self._left.put((at, data))

    def _run(self) -> None:
        while (piece := self._left.get()) is not None:
            self._sum.add(*piece)

    def __exit__(self, *_: object) -> None:
        self._left.put(None)
        self._thread.join()

    def digest(self) -> str:
        """The checksum, once the block has ended."""
        return self._sum.digest(self._size_bytes)


def parts(data: bytes) -> Iterator[tuple[int, int]]:
    """Offset and length of what is in a piece between blocks of zeros."""
    begin = -1
    for at in range(0, len(data), HOLE_BYTES):
        left = len(data) - at
        is_zero = data.startswith(_ZEROS if left >= HOLE_BYTES else _ZEROS[:left], at)
        if is_zero and begin >= 0:
            yield begin, at - begin
            begin = -1
        elif not is_zero and begin < 0:
            begin = at
    if begin >= 0:
        yield begin, len(data) - begin


def look(fd: int) -> Scan:
    """Find out where an open file holds data, without reading it."""
    try:
        os.fdatasync(fd)  # some file systems know the holes only of what is stored
    except OSError:
        pass
    status = os.fstat(fd)
    size = status.st_size
    least = max(HOLE_BYTES, (size // MOST_RUNS + HOLE_BYTES) // HOLE_BYTES * HOLE_BYTES)
    runs: list[tuple[int, int]] = []
    for begin, length in _allocated(fd, size):
        if runs and begin - sum(runs[-1]) < least:
            runs[-1] = (runs[-1][0], begin + length - runs[-1][0])
        else:
            runs.append((begin, length))
    is_of_data = size - status.st_blocks * 512 >= MOST_HASHED_BYTES
    return Scan(size, tuple(runs), is_of_data, status.st_mtime_ns)


def slices(fd: int, found: Scan, tell: Tell, checkpoint: Callable[[], None]) -> Iterator[tuple[int, bytes]]:
    """The data of a file, each piece with its place.

    Raises:
        Changed: it was written to since `look`.
    """
    for at, data in _data(fd, found.runs):
        yield at, data
        tell(at + len(data))
        checkpoint()
    status = os.fstat(fd)
    if (status.st_size, status.st_mtime_ns) != (found.size_bytes, found.changed_ns):
        raise Changed


def _allocated(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the parts that may hold data, widened to whole blocks."""
    done = 0
    for begin, end in files.extents(fd):
        begin = max(done, begin - begin % HOLE_BYTES)
        done = min(size, end + -end % HOLE_BYTES)
        if done > begin:
            yield begin, done - begin


def _data(fd: int, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    """What is in those parts, in pieces that begin at multiples of HOLE_BYTES."""
    for begin, length in runs:
        at = begin
        while at < begin + length:
            count = min(SLICE_BYTES, begin + length - at)
            data = os.pread(fd, count, at)
            if len(data) < count:  # a device may give less than asked for
                data = _patiently(fd, data, count, at)
            yield at, data
            at += count


def _patiently(fd: int, data: bytes, count: int, at: int) -> bytes:
    while len(data) < count:
        more = os.pread(fd, count - len(data), at + len(data))
        if not more:
            raise Changed
        data += more
    return data


def of_bytes(data: bytes) -> str:
    """The checksum of a small file."""
    return hashlib.sha256(data).hexdigest()
