"""The journal: what is in progress on a machine, on the disk before it begins.

    journal = begin(vm, Record(Kind.ARCHIVE, state="demo-2026/2027"))       # .qvm/archive.unfinished, synced
    journal.write(is_frozen=True)
    journal.end()
    pending(vm)               # the records of commands that no longer run

One command works on a machine at a time, so each of the two files holds at most one record: of an archive or
restore, of a snapshot or work on a disk (`archive --savevm` has both). `work.recovery` handles those
of killed commands. That of a machine that is being created is beside the list of machines, and for
`work.creation_folder`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from dataclasses import dataclass, field
from enum import Enum

from qvmsh.errors import QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import locks
from qvmsh.machine.values import Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from qvmsh.machine.machine import BaseMachine


HELD = "must not be resumed: anything it writes would be lost"
HELD_HINT = "free space if the disk is full, then `qvm doctor --fix`; or `qvm kill`, then `qvm start`"
"""For a guest whose QEMU works on the base itself because a commit was interrupted."""


class Kind(Enum):
    """What is being done: the file that has the record, and the word in it."""

    ARCHIVE = ("archive", "archive")
    RESTORE = ("archive", "restore")
    EXPORT = ("archive", "export")
    CLONED = ("archive", "clone")
    """Of the machine that is cloned."""
    SNAPSHOT_SAVE = ("snapshot", "save")
    SNAPSHOT_DELETE = ("snapshot", "delete")
    SNAPSHOT_RESTORE = ("snapshot", "restore")
    SNAPSHOT_LOAD = ("snapshot", "load")
    DISK_COMMIT = ("snapshot", "commit")
    DISK_REBASE = ("snapshot", "rebase")
    RENAME = ("archive", "rename")
    CREATE = ("making", "create")
    CLONE = ("making", "clone")
    RESTORE_NEW = ("making", "restore")
    MOVE = ("making", "move")
    DELETE = ("making", "delete")
    UNDELETE = ("making", "undelete")
    IMPORT = ("making", "import")


class Phase(Enum):
    """The step reached; the value is the word in the file."""

    BEGIN = "begin"
    REPLACE = "replace"
    """Nothing has been done yet; there is an older snapshot of that name."""
    NEW = "new"
    """The new snapshot is made beside the one that it replaces."""
    OLD = "old"
    """The older one is removed."""
    AGAIN = "again"
    """The new one is made under its name."""
    LOAD = "load"
    """The state before is kept as a snapshot; disks and memory change."""
    CLEAN = "clean"
    """Only what was kept remains to be removed."""
    PIVOT = "pivot"
    """QEMU works on the base itself: the guest must not be resumed."""
    READY = "ready"
    """All new files are there, and only have to be renamed or moved."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay that receives the guest's writes while a disk is copied; obsolete once merged."""

    disk: str
    format: str
    node: str
    file: str
    file_node: str
    is_merged: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """Work in progress. Which fields are used depends on the kind.

    Args:
        since: seconds since 1970.
        state: the archived state, `ARCHIVE/STAMP`.
        overlays: of the disks that are being copied while the guest runs.
        is_frozen: the guest's file systems are frozen.
        is_held: the guest is stopped, and is to be resumed.
        renames: new name and final name of each file of a restore, from the machine's directory.
        uuid: of the machine whose state is restored; of a machine that is copied, device and inode of the
            copy's `.vmrc`.
        name: the snapshot, or the disk.
        disks: id and path of each disk; absolute once read.
        was_running: the guest is to be resumed, however it ends.
        has_memory: what is saved (or kept as the way back) holds memory.
        entry: the metadata of a snapshot that is being saved.
        device, node: of the disk in QEMU.
        backing: what the disk was backed by; None where that does not change.
        folder: where a machine is being created, or the folder in the trash that takes its files; of a
            renaming, where the machine was.
        directory: the machine whose files are moved into that folder, or out of it; of a renaming, or of a
            copy, where the machine will be.
        source: the machine that is copied, and then removed.
    """

    kind: Kind
    phase: Phase = Phase.BEGIN
    since: float = field(default_factory=time.time)
    pid: int = field(default_factory=os.getpid)
    state: str = ""
    overlays: tuple[Overlay, ...] = ()
    is_frozen: bool = False
    is_held: bool = False
    renames: tuple[tuple[str, str], ...] = ()
    uuid: str = ""
    name: str = ""
    disks: tuple[tuple[str, str], ...] = ()
    was_running: bool = False
    has_memory: bool = False
    entry: Mapping[str, Any] | None = None
    device: str = ""
    node: str = ""
    backing: str | None = None
    backing_format: str = ""
    folder: str = ""
    directory: str = ""
    source: str = ""


