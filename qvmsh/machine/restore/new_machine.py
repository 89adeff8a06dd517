"""A machine of its own from an archived state: its files, its place on the host, its identity.

    made, notes = new(vm, index, archive, point, "../twin", io, environ)

All its disks are put into its directory, wherever they were: two machines never write to one disk.
`new_identity` makes it different from the archived machine.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import dataclass, field

from qvmsh.config import devices, edit
from qvmsh.errors import ConfigError, ImageError, QvmError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import identity, registry
from qvmsh.machine import programs as tools
from qvmsh.machine.archive import drives
from qvmsh.machine.archive.checked_reader import Place, Reader
from qvmsh.machine.archive.drives import MAIN, READ_ONLY, UEFI
from qvmsh.machine.archive.model import Archive, Part, Point
from qvmsh.machine.archive.settings import SETTINGS
from qvmsh.machine.create import create
from qvmsh.machine.journal import Kind
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.restore.new_identity import assign_words, on_disks, renew
from qvmsh.machine.storage import own_disk, path_settings, supplies
from qvmsh.machine.storage.path_settings import WORDS, between
from qvmsh.machine.work import creation_folder
from qvmsh.qemu import drives as qemu_drives
from qvmsh.qemu import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from qvmsh.io import Io
    from qvmsh.machine.archive.index import ArchiveIndex


@dataclass
class Laid:
    """Notes on a machine that was laid out, and the owner of its settings in the archive."""

    notes: list[str] = field(default_factory=list)
    uid: int | None = None


def new(
    vm: BaseMachine | None,
    index: ArchiveIndex,
    archive: Archive,
    point: Point,
    directory: str,
    io: Io,
    environ: Mapping[str, str],
) -> tuple[BaseMachine, list[str]]:
    """Make the machine `directory`: all of it, or nothing.

    Raises:
        UsageError: it cannot be made there.
        ImageError: the archive is damaged.
        QvmError: the disk is full.
    """
    final = os.path.abspath(directory)
    name = os.path.basename(final)
    for line in creation_folder.sweep(environ):
        io.warn(line)
    create.require_place(final, name, verb="restore")
    folder = creation_folder.Folder(Kind.RESTORE_NEW, final, environ, io)
    try:
        with folder:
            os.chmod(folder.path, _mode(archive.directory))
            program = tools.qemu_img(vm) if vm else programs.find("qemu-img")
            reader = Reader(io, program, index, archive, point, folder.path)
            laid = lay_out(vm, reader, environ, name=name, final=final)
            with identity.settled(BaseMachine(folder.path, environ=environ), is_fixed=False):
                folder.put_in_place()
                registry.remember(BaseMachine(final, environ=environ))
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) and final in (error.filename, error.filename2):
            raise UsageError(f"restore: another command has just created {name}") from None
        hint = "nothing was left behind"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint += "; free some space"
        if error.errno == errno.ENOENT:
            hint = "no folder can be created there; choose another place"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "choose a place that you can write to"
        raise QvmError(f"cannot restore into {final}: {error.strerror}", hint=hint) from error
    host_files.sync_folder(os.path.dirname(final))
    return BaseMachine(final, io=io, environ=environ), laid.notes


def _mode(directory: str) -> int:
    """The permissions of a new machine's directory: those of the archived one, if that exists."""
    try:
        os.stat(os.path.join(directory, ".vmrc"))
        return os.stat(directory).st_mode & 0o755 | 0o700
    except OSError:
        return 0o755


def lay_out(
    vm: BaseMachine | None,
    reader: Reader,
    environ: Mapping[str, str],
    *,
    name: str = "",
    final: str = "",
    keeps_identity: bool = False,
) -> Laid:
    """Make a machine of an archived state in the reader's folder, which is empty.

    Args:
        vm: a machine whose `.vmrc` serves where the archive has none.
        name: the machine's new name, with which it gets an identity of its own; "" keeps both.
        keeps_identity: it gets the name alone.
        final: where the folder will be; "" if it stays.
    """
    archive, point, folder = reader.archive, reader.point, reader.work
    laid = Laid()
    BaseMachine(folder, environ=environ).state_folder()

    def place(inside: str) -> str:
        target = os.path.join(folder, inside)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        return target

    vmrc = os.path.join(folder, ".vmrc")
    if not reader.settings(place) or not os.path.exists(vmrc):
        if vm is None:
            raise UsageError(
                f"{archive.folder} has no .vmrc",
                hint="run `qvm restore` in the machine's directory, or with -M",
            )
        shutil.copyfile(vm.files.vmrc, vmrc)
    laid.uid = reader.settings_uid
    if final:
        _keep_paths(reader, vmrc, environ, final, laid.notes)
    before = _values(folder, environ)
    _bring_inside(folder, point, environ, laid.notes)
    if name:
        renew(
            folder, name, environ, laid.notes,
            has_snapshots=bool(point.snapshots), keeps_identity=keeps_identity,
        )  # fmt: skip
    made = BaseMachine(folder, io=reader.io, environ=environ)
    moved = _disks(made, reader, archive, point, laid.notes)
    laid.notes = on_disks(made, laid.notes)
    _left_out(reader, laid.notes)  # last: nothing is written through its links
    _rewrite_snapshots(made, archive, moved, before, final or folder)
    made.settings  # noqa: B018  # what we wrote must be right
    if (
        laid.uid
        and os.geteuid() == 0
        and not (vm and host_files.read(vm.files.vmrc).data == host_files.read(vmrc).data)
    ):
        os.chown(vmrc, laid.uid, -1)  # root trusts it as much as that account
    return laid


