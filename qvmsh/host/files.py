"""Files: atomic writes, private folders, copies that keep holes, room on the disk.

May import: `errors`; small modules of the standard library (one-shot path; heavier ones late).

    write_atomic("/vm/demo/.qvm/running", "runtime /run/user/1000/qvm/3f2a\n")
"""

from __future__ import annotations

import errno
import os

from qvmsh.errors import QvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import IO

SLICE_BYTES = 4 << 20
_FICLONE = 0x40049409  # ioctl_ficlone(2): share the blocks where the file system can (btrfs, XFS)
_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


def write_atomic(
    path: str, text: str, mode: int = 0o644, prepare: Callable[[int], object] | None = None
) -> None:
    """Write `text` so that `path` holds the old or the new content at any moment, never a part.

    Args:
        prepare: gets the open file before it takes its place, to give it away.
    """
    part = f"{path}.part{os.getpid()}"
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


def sync(path: str) -> None:
    """Make what is in a file last through a power cut, whoever wrote it.

    Raises:
        OSError: it is not there, or the disk does not take it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: str) -> None:
    """Make renames in a folder last through a power cut."""
    fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:  # some file systems (9p, FUSE) do not know it
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
    """A file that is needed only in the block: gone when it ends, for which a Ctrl-C waits."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *_: object) -> None:
        from qvmsh.host import process  # late: most one-shot commands need none of it

        with process.Shielded():
            remove(self.path)


def new(path: str) -> IO[bytes]:
    """Open a file for writing, emptied, without following a link that somebody left at its name.

    One that was not there yet is private.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    return open(os.open(path, flags, 0o600), "wb")


def mode(path: str) -> int:
    """The mode of what will take the place of `path`: that of what is there, else private."""
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
        PermissionError: something is there that is another user's, a link, or open to others
            and cannot be closed. Nothing has been put into it.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    status = os.lstat(path)
    is_folder = (status.st_mode & 0o170000) == 0o040000
    if not is_folder or status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "is not a folder of this user", path)
    if status.st_mode & 0o077:
        os.chmod(path, 0o700)


def copy(source: str, target: str, checkpoint: Callable[[], None] | None = None) -> None:
    """Copy a file to a new, private `target`, sharing blocks or keeping holes, and sync it.

    An unfinished copy is removed.

    Raises:
        OSError, QvmError: as `copy_open`.
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
        reached: is told up to which byte all has been copied.

    Raises:
        OSError: it cannot be written (ENOSPC), or read.
        QvmError: `source` became shorter meanwhile; the end of the copy would be zeros.
    """
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        _copy_data(source, target, reached)


def _copy_data(source: int, target: int, reached: Callable[[int], object]) -> None:
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    begin, end, copy = 0, 0, _kernel_copy
    while end < size:
        try:
            begin = os.lseek(source, end, os.SEEK_DATA)
            end = os.lseek(source, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                break
            begin, end = 0, size  # the file system does not know holes
        while begin < end:
            try:
                count = copy(source, target, min(end - begin, SLICE_BYTES), begin)
            except OSError as error:
                if copy is not _kernel_copy or error.errno not in _NO_KERNEL_COPY:
                    raise
                copy = _plain_copy
                continue
            if not count and copy is _kernel_copy:  # some file systems say so where there is more
                copy = _plain_copy
                continue
            if not count:
                break
            begin += count
            reached(begin)
        if begin < end:
            break
    if os.fstat(source).st_size < size or begin < end:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{source}"))
        raise QvmError(
            f"{name} became shorter while it was copied", hint="end what writes to it, then try again"
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


def free_bytes(folder: str) -> int:
    """Room left for this user on the file system of `folder`."""
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