class Journal:
    """A record that is kept on the disk while the work proceeds."""

    def __init__(self, vm: BaseMachine, record: Record) -> None:
        self.vm = vm
        self.record = record

    def write(self, **changes: Any) -> None:
        """Record the step reached; on the disk when this returns."""
        self.change(**changes)
        _write(self.vm, self.record)

    def change(self, **changes: Any) -> None:
        """Like `write`, but on the disk only with the next write."""
        self.record = dataclasses.replace(self.record, **changes)

    def end(self) -> None:
        """The work is done, or undone."""
        host_files.remove(path_of(self.vm, self.record.kind))
        host_files.sync_folder(self.vm.files.state)


def begin(vm: BaseMachine, record: Record) -> Journal:
    """Record that this work begins.

    Raises:
        StateError: it would overwrite the record of interrupted work.
    """
    require_none(vm, record.kind)
    journal = Journal(vm, record)
    vm.state_folder()
    journal.write()
    return journal


def path_of(vm: BaseMachine, kind: Kind) -> str:
    """The file that holds records of this kind."""
    return vm.files.archive_journal if kind.value[0] == "archive" else vm.files.snapshot_journal


def is_left(vm: BaseMachine) -> bool:
    """True if there is a record of work in progress or interrupted."""
    return os.path.lexists(vm.files.archive_journal) or os.path.lexists(vm.files.snapshot_journal)


def pending(vm: BaseMachine) -> list[Record]:
    """The records present, in the order in which they must be recovered.

    Raises:
        QvmError: one cannot be read, or is invalid.
    """
    return [record for record in (_read(vm, "archive"), _read(vm, "snapshot")) if record is not None]


def require_none(vm: BaseMachine, kind: Kind | None = None) -> None:
    """Refuse work on incomplete disks, or that would overwrite the record of interrupted work.

    Args:
        kind: only what a record of that kind would overwrite: `archive --savevm` saves within an archive.

    Raises:
        StateError: there is interrupted work that could not be recovered.
    """
    for record in pending(vm):
        if kind is not None and path_of(vm, kind) != path_of(vm, record.kind):
            continue
        raise StateError(
            f"{title(record)} was interrupted and has not been recovered",
            machine=vm.name,
            hint="`qvm doctor --fix` recovers it, or reports why it cannot",
        )


def must_stand_still(vm: BaseMachine) -> bool:
    """True if the guest must not write: a commit was interrupted while QEMU works on the base itself."""
    try:
        record = _read(vm, "snapshot")
    except QvmError:
        return False
    return record is not None and is_on_its_base(record) and locks.holder(vm.files.pid_file) is not None


def is_on_its_base(record: Record) -> bool:
    return record.kind is Kind.DISK_COMMIT and record.phase is Phase.PIVOT


def is_of(vm: BaseMachine, kind: Kind) -> bool:
    """True if interrupted work of that kind is left."""
    try:
        record = _read(vm, kind.value[0])
    except QvmError:
        return False
    return record is not None and record.kind is kind


