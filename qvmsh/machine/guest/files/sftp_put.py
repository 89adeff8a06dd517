"""The guest as a target, by its sftp server, for accounts without shell or tar; see `receivers.Receiver`."""

from __future__ import annotations

import contextlib
import os
import stat

from qvmsh.errors import DeadlineError, GuestUnreachableError, QvmError
from qvmsh.machine.guest.files import sftp
from qvmsh.machine.guest.files.names import split
from qvmsh.machine.guest.files.outgoing import Shorter, kind_of, slices
from qvmsh.machine.guest.files.receivers import Found
from qvmsh.machine.progress import size as shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qvmsh.machine.guest.files.limits import Limit
    from qvmsh.machine.guest.files.receivers import Done
    from qvmsh.machine.guest.files.sftp import Attributes
    from qvmsh.machine.guest.files.ways import Produce
    from qvmsh.machine.machine import BaseMachine

_OPEN = 0o700
"""What its owner needs to change a folder."""


class SftpReceiver:
    """See `receivers.Receiver`."""

    name = "sftp"
    piece_bytes = 1 << 62

    def __init__(self, vm: BaseMachine, client: sftp.Client, limit: Limit) -> None:
        self._vm = vm
        self._limit = limit
        self._client = client

    def look(self, target: str, part: str) -> Found:
        folder, name = split(target)
        there = self._client.stat(target)
        mode = there.mode if there and there.mode is not None else 0
        if there and stat.S_ISDIR(mode):
            return Found(target, there_bytes=self._there(target, part))
        if there and not stat.S_ISREG(mode):
            raise self._refused(target, "it is a device, a FIFO or a socket")
        if not there and target.endswith("/"):
            return Found(target, is_new=True)
        if self._client.stat(folder) is None:
            raise self._refused(target, "its directory does not exist")
        return Found(folder, name, is_file=there is not None, there_bytes=self._there(folder, part))

    def _refused(self, target: str, why: str) -> QvmError:
        return QvmError(f"cannot put {target} in the guest: {why}; nothing was copied", machine=self._vm.name)

    def _there(self, folder: str, part: str) -> int:
        found = self._client.stat(f"{folder}/{part}", is_link=True)
        is_file = found is not None and found.mode is not None and stat.S_ISREG(found.mode)
        return found.size or 0 if found is not None and is_file else 0

    def write(
        self, found: Found, part: str, runs: list[tuple[int, int]], produce: Produce, *, is_on: bool
    ) -> None:
        path = f"{found.folder}/{part}"
        self._require_folder(found)
        begin = self._there(found.folder, part) if is_on else 0
        if not is_on:
            self._drop(path)
        flags = sftp.WRITING | sftp.CREATING | (0 if is_on else sftp.EMPTYING)
        handle = self._client.open(path, flags)
        places = _Places(runs or [(begin, 1 << 62)])
        produce(lambda data: self._client.write(handle, places.of(data), path))
        with self._limit.flushing():
            self._client.flush(handle, path)
        self._client.close(handle, path)

    def _require_folder(self, found: Found) -> None:
        if found.is_new and self._client.stat(found.folder) is None:
            self._client.make_folder(found.folder.rstrip("/"), 0o755)

    def _drop(self, path: str) -> None:
        if self._client.stat(path, is_link=True) is not None:
            self._client.remove(path)

    def place(self, found: Found, part: str, name: str, *, size: int, mode: str, mtime_s: int | None) -> None:
        path, final = f"{found.folder}/{part}", f"{found.folder}/{name}"
        there = self._client.stat(final)
        if there and there.mode is not None and stat.S_ISDIR(there.mode):
            raise self._refused(final, "it is a directory")
        kept = there.mode if there and there.mode is not None else 0o644
        bits = kept & 0o7777 if mode == "keep" else int(mode, 8)
        self._client.set(path, size=size, mode=bits, mtime_s=mtime_s)
        self._client.rename(path, final)

    def tree(
        self,
        found: Found,
        part: str,
        tops: list[tuple[str, str]],
        done: Done,
        show: Callable[[str], None],
    ) -> None:
        self._require_folder(found)
        top = f"{found.folder}/{part}"
        self._client.make_folder(top, 0o700)
        for path, name in tops:
            self._copy(path, f"{top}/{name}", done, show)
        for _, name in tops:
            self._place(f"{top}/{name}", f"{found.folder.rstrip('/')}/{name}", done)
        self.remove(found, part)

    def _copy(self, path: str, target: str, done: Done, show: Callable[[str], None]) -> None:
        """A file, or a folder with all in it."""
        left, folders, is_top = [(path, target)], list[tuple[str, os.stat_result]](), True
        while left:
            self._vm.io.checkpoint()
            path, target = left.pop()
            try:
                status = os.stat(path) if is_top else os.lstat(path)
                is_top = False
                if stat.S_ISDIR(status.st_mode):
                    self._client.make_folder(target, 0o700)
                    folders.append((target, status))
                    left += [(f"{path}/{each}", f"{target}/{each}") for each in os.listdir(path)]
                elif stat.S_ISLNK(status.st_mode):
                    self._client.make_link(target, os.fsencode(os.readlink(path)))
                elif stat.S_ISREG(status.st_mode):
                    self._file(path, target, done)
                    show(shown_size(done.bytes))
                else:
                    done.failed.append(f"{path}: it is {kind_of(status.st_mode)}")
            except OSError as error:
                done.failed.append(f"{path}: {error.strerror or error}")
            except Shorter:
                self._client.remove(target)
                done.failed.append(f"{path}: it became shorter while it was read")
        for target, status in reversed(folders):
            self._client.set(target, size=None, mode=status.st_mode & 0o7777, mtime_s=int(status.st_mtime))

    def _file(self, path: str, target: str, done: Done) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            status = os.fstat(fd)
            handle = self._client.open(target, sftp.WRITING | sftp.CREATING | sftp.EMPTYING)
            places = _Places([(0, 1 << 62)])
            pieces = (row for data in slices(fd, 0, status.st_size) for row in places.of(data))
            self._client.write(handle, pieces, target)
            self._client.close(handle, target)
        finally:
            os.close(fd)
        self._client.set(target, size=None, mode=status.st_mode & 0o7777, mtime_s=int(status.st_mtime))
        done.files += 1
        done.bytes += status.st_size

    def _place(self, old: str, new: str, done: Done) -> None:
        """Move a name to its place; folders that are in both become one."""
        here, there = self._client.stat(old, is_link=True), self._client.stat(new)
        if here is None:
            return
        is_folder = here.mode is not None and stat.S_ISDIR(here.mode)
        is_there = there is not None and there.mode is not None and stat.S_ISDIR(there.mode)
        if is_folder and is_there:
            self._client.set(old, size=None, mode=_OPEN, mtime_s=None)
            with self._writable(new, there):
                for name, _ in list(self._client.folder(old)):
                    self._place(f"{old}/{name}", f"{new}/{name}", done)
        elif is_there or (is_folder and there is not None):
            done.failed.append(f"{new}: it is {'a' if is_there else 'not a'} directory")
        else:
            try:
                with self._writable(old if is_folder else "", here, new):
                    self._client.rename(old, new)
            except sftp.Failed as failed:
                done.failed.append(failed.what)

    @contextlib.contextmanager
    def _writable(self, path: str, found: Attributes | None, path_after: str = "") -> Iterator[None]:
        """Let a read-only folder be written to, and moved, until the block ends; "": nothing."""
        mode = stat.S_IMODE(found.mode) if path and found and found.mode is not None else _OPEN
        is_closed = mode & _OPEN != _OPEN
        if is_closed:
            self._client.set(path, size=None, mode=mode | _OPEN, mtime_s=None)
        yield
        if is_closed:
            self._client.set(path_after or path, size=None, mode=mode, mtime_s=None)

    def remove(self, found: Found, part: str) -> None:
        with contextlib.suppress(QvmError):
            self._remove_all(f"{found.folder}/{part}")

    def _remove_all(self, path: str) -> None:
        found = self._client.stat(path, is_link=True)
        if found is None:
            return
        if found.mode is None or not stat.S_ISDIR(found.mode):
            self._client.remove(path)
            return
        self._client.set(path, size=None, mode=0o700, mtime_s=None)
        for name, _ in list(self._client.folder(path)):
            self._remove_all(f"{path}/{name}")
        self._client.remove_folder(path)

    @contextlib.contextmanager
    def removed_by_failure(self, found: Found, part: str) -> Iterator[None]:
        try:
            yield
        except (GuestUnreachableError, DeadlineError):
            raise  # there is no way to it
        except BaseException:
            if not self._client.is_torn:
                self.remove(found, part)
            raise


class _Places:
    """Where a stream belongs that is written in these runs."""

    def __init__(self, runs: list[tuple[int, int]]) -> None:
        self._runs = list(reversed(runs))

    def of(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        while data:
            begin, length = self._runs.pop()
            piece, data = data[:length], data[length:]
            if len(piece) < length:
                self._runs.append((begin + len(piece), length - len(piece)))
            yield begin, piece
