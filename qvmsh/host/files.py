"""Files: reading qvm's own, atomic writes, private folders, copies that keep holes, free space.

    read("/vm/demo/.qvm/uuid").text
    write_atomic("/vm/demo/.qvm/running", "runtime /run/user/1000/qvm/3f2a\n")

An account that can write to a machine's directory can put a pipe, a device, a folder or a huge sparse file at
any of qvm's names: every file of qvm is opened by `opened`, and read by `read`.
"""

from __future__ import annotations

import errno
import os

from qvmsh.errors import QvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import IO, Any

SLICE_BYTES = 4 << 20
MAX_BYTES = 1 << 20
"""The largest size of a small file of qvm."""
DOCUMENT_BYTES = 16 << 20
"""The largest size of a JSON document of qvm."""
_REGULAR, _FOLDER, _KIND = 0o100000, 0o040000, 0o170000
FULL_BYTES = 64 << 10
"""After a failure, a file system with less free space than this counts as full."""
_FICLONE = 0x40049409  # ioctl_ficlone(2): share the blocks where the file system can (btrfs, XFS)
_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


class Source:
    """A file's content, with the status of the very file that it was read from."""

    __slots__ = ("data", "path", "status")

    def __init__(self, path: str, data: bytes, status: os.stat_result) -> None:
        self.path = path
        self.data = data
        self.status = status

    @property
    def text(self) -> str:
        """The content; bytes that are not UTF-8 become surrogates, as in `os.environ`."""
        return self.data.decode("utf-8", "surrogateescape")


def opened(path: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """A descriptor of a regular file (`/dev/null` counts as an empty one); never blocks.

    Raises:
        OSError: it is something else (a pipe would block for ever), or cannot be opened.
    """
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode)
    try:
        status = os.fstat(fd)
        kind = status.st_mode & _KIND
        if kind == _FOLDER:
            raise IsADirectoryError(errno.EISDIR, "it is a directory", path)
        if kind != _REGULAR and not os.path.samestat(status, os.stat(os.devnull)):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
    except OSError:
        os.close(fd)
        raise
    return fd


def read(path: str, most: int = MAX_BYTES) -> Source:
    """Read a regular file of at most `most` bytes.

    Raises:
        OSError: as `opened`; or it is too large.
    """
    fd = opened(path)
    try:
        data = b""
        while piece := os.read(fd, most + 1 - len(data)):
            data += piece
            if len(data) > most:
                limit = f"{most >> 20} MiB" if most >> 20 else f"{most >> 10} KiB"
                raise OSError(errno.EFBIG, f"it is larger than {limit}", path)
        return Source(path, data, os.fstat(fd))
    finally:
        os.close(fd)


