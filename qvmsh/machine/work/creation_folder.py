"""The folders in which machines are created, and recovery of those whose command was killed.

    with Folder(Kind.CREATE, "/home/guido/vm/demo", environ) as folder:
        ...everything into folder.path...
        folder.put_in_place()

The folder is `.NAME.part-*` beside the machine's place (inside it, where there is an empty directory already)
and is renamed at the end. Before that its path is recorded in `making` beside the list of machines
(`registry.list_file`), so that the next command of this user on any machine finds it (`sweep`): an incomplete
one is removed; a complete one is moved into place. The command that works in it holds a lock on it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import os
import re
import secrets
import shutil
import time
from dataclasses import replace

from qvmsh.errors import QvmError, Terminated
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import journal, registry
from qvmsh.machine.journal import Kind, Phase, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from qvmsh.io import Io

MOVING = {Kind.DELETE: "qvmsh.machine.shelf.trash", Kind.UNDELETE: "qvmsh.machine.shelf.trash"}
"""The modules whose `recover` knows what to do with a folder whose files belong to a machine."""
COPYING = "qvmsh.machine.shelf.across"
"""The same for a folder with the copy of a machine."""
LEFT = {Kind.MOVE: "it is where it was", Kind.UNDELETE: "it is still in the trash"}
"""What is left of other work than making a new machine, when that is interrupted."""
_TITLES = {
    Kind.CREATE: "the creation of",
    Kind.CLONE: "the clone",
    Kind.RESTORE_NEW: "the restore to",
    Kind.MOVE: "the move of",
    Kind.DELETE: "the deletion of",
    Kind.UNDELETE: "the undelete of",
    Kind.IMPORT: "the import of",
}
NAME = re.compile(r"\.(?P<of>.+)\.part-[0-9a-f]{8}")


class Folder:
    """A folder to create a machine in; what is left in it when the block ends is removed.

    Args:
        kind: what creates it, for a later message.
        final: the machine's directory-to-be; may be changed until then if `is_beside`.
        io: where an interruption is reported; None: the caller does that.
        is_beside: also where there is an empty directory already, the folder is beside it.
        directory: the machine whose files are moved here; they are moved back, never removed.
        source: the machine that is copied here, and is removed once the copy is in place.

    Raises:
        OSError: it cannot be created, or put in place.
    """

    def __init__(
        self,
        kind: Kind,
        final: str,
        environ: Mapping[str, str],
        io: Io | None = None,
        *,
        is_beside: bool = False,
        directory: str = "",
        source: str = "",
    ) -> None:
        self.final = final
        self._io = io
        self._kind = kind
        self._is_of_moves = bool(directory)
        self._has_folder = os.path.isdir(final) and not is_beside
        self.above = final if self._has_folder else os.path.dirname(final)
        name = os.path.basename(final)
        self.path = part_name(self.above, name)
        where = final if source else directory
        self._note = Note(Record(kind, folder=self.path, directory=where, source=source), environ)
        self._guard = -1
        self._is_left = False

    def __enter__(self) -> Folder:
        """Create it, after removing what killed commands left of this name.

        One at a time: between its creation and its lock a folder would look abandoned.
        """
        turn = os.open(self.above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            for path in () if self._is_of_moves else left_in(self.above, os.path.basename(self.final)):
                remove(path)
            self._note.write()
            try:
                os.mkdir(self.path, 0o700)
                self._guard = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self._guard, fcntl.LOCK_SH)
            except BaseException:
                self._remove()
                raise
        finally:
            os.close(turn)
        return self

    @property
    def record(self) -> Record:
        """What is recorded of it."""
        return self._note.record

    def begin_putting(self, place: str) -> None:
        """Record that the copy in it is complete: what puts it in place and is killed, `sweep` completes.

        Args:
            place: what shows later that it is the copy: device and inode of its `.vmrc`.
        """
        self._note.write(Phase.READY, place)
        self._is_left = True

    def end_putting(self, phase: Phase = Phase.READY) -> None:
        """It is in its place; or (BEGIN) it is to be removed, with what is left in the folder."""
        if phase is Phase.BEGIN:
            self._note.write(phase)
        self._is_left = False

    def put_in_place(self) -> None:
        """Rename the finished folder; into an empty one that is there, move its contents, `.vmrc` last.

        Once it is recorded as complete it is put in place, by us or by `sweep`.

        Raises:
            QvmError: not all could be moved; the next command moves the rest.
        """
        if not self._has_folder:
            os.rename(self.path, self.final)
            host_files.sync_folder(self.above)
            return
        if os.listdir(self.final) != [os.path.basename(self.path)]:
            raise OSError(errno.ENOTEMPTY, "is not empty", self.final)
        with process.Shielded():
            self._note.write(Phase.READY)
            self._is_left = True
            try:
                _move(self.path, self.final)
            except OSError as error:
                raise QvmError(
                    f"{os.path.basename(self.final)} was created, but cannot be put in place: {_why(error)}",
                    hint="`qvm doctor --fix` completes it",
                ) from error
            self._is_left = False

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._remove()
        if self._io and error and issubclass(error, (KeyboardInterrupt, Terminated)):
            is_made = os.path.exists(os.path.join(self.final, ".vmrc"))
            left = LEFT.get(self._kind, "nothing was left behind")
            left = f"the machine is in {self.final}" if is_made else left
            self._io.warn(f"{os.path.basename(self.final)}: interrupted; {left}")

    def _remove(self) -> None:
        if self._is_of_moves:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)
            self._is_left = os.path.lexists(self.path)
        elif not self._is_left:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._guard >= 0:
            os.close(self._guard)
            self._guard = -1
        if not self._is_left:
            self._note.remove()


@contextlib.contextmanager
def taken(source: str, part: str, note: Note) -> Iterator[None]:
    """Rename a folder to a temporary one, which nobody takes for abandoned while the block lasts."""
    turn = os.open(os.path.dirname(part), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    guard = -1
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        note.write()
        os.rename(source, part)
        guard = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(guard, fcntl.LOCK_SH)
        os.close(turn)
        turn = -1
        yield
    finally:
        for fd in (guard, turn):
            if fd >= 0:
                os.close(fd)
        if not os.path.lexists(part):
            note.remove()


def part_name(above: str, name: str) -> str:
    """A new name for a temporary folder of `name`."""
    return os.path.join(above, f".{name}.part-{secrets.token_hex(4)}")


def _move(path: str, final: str) -> None:
    for name in sorted(os.listdir(path), key=".vmrc".__eq__):
        target = os.path.join(final, name)
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "already exists", target)
        os.rename(os.path.join(path, name), target)
    host_files.sync_folder(final)


def _why(error: OSError) -> str:
    if isinstance(error, FileExistsError):
        return f"{os.path.basename(error.filename)} already exists"
    return error.strerror or str(error)


class Note:
    """The record of a folder in use; without one, only the next creation of that name finds it."""

    def __init__(self, record: Record, environ: Mapping[str, str]) -> None:
        self.record = record
        self._folder = registry.making_folder(environ)
        self._file = os.path.join(self._folder or "", record.folder.rpartition("-")[2])

    def write(self, phase: Phase = Phase.BEGIN, place: str = "") -> None:
        """Record it, or that it is complete and only has to be moved."""
        try:
            if self._folder is not None:
                os.makedirs(self._folder, mode=0o700, exist_ok=True)
                journal.write_creation(self._file, replace(self.record, phase=phase, uuid=place))
        except OSError:
            if phase is Phase.READY and os.path.lexists(self._file):  # it says: remove what is left
                raise

    def remove(self) -> None:
        if self._folder is not None:
            _forget(self._file)


def _forget(note: str) -> None:
    with contextlib.suppress(OSError):
        host_files.remove(note)
        os.rmdir(os.path.dirname(note))  # so that a look costs nothing; refused while there are others


def sweep(environ: Mapping[str, str], *, is_looking: bool = False) -> list[str]:
    """Remove, or complete, what killed commands of this user left; return messages.

    Args:
        is_looking: only report it.
    """
    folder = registry.making_folder(environ)
    if folder is None:
        return []
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    found = []
    for name in names:
        note = os.path.join(folder, name)
        record = journal.read_creation(note)
        if record is None:
            continue
        path = record.folder
        match = NAME.fullmatch(os.path.basename(path))
        if match is None or not os.path.isabs(path):
            continue
        with _locked(os.path.dirname(path), flags=0) as turn, _locked(path) as is_left:
            if turn is False:  # it may be made, and not locked yet
                continue
            if is_left is None and not process.exists(record.pid):  # killed before it was made, or after
                is_left = bool(record.source) and record.phase is Phase.READY
                if not is_left:
                    _forget(note)
            if not is_left or journal.read_creation(note) != record:  # another command has just done it
                continue
            when = time.strftime("%T", time.localtime(record.since))
            what = f"{_TITLES[record.kind]} {match['of']}, begun at {when}, was interrupted"
            over = path if os.path.lexists(path) else record.source
            left = f"{over} is left over" if is_looking else _finish(record, note, environ)
            found.append(f"{what}: {left}")
    return found


def _finish(record: Record, note: str, environ: Mapping[str, str]) -> str:
    """Complete the work, or undo it, and forget it; return which."""
    path, is_whole = record.folder, record.phase is Phase.READY
    try:
        if record.source or record.kind in MOVING:
            module: Any = importlib.import_module(COPYING if record.source else MOVING[record.kind])
            text = str(module.recover(record, environ))
        elif is_whole:
            _move(path, os.path.dirname(path))
            os.rmdir(path)
            text = "it has been completed"
        else:
            shutil.rmtree(path)
            text = "what it had begun was removed"
    except OSError as error:
        if is_whole or record.kind in MOVING:
            return f"it is in {path} and cannot be completed: {_why(error)}"
        return f"{path} cannot be removed: {error.strerror}"
    _forget(note)
    return text


def left_in(above: str, name: str) -> list[str]:
    """What killed commands left of this name, and of commands that still work on it."""
    found = []
    for each in os.listdir(above):
        match = NAME.fullmatch(each)
        if match and match["of"] == name:
            found.append(os.path.join(above, each))
    return found


def remove(path: str) -> None:
    """Remove such a folder, unless a command uses it."""
    with _locked(path) as is_left:
        if is_left:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: str, *, flags: int = os.O_NOFOLLOW) -> Iterator[bool | None]:
    """A folder, locked while the block lasts; None if it is not there.

    False if another process has locked it, or if that is unknown.
    Locked, a machine's folder is not in use; in the one above, which may be reached through a link, no
    folder is just being created.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except OSError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)