def message(vm: BaseMachine) -> str:
    """What is in progress or was interrupted, for a read-only command; "" if nothing."""
    try:
        records = pending(vm)
    except QvmError as error:
        return error.what
    if not records:
        return ""
    record, by = records[-1], locks.working(vm.files.work_lock)
    what = title(record)
    if by is not None and by.what == locks.RECOVERING:
        return f"{what} was interrupted: pid {by.pid} is recovering it"
    if by is not None:
        return f"{what} is in progress: {by} is working on it"
    where = [each.file for each in record.overlays if os.path.exists(os.path.join(vm.directory, each.file))]
    if where:
        what += f" was interrupted, and what the guest wrote since is in {', '.join(where)}"
    else:
        what += " was interrupted"
    return f"{what}: the next command that changes the machine recovers it"


_TITLES = {
    Kind.ARCHIVE: "the archive",
    Kind.RESTORE: "the restore",
    Kind.RENAME: "the renaming to",
    Kind.EXPORT: "the export",
    Kind.CLONED: "the clone",
    Kind.SNAPSHOT_SAVE: "the save of the snapshot",
    Kind.SNAPSHOT_DELETE: "the deletion of the snapshot",
    Kind.SNAPSHOT_RESTORE: "the restore of the snapshot",
    Kind.SNAPSHOT_LOAD: "the start from the snapshot",
    Kind.DISK_COMMIT: "the commit of",
    Kind.DISK_REBASE: "the rebase of",
}


_COPIES = (Kind.ARCHIVE, Kind.EXPORT, Kind.CLONED)
"""Work that copies the disks as they are at one moment."""


def title(record: Record) -> str:
    """What it was, in words: `the save of the snapshot ready, begun 2026-01-02 10:20:30,`."""
    name = f" {record.name}" if record.name else ""
    return f"{_TITLES[record.kind]}{name}, begun {time.strftime('%F %T', time.localtime(record.since))},"


_INVALID = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError)
"""What reading a file raises that is not such a record."""


