"""Files of the host as a tar stream for the guest.

    packing = Packing(write, is_gnu=True, tell=..., checkpoint=...)
    packing.add(b"/home/me/project", b"project")
    packing.end()

What cannot be read is in `failed`, and the rest is packed.
"""

from __future__ import annotations

import os
import stat

from qvmsh.host import scan
from qvmsh.host.tar_writer import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLICE_BYTES = 1 << 20
GATHERED_BYTES = 256 << 10


class Shorter(Exception):
    """A file became shorter while it was read."""


def slices(fd: int, begin: int, length: int) -> Iterator[bytes]:
    """A part of an open file, in its order.

    Raises:
        Shorter: it is not there any more.
    """
    at = begin
    while at < begin + length:
        data = os.pread(fd, min(SLICE_BYTES, begin + length - at), at)
        if not data:
            raise Shorter
        yield data
        at += len(data)


def is_sparse(status: os.stat_result) -> bool:
    """True for a file with holes worth keeping."""
    return status.st_size >= scan.HOLE_BYTES and status.st_blocks * 512 < status.st_size


class Packing:
    """A tar stream.

    Args:
        write: gets its bytes.
        is_gnu: the guest's tar knows sparse members; else such files are left for `sparse`.
        tell: called with the number of bytes that have been packed.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        *,
        is_gnu: bool,
        tell: Callable[[int], None],
        checkpoint: Callable[[], None],
    ) -> None:
        self._gathered = _Gathered(write)
        self._tree = Tree(self._gathered.add)
        self._is_gnu = is_gnu
        self._tell = tell
        self._checkpoint = checkpoint
        self._folders: list[tuple[bytes, os.stat_result]] = []
        self._first: dict[tuple[int, int], bytes] = {}
        self.files = self.bytes = 0
        self.failed: list[str] = []
        self.incomplete: list[bytes] = []
        """Members that must not be used."""
        self.sparse: list[tuple[bytes, bytes]] = []
        """Paths and names of files that are to be copied by themselves."""

    def add(self, path: bytes, name: bytes) -> None:
        """A file, or a folder with all in it; a link is followed here, but not below."""
        left = [(path, name, True)]
        while left:
            path, name, is_top = left.pop()
            try:
                status = os.stat(path) if is_top else os.lstat(path)
                if stat.S_ISDIR(status.st_mode):
                    self._folder(name, status)
                    with os.scandir(path) as found:
                        left += [(each.path, name + b"/" + each.name, False) for each in found]
                else:
                    self._other(path, name, status, is_top=is_top)
            except OSError as error:
                self.fail(path, error.strerror or str(error))

    def fail(self, path: bytes, why: str) -> None:
        """Note what cannot be copied."""
        self.failed.append(f"{os.fsdecode(path)}: {why}")

    def end(self) -> None:
        """The folders again, now with the times that they must have in the end, and the end."""
        for name, status in reversed(self._folders):
            self._tree.folder(name, mode=status.st_mode & 0o7777 | 0o700, mtime_s=int(status.st_mtime))
        self._tree.end()
        self._gathered.flush()

    def closed_folders(self) -> list[tuple[int, bytes]]:
        """Mode and name of each folder below that must not be written to, the innermost first."""
        modes = [(status.st_mode & 0o7777, name) for name, status in reversed(self._folders) if b"/" in name]
        return [(mode, name) for mode, name in modes if mode & 0o700 != 0o700]

    def _folder(self, name: bytes, status: os.stat_result) -> None:
        self._tree.folder(name, mode=status.st_mode & 0o7777 | 0o700, mtime_s=int(status.st_mtime))
        self._folders.append((name, status))

    def _other(self, path: bytes, name: bytes, status: os.stat_result, *, is_top: bool) -> None:
        if stat.S_ISLNK(status.st_mode):
            self._tree.symlink(name, os.readlink(path), mtime_s=int(status.st_mtime))
        elif not stat.S_ISREG(status.st_mode):
            self.fail(path, f"it is {kind_of(status.st_mode)}")
        else:
            follow = 0 if is_top else os.O_NOFOLLOW
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | follow)
            try:
                self._file(fd, path, name)
            finally:
                os.close(fd)

    def _file(self, fd: int, path: bytes, name: bytes) -> None:
        self._checkpoint()
        status = os.fstat(fd)
        mode, mtime_s, key = status.st_mode & 0o7777, int(status.st_mtime), (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._first:
            self._tree.hard_link(name, self._first[key], mode=mode, mtime_s=mtime_s)
            self.files += 1
            return
        if is_sparse(status) and not self._is_gnu:
            self.sparse.append((path, name))
            return
        if status.st_nlink > 1:
            self._first[key] = name
        if is_sparse(status):
            found = scan.look(fd)
            data = self._data(fd, found.runs, path, name)
            self._tree.sparse_file(name, found, data, mode=mode, mtime_s=mtime_s)
        else:
            data = self._data(fd, ((0, status.st_size),), path, name)
            self._tree.file(name, status.st_size, data, mode=mode, mtime_s=mtime_s)
        self.files += 1
        self.bytes += status.st_size

    def _data(self, fd: int, runs: tuple[tuple[int, int], ...], path: bytes, name: bytes) -> Iterator[bytes]:
        """What the header has announced, whatever happens to the file meanwhile."""
        before = self.bytes
        for begin, length in runs:
            at = begin
            try:
                for data in slices(fd, begin, length):
                    yield data
                    at += len(data)
                    self._tell(before + at)
                    self._checkpoint()
            except (Shorter, OSError) as error:
                why = "it became shorter while it was read" if isinstance(error, Shorter) else str(error)
                self.fail(path, why)
                self.incomplete.append(name)
                while at < begin + length:
                    yield (zeros := bytes(min(SLICE_BYTES, begin + length - at)))
                    at += len(zeros)


def kind_of(mode: int) -> str:
    """What is neither file, folder nor link."""
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


class _Gathered:
    """Many small writes as a few large ones."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        self._write(b"".join(self._parts))
        self._parts, self._size = [], 0