def _keep_paths(reader: Reader, vmrc: str, environ: Mapping[str, str], final: str, notes: list[str]) -> None:
    """Let the settings name the copy's own files, and the same others as those of the archived machine.

    An archive cannot be edited: what cannot be rewritten there is a note; a disk comes inside all the same.

    Args:
        vmrc: the copy's, which is still as it was there.
    """
    directory, verb = reader.archive.directory, "clone" if reader.is_taking else "restore"
    if not os.path.isdir(directory):  # on another host
        return
    source = BaseMachine(directory, environ=environ)
    text = host_files.read(vmrc).text
    try:
        changed = path_settings.for_copy(source, text, os.path.dirname(vmrc), final, verb)
    except ConfigError:  # the copy's own settings will have the same problem
        return
    except StateError as error:
        if reader.is_taking:
            raise
        notes.append(error.what.removeprefix("cannot restore: "))
        return
    if changed != text:
        host_files.write_atomic(vmrc, changed, os.stat(vmrc).st_mode & 0o777)


def _values(folder: str, environ: Mapping[str, str]) -> dict[str, str]:
    settings = BaseMachine(folder, environ=environ).settings
    return {each: settings[each] for each in settings}


def _left_out(reader: Reader, notes: list[str]) -> None:
    """Report what is not in the archive; what a guest only reads is used in place, if it still exists."""
    archive, folder = reader.archive, reader.work
    where = "copied" if reader.is_taking else "in the archive"
    for part in reader.point.parts:
        if not part.left_out:
            continue
        text = f"{part.source} is not {where}: {part.left_out}"
        target = os.path.join(folder, part.source)
        original = os.path.join(archive.directory, part.source)
        is_read = part.role.startswith("file") or part.left_out == READ_ONLY
        if os.path.isabs(part.source):
            text += "; the new machine uses the same one"
        elif is_read and os.path.isabs(archive.directory) and _is_linkable(original):
            if not os.path.lexists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.symlink(original, target)
                text += f"; in the new machine it is a link to {original}"
        elif not os.path.lexists(target):
            text += "; put it into the new machine"
        notes.append(text)


def _is_linkable(path: str) -> bool:
    """True for a file and for a folder that the guest sees; not for a pipe, or a device of the host."""
    return os.path.isfile(path) or os.path.isdir(path)


# Disks


def _bring_inside(folder: str, point: Point, environ: Mapping[str, str], notes: list[str]) -> None:
    """Let the settings name disks from elsewhere in the machine's own directory."""
    made = BaseMachine(folder, environ=environ)
    stored = {part.role for part in point.parts if part.name}
    moved: dict[str, str] = {}
    found = drives.named(made)
    outside = {each.path for each in found if os.path.relpath(each.path, folder).startswith("..")}
    taken = {*os.listdir(folder), *(each.name for each in found if each.path not in outside)}
    taken |= {part.source for part in point.parts if part.left_out}
    for drive in found:
        if drive.role not in stored or drive.path not in outside or drive.path in moved:
            continue
        moved[drive.path] = free_name(drive.name, taken)
        taken.add(moved[drive.path])
        notes.append(f"{drive.path} is now {moved[drive.path]} in the machine's directory")
    if not moved:
        return
    vmrc = os.path.join(folder, ".vmrc")
    lines, is_changed = [], False
    for disk in supplies.additional_disks(made):
        new_name = moved.get(disk.path)
        is_changed |= new_name is not None
        lines.append(line_of(new_name or between(disk.name, folder, "."), disk.line))
    if is_changed:
        edit.assign_in_file(vmrc, "VM_DISKS", "\n".join(lines))
    for variable in WORDS:
        words = made.settings.words(variable)
        names = {
            each.file: moved[path]
            for each in qemu_drives.drives(words)
            if (path := os.path.normpath(os.path.join(folder, each.file))) in moved
        }
        if names:
            names = {old: f"./{now}" if ":" in now else now for old, now in names.items()}
            assign_words(vmrc, variable, qemu_drives.renamed(words, names))