def document(path: str) -> dict[str, Any]:
    """The JSON object in a file of qvm.

    Raises:
        OSError: as `read`.
        ValueError: it holds something else.
    """
    import json

    try:
        found = json.loads(read(path, DOCUMENT_BYTES).data.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def unique(path: str) -> str:
    """`path` with a unique end, in this process and all others."""
    return f"{path}{os.getpid()}-{os.urandom(4).hex()}"


def write_atomic(
    path: str, text: str, mode: int = 0o644, prepare: Callable[[int], object] | None = None
) -> None:
    """Write `text` so that `path` holds the old or the new content at any moment, never a part.

    Args:
        prepare: gets the open file before it is renamed, to change its owner.
    """
    part = unique(f"{path}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(part, flags, mode)
    try:
        with open(fd, "wb") as file:
            file.write(text.encode(errors="surrogateescape"))
            file.flush()
            os.fsync(fd)
            if prepare:
                prepare(fd)
        os.rename(part, path)
    except BaseException:
        remove(part)
        raise
    sync_folder(os.path.dirname(path))


def shortest(path: str) -> str:
    """The path without `..` and `.`, if that is the same file: behind a link it may be another one."""
    short = os.path.normpath(path)
    return short if short == path or os.path.realpath(short) == os.path.realpath(path) else path


def sync(path: str) -> None:
    """Make a file's content survive a power failure, whichever process wrote it.

    Raises:
        OSError: it is not there, or the disk does not take it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: str) -> None:
    """Make renames in a folder survive a power failure."""
    fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:  # some file systems (9p, FUSE) do not support it
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(fd)


def remove(path: str) -> bool:
    """Remove a file; False if there was none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


class Removed:
    """A file that exists only in the block; a Ctrl-C waits until it is removed."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *_: object) -> None:
        from qvmsh.host import process  # late: most one-shot commands need none of it

        with process.Shielded():
            remove(self.path)


def new(path: str) -> IO[bytes]:
    """Open a file for writing, emptied, without following a link at its name.

    A new one is private.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    return open(os.open(path, flags, 0o600), "wb")


def mode(path: str) -> int:
    """The mode for a file that will replace `path`: the present one, else private."""
    try:
        return os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        return 0o600


def link(target: str, path: str) -> None:
    """Point the symbolic link `path` at `target`, wherever it pointed before."""
    try:
        if os.readlink(path) == target:
            return
    except OSError:
        pass
    remove(path)
    os.symlink(target, path)


def private_folder(path: str) -> None:
    """Make a folder that only this user can enter, and make sure that it is one.

    Raises:
        PermissionError: the path is another user's, a link, or open to others
            and cannot be closed. Nothing has been put into it.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    status = os.lstat(path)
    is_folder = (status.st_mode & 0o170000) == 0o040000
    if not is_folder or status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it is not a folder of this user", path)
    if status.st_mode & 0o077:
        os.chmod(path, 0o700)


def copy(source: str, target: str, checkpoint: Callable[[], None] | None = None) -> None:
    """Copy a file to a new, private `target`, sharing blocks or keeping holes, and sync it.

    An incomplete copy is removed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(source, "rb") as old, open(os.open(target, flags, 0o600), "wb") as new:
        try:
            copy_open(old.fileno(), new.fileno(), lambda _: checkpoint() if checkpoint else None)
            os.fsync(new.fileno())
        except BaseException:
            os.unlink(target)
            raise


def copy_open(source: int, target: int, reached: Callable[[int], object]) -> None:
    """Copy an open file to an empty one: sharing the blocks, else the parts that hold data; holes stay holes.

    Args:
        reached: called with the offset up to which all has been copied.

    Raises:
        OSError: it cannot be written (ENOSPC), or read.
        QvmError: `source` became shorter meanwhile; the end of the copy would be zeros.
    """
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        _copy_data(source, target, reached)


def extents(fd: int) -> Iterator[tuple[int, int]]:
    """The parts of an open file that hold data, in order; all of it where the file system knows no holes."""
    end = 0
    while True:
        try:
            begin = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # a hole up to the end
                yield end, os.fstat(fd).st_size
            return
        yield begin, end


def _copy_data(source: int, target: int, reached: Callable[[int], object]) -> None:
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    copy, is_short = _kernel_copy, False
    for begin, end in extents(source):
        at, end = begin, min(end, size)
        while at < end:
            try:
                count = copy(source, target, min(end - at, SLICE_BYTES), at)
            except OSError as error:
                if copy is not _kernel_copy or error.errno not in _NO_KERNEL_COPY:
                    raise
                copy = _plain_copy
                continue
            if not count and copy is _kernel_copy:  # some file systems report this although there is more
                copy = _plain_copy
                continue
            if not count:
                break
            at += count
            reached(at)
        is_short = at < end
        if is_short:
            break
    if os.fstat(source).st_size < size or is_short:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{source}"))
        raise QvmError(
            f"{name} became shorter while it was copied",
            hint="stop the program that writes to it, then try again",
        )


def _kernel_copy(source: int, target: int, count: int, at: int) -> int:
    return os.copy_file_range(source, target, count, at, at)


def _plain_copy(source: int, target: int, count: int, at: int) -> int:
    data = os.pread(source, count, at)
    write_at(target, data, at)
    return len(data)


def write_at(fd: int, data: bytes, at: int) -> None:
    """Write all of `data` at a place of a file, however many writes it takes."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, at)
        view, at = view[count:], at + count


READ_ONLY_HINT = "if it was writable before, the host's log says why; `mount -o remount,rw` makes it writable"


def is_read_only(path: str) -> bool:
    """True if a file is on a file system that is mounted read-only, even for root."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def free_bytes(folder: str) -> int:
    """Free space for this user on the file system of `folder`."""
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def users_of(path: str) -> list[int]:
    """Pids of the processes that have `path` open, as far as this user may see them."""
    return users_of_each([path]).get(path, [])


def users_of_each(paths: Iterable[str]) -> dict[str, list[int]]:
    """`users_of` of many files, in one look at all processes; only those that are open are in it."""
    wanted: dict[tuple[int, int], list[str]] = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        wanted.setdefault((status.st_dev, status.st_ino), []).append(path)
    found: dict[str, list[int]] = {}
    for pid in os.listdir("/proc") if wanted else ():
        if not pid.isdigit():
            continue
        held = set()
        try:
            with os.scandir(f"/proc/{pid}/fd") as fds:
                for fd in fds:
                    status = os.stat(fd.path)
                    held.add((status.st_dev, status.st_ino))
        except OSError:
            pass
        for key in held & wanted.keys():
            for path in wanted[key]:
                found.setdefault(path, []).append(int(pid))
    return found


def mount_of(path: str) -> str:
    """The directory at which the file system that holds `path` is mounted."""
    found = os.path.realpath(path)
    while not os.path.lexists(found):
        found = os.path.dirname(found)
    while not os.path.ismount(found):
        found = os.path.dirname(found)
    return found


def is_full(path: str) -> bool:
    """True if next to nothing can be written to the file system of `path`."""
    try:
        found = os.statvfs(path)
    except OSError:
        return False
    blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    has_inodes = found.f_files == 0 or found.f_favail > 0  # some file systems count none
    return blocks * found.f_frsize < FULL_BYTES or not has_inodes