def _write(vm: BaseMachine, record: Record) -> None:
    """Write a record; one of the same length goes over the old one: a full disk has space for that."""
    data = json.dumps(_encoded(vm, record), ensure_ascii=True).encode() + b"\n"
    path = path_of(vm, record.kind)
    try:
        fd = host_files.opened(path, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        fd = -1
    if fd >= 0:
        try:
            if os.fstat(fd).st_size == len(data):
                os.pwrite(fd, data, 0)
                os.fsync(fd)
                return
        finally:
            os.close(fd)
    host_files.write_atomic(path, data.decode(), 0o600)


def write_creation(path: str, record: Record) -> None:
    """Write the record of a machine that is being created."""
    found = {
        "verb": record.kind.value[1], "path": record.folder, "since": record.since, "pid": record.pid,
        "is_whole": record.phase is Phase.READY, "directory": record.directory, "source": record.source,
        "place": record.uuid,
    }  # fmt: skip
    host_files.write_atomic(path, json.dumps(found) + "\n")


def read_creation(path: str) -> Record | None:
    """The record of a machine that is being created; None if it is being written, or is invalid."""
    try:
        found = host_files.document(path)
        value = Values(found)
        phase = Phase.READY if found.get("is_whole") else Phase.BEGIN
        record = _begun(Kind(("making", found["verb"])), value)
        where, source, place = (value.text(each, "") for each in ("directory", "source", "place"))
        return dataclasses.replace(
            record, phase=phase, folder=value.text("path"), directory=where, source=source, uuid=place
        )
    except _INVALID:
        return None


def _begun(kind: Kind, value: Values) -> Record:
    """The record with what all have: when it began, and by which process."""
    since: Any = value.found["since"]
    if isinstance(since, str):
        since = time.mktime(time.strptime(since, "%Y-%m-%d %H:%M:%S"))
    time.localtime(since)
    return Record(kind, since=float(since), pid=value.number("pid"))


def _encoded(vm: BaseMachine, record: Record) -> dict[str, Any]:
    """The record as the file stores it; changing values are numbers, so that the length stays."""
    found: dict[str, Any] = {"what": record.kind.value[1], "since": record.since, "pid": record.pid}
    if record.kind in _COPIES:
        overlays = [
            {"disk": each.disk, "format": each.format, "node": each.node, "cut": each.file,
             "cut_node": each.file_node, "state": "back" if each.is_merged else "open"}
            for each in record.overlays
        ]  # fmt: skip
        return found | {
            "state": record.state, "cuts": overlays, "is_frozen": int(record.is_frozen),
            "is_held": int(record.is_held),
        }  # fmt: skip
    if record.kind is Kind.RESTORE:
        is_ready = int(record.phase is Phase.READY)
        return found | {"swap": record.renames, "is_ready": is_ready, "uuid": record.uuid}
    if record.kind is Kind.RENAME:
        where = {"directory": record.directory, "was": record.folder}
        return found | {"swap": record.renames, "name": record.name} | where
    found |= {
        "since": time.strftime("%F %T", time.localtime(record.since)), "name": record.name,
        "phase": record.phase.value, "disks": [[name, vm.files.inside(path)] for name, path in record.disks],
        "was_running": record.was_running, "has_memory": record.has_memory, "is_frozen": record.is_frozen,
        "entry": record.entry, "device": record.device, "node": record.node,
    }  # fmt: skip
    if record.backing is not None:
        found |= {"backing": record.backing, "backing_format": record.backing_format}
    return found


def _read(vm: BaseMachine, file: str) -> Record | None:
    path = vm.files.archive_journal if file == "archive" else vm.files.snapshot_journal
    try:
        return _decoded(vm, file, host_files.document(path))
    except FileNotFoundError:
        return None
    except _INVALID as error:
        hint = (
            "`.qvm/cut-*` may hold what the guest wrote last; if there is none, remove that file"
            if file == "archive"
            else "`qvm snapshot list` shows what the images hold; then remove that file"
        )
        raise QvmError(
            f"cannot read .qvm/{os.path.basename(path)}: {error}", machine=vm.name, hint=hint
        ) from None


def _decoded(vm: BaseMachine, file: str, found: dict[str, Any]) -> Record:
    """The record in a file, every value checked: it lies where another account may write."""
    kind, value = Kind((file, found["what"])), Values(found)
    record = _begun(kind, value)
    if kind in _COPIES:
        overlays = tuple(_overlay(Values(each)) for each in value.rows("cuts"))
        return dataclasses.replace(
            record, overlays=overlays, is_frozen=value.flag("is_frozen"), is_held=value.flag("is_held"),
            state=value.text("state", ""),
        )  # fmt: skip
    if kind is Kind.RESTORE:
        phase = Phase.READY if value.flag("is_ready") else Phase.BEGIN
        return dataclasses.replace(
            record, phase=phase, renames=value.pairs("swap"), uuid=value.text("uuid", "")
        )
    if kind is Kind.RENAME:
        name, where, was = value.text("name"), value.text("directory"), value.text("was", "")
        return dataclasses.replace(
            record, renames=value.pairs("swap"), name=name, directory=where, folder=was
        )
    entry = found["entry"]
    if entry is not None and entry["name"] != found["name"]:
        raise ValueError("entry belongs to another snapshot")
    disks = [
        (name, os.path.normpath(os.path.join(vm.directory, path))) for name, path in value.pairs("disks")
    ]
    return dataclasses.replace(
        record, phase=Phase(found["phase"]), name=value.text("name"), disks=tuple(disks), entry=entry,
        was_running=value.flag("was_running"), has_memory=value.flag("has_memory"),
        is_frozen=value.flag("is_frozen"), device=value.text("device", ""), node=value.text("node", ""),
        backing=value.text("backing") if "backing" in found else None,
        backing_format=value.text("backing_format", ""),
    )  # fmt: skip


def _overlay(value: Values) -> Overlay:
    keys = ("disk", "format", "node", "cut", "cut_node")
    disk, kind, node, file, file_node = map(value.text, keys)
    return Overlay(disk, kind, node, file, file_node, is_merged=value.text("state") == "back")