def format_of(vm: BaseMachine, drive: drives.Drive) -> str:
    """The format with which QEMU opens a disk; "" where the words leave that to its guess."""
    words = [word for variable in WORDS for word in vm.settings.words(variable)]
    guessed = {
        os.path.normpath(os.path.join(vm.directory, each.file))
        for each in qemu_drives.drives(words)
        if not each.format
    }
    return "" if drive.path in guessed else drive.format


def line_of(name: str, line: devices.DiskLine) -> str:
    """A line of VM_DISKS with another file."""
    words = [name, line.driver, *([line.cache] if line.cache else []), *(["ro"] if line.is_read_only else [])]
    return ":".join(words)


def free_name(name: str, taken: set[str]) -> str:
    stem, suffix = os.path.splitext(name)
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{stem}-{count}{suffix}"
    return found


def _disks(
    made: BaseMachine, reader: Reader, archive: Archive, point: Point, notes: list[str]
) -> dict[tuple[str, int], str]:
    """Make all disks; returns where each layer is, by role and depth (the top is 0)."""
    named = {each.role: each for each in drives.named(made)}
    taken: set[str] = set()
    found: dict[tuple[str, int], str] = {}
    for part in point.parts:
        if part.role == SETTINGS or part.left_out:
            continue
        drive = named.get(part.role)
        variables = supplies.variables_path(made) if part.role == UEFI else ""
        path = drive.path if drive else variables
        inside = os.path.relpath(path, made.directory) if path else ".."
        if inside.startswith("..") or inside in taken:
            inside = free_name(os.path.basename(part.source) or part.plain_name, taken)
            notes.append(f"{inside} was restored, but no setting names it")
        if part.role == MAIN and part.source == own_disk.S2E:
            inside = part.source  # the disk by its name alone
        names = [inside]
        for each in () if reader.is_linked else layer_names(made, archive, part.role):
            names.append(free_name(each, {*taken, *names}))
        taken.update(names)
        paths = [os.path.join(made.directory, each) for each in names]
        for each in paths:
            _require_inside(made, each, archive)
            os.makedirs(os.path.dirname(each), exist_ok=True)
        try:
            reader.layers(
                part.role, [Place(each) for each in paths], format_of(made, drive) if drive else None
            )
        except FileExistsError as error:
            raise ImageError(
                f"{archive.folder} holds {os.path.basename(error.filename)} twice",
                hint="restore another state",
            ) from None
        found |= {(part.role, depth): each for depth, each in enumerate(paths)}
    return found


def _require_inside(made: BaseMachine, path: str, archive: Archive) -> None:
    """The archive is not trusted: nothing is written outside the machine."""
    top = os.path.realpath(made.directory)
    if os.path.commonpath((top, os.path.realpath(path))) != top:
        raise ImageError(
            f"{archive.folder} holds a disk that would be outside the machine's directory: "
            f"{os.path.relpath(path, made.directory)}",
            hint="it was modified; restore another state",
        )


def layer_names(made: BaseMachine, archive: Archive, role: str) -> list[str]:
    """File names of a disk's bases, in a machine of another name."""
    names = [part.plain_name for part in archive.layers.get(role, [])]
    old = f"{archive.machine}-"
    now = f"{made.settings.text('VM_MACHINE_NAME')}-"
    names = [now + each.removeprefix(old) if each.startswith(old) else each for each in names]
    if role == MAIN and names and made.settings.boolean("VM_USE_SNAPSHOTS"):
        names[0] = made.settings.text("VM_SNAPSHOT_BASEFILENAME")
    return names


# What is known of its snapshots


def _rewrite_snapshots(
    made: BaseMachine,
    archive: Archive,
    places: Mapping[tuple[str, int], str],
    before: Mapping[str, str],
    final: str,
) -> None:
    """Update `.qvm/snapshots.json` for the new machine's files and settings."""
    moved = {}
    for (role, depth), path in places.items():
        parts: list[Part] = [part for point in archive.points for part in point.parts if part.role == role]
        parts = archive.layers.get(role, [])[depth - 1 : depth] if depth else parts
        for part in parts:
            old = os.path.normpath(os.path.join(archive.directory, part.source))
            moved[old] = os.path.join(final, os.path.relpath(path, made.directory))
    now = _values(made.directory, made.environ)

    def renewed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renewed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [renewed(each) for each in value]
        return moved.get(value, value) if isinstance(value, str) else value

    try:
        document = host_files.document(made.files.snapshots)
        for row in document["snapshots"]:
            row |= {key: renewed(row[key]) for key in ("disks", "images") if key in row}
            saved = row.get("settings") or {}
            saved |= {
                key: now[key] for key, value in saved.items() if key in now and value == before.get(key, "")
            }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # missing or invalid
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    host_files.write_atomic(made.files.snapshots, text)
