"""Taking a machine's directory to another file system: copied, compared, then the old one is removed.

    require(vm.directory, "/big/web", vm.name, "move")
    take("/vm/web", "/big/web", Job(Kind.MOVE, "web", environ, io))

Everything is copied into a folder at the new place (`creation_folder`); what is written to meanwhile is
copied again. Then the old directory is put aside and compared once more: only what is in the copy as well is
removed. Until the record says that the copy is complete, the next command undoes what was killed; from then
on it completes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from dataclasses import dataclass

from qvmsh.config.words import quote
from qvmsh.errors import QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import launch_record, registry
from qvmsh.machine.journal import Kind, Phase
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.progress import Progress, size
from qvmsh.machine.shelf import merge
from qvmsh.machine.work import creation_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from qvmsh.io import Io
    from qvmsh.machine.journal import Record

SPARE_BYTES = 16 << 20
"""Free space that a copy leaves."""
ROUNDS = 5
"""How often what was written to meanwhile is copied again."""
_SPECIAL = {
    stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"
}  # fmt: skip
STATE = ".qvm"


@dataclass(frozen=True)
class Job:
    """What takes the directory there.

    Args:
        kind: for messages: `Kind.MOVE`, `Kind.UNDELETE`.
        name: of the machine.
    """

    kind: Kind
    name: str
    environ: Mapping[str, str]
    io: Io

    @property
    def verb(self) -> str:
        return self.kind.value[1]


def require(source: str, target: str, job: Job) -> int:
    """Refuse what cannot be copied; return how many bytes the copy takes.

    Raises:
        StateError: a file system is mounted in it, or something in it is no file, link or folder.
        QvmError: there is not enough free space.
    """
    needed = 0
    for name, status in (("", os.stat(source)), *_entries(source, job)):
        path = os.path.join(source, name)
        needed += status.st_blocks * 512
        if stat.S_ISDIR(status.st_mode) and os.path.ismount(path):
            raise StateError(
                f"cannot {job.verb}: {path} is a mount point", machine=job.name, hint="unmount it first"
            )
    above = target if os.path.isdir(target) else os.path.dirname(target)
    free = host_files.free_bytes(above)
    if free < needed + SPARE_BYTES:
        raise QvmError(
            f"cannot {job.verb}: it takes {size(needed + SPARE_BYTES)}, but only {size(free)} is free there",
            machine=job.name, hint="free some space, or choose another place",
        )  # fmt: skip
    return needed


def take(source: str, target: str, job: Job, prepare: Callable[[str], object] = lambda _: None) -> None:
    """Take a machine's directory to another file system: all of it, or nothing.

    Args:
        target: the new path; a directory with other files may be there.
        prepare: called with the folder that holds the copy, before that is put in place.

    Raises:
        StateError: see `require`; or it is written to all the time.
        QvmError, OSError: it cannot be copied. The old directory is as it was.
    """
    needed = require(source, target, job)
    status = os.stat(source)
    folder = creation_folder.Folder(job.kind, target, job.environ, job.io, source=source)
    with folder:
        record, copy = folder.record, _Copy(source, folder.path, job)
        with Progress(job.io, f"copying {job.name}", needed) as progress:
            copy.settle(progress.tell)
        try:
            os.rename(source, aside(record))
            copy.source = aside(record)
            copy.settle()
            copy.finish(status)
            prepare(folder.path)
            with process.Shielded():
                folder.begin_putting(_place(folder.path))
                _put(record)
        except BaseException:
            with process.Shielded():
                if os.path.lexists(aside(record)) and os.path.lexists(folder.path):
                    folder.end_putting(Phase.BEGIN)
                    os.rename(aside(record), source)
            raise
        try:
            _remove(record, job.environ)
        except OSError as error:
            raise QvmError(
                f"it is in {target}, but the old directory cannot be removed: {error.strerror}",
                machine=job.name, hint=f"`qvm doctor --fix` removes what is left: {aside(record)}",
            ) from error  # fmt: skip
        folder.end_putting()


def _place(directory: str) -> str:
    """What shows that a machine is the copy: device and inode of its `.vmrc`, which a rename keeps."""
    return launch_record.place(os.path.join(directory, ".vmrc"))


def aside(record: Record) -> str:
    """Where the old directory is while the copy is put in place: beside it, with the token of the folder."""
    above, name = os.path.split(record.source)
    return os.path.join(above, f".{name}.moved-{record.folder.rpartition('-')[2]}")


def _put(record: Record) -> None:
    """Put the copy in its place, among other files if there are any: all of it, or nothing."""
    part, target = record.folder, record.directory
    if os.path.dirname(part) != target:
        os.rename(part, target)
        host_files.sync_folder(os.path.dirname(target))
        return
    files = merge.leaves(part)
    try:
        merge.move_names(part, target, os.listdir(part))
    except OSError:
        moved = [each for each in files if not os.path.lexists(os.path.join(part, each))]
        merge.move_names(target, part, moved)
        raise
    os.rmdir(part)


def _remove(record: Record, environ: Mapping[str, str]) -> None:
    """Remove what was copied, and what leads there: a link in the trash, a row in the list of machines."""
    if os.path.lexists(aside(record)):
        shutil.rmtree(aside(record))
    trash = registry.trash_folder(environ) or ""
    for name in os.listdir(trash) if record.kind is Kind.UNDELETE and os.path.isdir(trash) else ():
        path = os.path.join(trash, name)
        if os.path.islink(path) and os.path.realpath(path) == os.path.realpath(record.source):
            host_files.remove(path)
    registry.forget(record.source, environ)
    registry.remember(BaseMachine(record.directory, environ=environ))


def recover(record: Record, environ: Mapping[str, str]) -> str:
    """Finish, or undo, what was interrupted; return which. For `creation_folder.sweep`.

    Raises:
        OSError: it cannot be done now.
    """
    going = aside(record)
    if record.phase is Phase.READY and os.path.lexists(record.folder):
        with contextlib.suppress(OSError):  # something else is in its place: back
            _put(record)
    if record.phase is Phase.READY and _is_there(record):
        _remove(record, environ)
        return f"it has been completed: it is in {record.directory}"
    if os.path.lexists(going):
        if os.path.lexists(record.source):
            raise FileExistsError(errno.EEXIST, "already exists", record.source)
        os.rename(going, record.source)
    if os.path.lexists(record.folder):
        shutil.rmtree(record.folder)
    return creation_folder.LEFT[record.kind]


def _is_there(record: Record) -> bool:
    """True if the copy is in its place, and not another machine."""
    try:
        return _place(record.directory) == record.uuid
    except OSError:
        return False


# Copying


def _entries(folder: str, job: Job) -> Iterator[tuple[str, os.stat_result]]:
    """Name and status of everything in a folder, folders before what is in them.

    Sockets in `.qvm` are left out: they mean nothing without their process.

    StateError: it holds something that cannot be copied.
    """
    left = [""]
    while left:
        below = left.pop()
        for each in sorted(os.listdir(os.path.join(folder, below))):
            name = os.path.join(below, each)
            try:
                status = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            kind = _SPECIAL.get(stat.S_IFMT(status.st_mode))
            if kind and name.startswith(f"{STATE}/") and stat.S_ISSOCK(status.st_mode):
                continue
            if kind:
                raise StateError(
                    f"cannot {job.verb}: {os.path.join(folder, name)} is {kind}, which cannot be copied to "
                    "another file system", machine=job.name,
                    hint=f"`rm {quote(os.path.join(folder, name))}`, and make it again afterwards",
                )  # fmt: skip
            yield name, status
            if stat.S_ISDIR(status.st_mode):
                left.append(name)


def _mark(status: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written to, or replaced; of a folder only what it is."""
    kind = stat.S_IFMT(status.st_mode)
    if stat.S_ISDIR(kind):
        return (kind,)
    return kind, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class _Copy:
    """A copy of a folder that is compared with it until both are the same.

    Args:
        source: the folder; may be renamed meanwhile.
        target: an empty folder.
    """

    def __init__(self, source: str, target: str, job: Job) -> None:
        self.source = source
        self.target = target
        self._job = job
        self._marks: dict[str, tuple[int, ...]] = {}

    def settle(self, tell: Callable[[int], object] = lambda _: None) -> None:
        """Copy what differs, until nothing does.

        Args:
            tell: called with the bytes that were copied so far.

        Raises:
            StateError: something is written to all the time.
        """
        changed: list[str] = []
        for _ in range(ROUNDS):
            changed = self._round(tell)
            if not changed:
                return
        raise StateError(
            f"cannot {self._job.verb}: {changed[0]} is written to all the time", machine=self._job.name,
            hint="end the program that writes to it (`fuser` names it), then try again",
        )  # fmt: skip

    def _round(self, tell: Callable[[int], object]) -> list[str]:
        """Copy what is new or was changed, remove what is gone; the names of both."""
        found = {name: _mark(status) for name, status in _entries(self.source, self._job)}
        gone = [each for each in self._marks if self._marks[each][0] != found.get(each, (0,))[0]]
        for name in reversed(gone):
            _remove_one(os.path.join(self.target, name))
            del self._marks[name]
        changed, done = list(gone), 0
        for name, mark in found.items():
            if self._marks.get(name) == mark:
                continue
            changed.append(name)
            path = os.path.join(self.target, name)
            try:
                self._copy_one(os.path.join(self.source, name), path)
            except (FileNotFoundError, QvmError):  # removed, or made shorter: the next round sees it
                _remove_one(path)
                self._marks.pop(name, None)
                continue
            self._marks[name] = mark
            done += 0 if os.path.isdir(path) else os.lstat(path).st_blocks * 512
            tell(done)
        return changed

    def _copy_one(self, source: str, target: str) -> None:
        """Copy a file or link with its times, mode and owner, holes stay; make a folder."""
        status = os.lstat(source)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(target, 0o700)
            return
        _remove_one(target)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(source), target)
        else:
            host_files.copy(source, target, self._job.io.checkpoint)
        _like(source, target, status)

    def finish(self, status: os.stat_result) -> None:
        """Give the folders their times, mode and owner, the inner ones first.

        Args:
            status: of the directory itself, before it was renamed.
        """
        names = [name for name, mark in self._marks.items() if stat.S_ISDIR(mark[0])]
        for name in [*reversed(names), ""]:
            source, target = (
                os.path.join(each, name) if name else each for each in (self.source, self.target)
            )
            host_files.sync_folder(target)
            _like(source, target, os.lstat(source) if name else status)


def _like(source: str, target: str, status: os.stat_result) -> None:
    """Give the copy the owner, mode, times and attributes of the original."""
    if os.geteuid() == 0:
        os.lchown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target, follow_symlinks=False)


def _remove_one(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        os.rmdir(path)
    else:
        host_files.remove(path)
