"""`restore`: an archived state back into its machine, or as a machine of its own.

May import: `host`, `config.edit`, `qemu`, `machine`.

    restore(vm, "demo-20261121101336", None, is_forced=False)       # Restored(...)

Everything is made beside its place and checked. A new machine's directory then gets its name; in an
existing machine the new files take the place of the old ones by renaming. `.qvm/archive.unfinished`
tells of it, so that a `restore` that was killed leaves the old state, or the next command completes it.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import time

from qvmsh.config import edit
from qvmsh.errors import ImageError, QvmError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.host import transfer
from qvmsh.machine import (
    archive_keeping,
    create,
    disks,
    hardware,
    interrupted,
    known,
    launch,
    log,
    progress,
    state,
    stores,
    tools,
)  # fmt: skip
from qvmsh.machine.archive_reports import Restored
from qvmsh.machine.archive_settings import SETTINGS
from qvmsh.machine.archives import Archive, Part, Point, Shelf
from qvmsh.machine.drives import MAIN
from qvmsh.machine.machine import Machine
from qvmsh.qemu import image, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from qvmsh.io import Io

NEW = ".restore-new"


def restore(
    vm: Machine | None,
    word: str,
    directory: str | None,
    io: Io,
    environ: Mapping[str, str],
    *,
    is_forced: bool,
) -> Restored:
    """Restore an archived state; see `commands.restore`.

    Raises:
        UsageError: there is no such state, or no machine to restore it into.
        StateError: the machine runs, or what it holds is in no archive and `is_forced` is false.
        ImageError: the archive is damaged; nothing was changed.
    """
    began = time.monotonic()
    shelf, archive, point = find(vm, word)
    label = f"{archive.folder}/{point.stamp}"
    if directory is not None:
        made, notes = _new(vm, shelf, archive, point, directory, io, environ)
        return Restored(
            made.name, label, os.path.relpath(made.directory), is_new=True, seconds=time.monotonic() - began,
            notes=notes,
        )  # fmt: skip
    if vm is None:
        raise UsageError(
            "restore: there is no machine here to restore into",
            hint="`qvm restore ARCHIVE DIR` makes a new one",
        )
    notes = _same(vm, shelf, archive, point, is_forced=is_forced)
    log.note(vm, f"restored {label}")
    return Restored(vm.name, label, vm.directory, is_new=False, seconds=time.monotonic() - began, notes=notes)


def find(vm: Machine | None, word: str) -> tuple[Shelf, Archive, Point]:
    """The archived state that a word means: one of the machine's, or a folder by its path or URL.

    Raises:
        UsageError: there is none.
    """
    if "://" in word:
        above, _, folder = word.rstrip("/").rpartition("/")
        return _of_folder(stores.at(above, "."), folder, "")
    path = os.path.abspath(word)
    is_local = os.path.isdir(path) and ("/" in word or vm is None or not _is_own(vm, word))
    if is_local:
        return _of_folder(stores.Folder(os.path.dirname(path)), os.path.basename(path), "")
    above, stamp = os.path.split(path)
    if "/" in word and os.path.isdir(above) and stamp.isdigit():
        return _of_folder(stores.Folder(os.path.dirname(above)), os.path.basename(above), stamp)
    if vm is None:
        raise UsageError(
            f"there is no archive {word}", hint="name its folder by a path, or a machine with -M"
        )
    shelf = archive_keeping.shelf_of(vm)
    return (shelf, *shelf.find(word))


def _is_own(vm: Machine, word: str) -> bool:
    return word in archive_keeping.shelf_of(vm).store.folders()


def _of_folder(store: stores.Store, folder: str, stamp: str) -> tuple[Shelf, Archive, Point]:
    shelf = Shelf(store, "")
    name, _, date = folder.rpartition("-")
    archive = shelf.read(folder) if name and len(date) == 14 and date.isdigit() else None
    if archive is None or not archive.done:
        raise UsageError(f"{store.shown}/{folder} is no archive", hint="its name is NAME-YYYYMMDDhhmmss")
    point = archive.point(stamp) if stamp else archive.done[-1]
    if point is None or not point.is_done:
        raise UsageError(
            f"{folder} has no state {stamp}",
            hint=f"there are: {', '.join(each.stamp for each in archive.done)}",
        )
    return shelf, archive, point


# Reading an archive


class Reader:
    """Makes the files of one archived state somewhere.

    Args:
        work: folder for what is needed in between.
    """

    def __init__(self, io: Io, program: str, shelf: Shelf, archive: Archive, point: Point, work: str) -> None:
        self.io = io
        self.program = program
        self.shelf = shelf
        self.archive = archive
        self.point = point
        self.work = work

    def fetch(self, part: Part, target: str) -> None:
        """One stored file, decompressed, at `target`; its checksum must be right.

        Raises:
            ImageError: it is missing, or damaged.
        """
        label = f"{self.archive.folder}/{part.name}"
        damaged = ImageError(f"{label} is damaged: its checksum differs", hint="restore another state")
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            with (
                progress.Progress(self.io, f"restoring {part.plain_name}", part.stored_bytes) as shown,
                self.shelf.store.reader(self.archive.folder, part.name) as source,
            ):
                try:
                    sent = transfer.fetch(
                        source, fd, shown.tell, self.io.checkpoint, compression=part.compression
                    )
                except QvmError as error:
                    damaged.details = (error.what, *error.details)
                    raise damaged from None
            if part.xxh128 and sent.xxh128 != part.xxh128:
                raise damaged
            os.fsync(fd)
        except FileNotFoundError:
            raise ImageError(f"{label} is not there") from None
        finally:
            os.close(fd)

    def layers(self, role: str, targets: list[str], names: list[str]) -> None:
        """The disk `role` with all that it stands on.

        Args:
            targets: where each layer goes, the top first.
            names: how each is called in the end; the one above refers to it so.
        """
        below = self.archive.layers.get(role, [])
        for part, target in zip(below, targets[1:], strict=True):
            self.fetch(part, target)
        top = self.point.part(role)
        assert top is not None
        standing = (targets[1], below[0].format) if below else ("", "")
        self._top(role, targets[0], *standing)
        forms = [top.format, *(part.format for part in below)]
        for at, target in enumerate(targets):
            if forms[at] != "qcow2":
                continue
            if at + 1 < len(targets):
                words = ["-F", forms[at + 1], "-b", beside(names[at], names[at + 1])]
                self._img(["rebase", "-u", "-f", "qcow2", *words, image.safe_name(target)])
            image.remove_bitmaps(self.program, target)
        for part, target in zip(below, targets[1:], strict=True):
            if part.source_mtime_ns:  # so that the next archive knows the base again
                os.utime(target, ns=(part.source_mtime_ns, part.source_mtime_ns))
        if top.source_mtime_ns and not top.of:
            os.utime(targets[0], ns=(top.source_mtime_ns, top.source_mtime_ns))

    def _top(self, role: str, target: str, below: str, form: str) -> None:
        """The top layer: the last whole one, and the changes since, one after the other.

        Args:
            below: what it stands on, as it is called now; a commit reads the rest of a cluster there.
        """
        chain = self.archive.chain(self.point)
        at = next(n for n in range(len(chain) - 1, -1, -1) if not _part(chain[n], role).of)
        whole = _part(chain[at], role)
        self.fetch(whole, target)
        if at + 1 < len(chain) and below:
            words = ["-F", form, "-b", os.path.abspath(below)]
            self._img(["rebase", "-u", "-f", "qcow2", *words, image.safe_name(target)])
        for each in chain[at + 1 :]:
            path = os.path.join(self.work, f"changes-{os.getpid()}{NEW}")
            try:
                self.fetch(_part(each, role), path)
                words = ["-F", whole.format, "-b", os.path.abspath(target)]
                self._img(["rebase", "-u", "-f", "qcow2", *words, image.safe_name(path)])
                self._img(["commit", "-q", "-d", "-f", "qcow2", image.safe_name(path)])
            finally:
                host_files.remove(path)

    def _img(self, words: list[str]) -> str:
        return image.run(self.program, words, what=f"restore {self.archive.folder}/{self.point.stamp}")

    def settings(self, folder: str) -> bool:
        """The `.vmrc` and what belongs to it, unpacked in `folder`; False if the archive has none."""
        part = self.point.part(SETTINGS)
        if part is None:
            return False
        path = os.path.join(self.work, f"settings-{os.getpid()}{NEW}")
        try:
            self.fetch(part, path)
            with tarfile.open(path) as tar:
                for member in tar.getmembers():
                    clean = os.path.normpath(member.name)
                    if not member.isfile() or clean.startswith(("/", "..")):
                        raise ImageError(f"{part.name} holds {member.name}, which does not belong there")
                    target = os.path.join(folder, clean)
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    source = tar.extractfile(member)
                    assert source is not None
                    with host_files.new(target) as file:
                        shutil.copyfileobj(source, file)
                    os.chmod(target, member.mode & 0o755)
        finally:
            host_files.remove(path)
        return True


def beside(name: str, other: str) -> str:
    """How the image `name` refers to the image `other`: from its own folder, if they are near."""
    inside = os.path.relpath(other, os.path.dirname(name))
    return other if inside.startswith("..") else os.path.join(".", inside)


def _part(point: Point, role: str) -> Part:
    found = point.part(role)
    if found is None:
        raise ImageError(f"the state {point.stamp} has no disk {role}")
    return found


# A new machine


def _new(
    vm: Machine | None,
    shelf: Shelf,
    archive: Archive,
    point: Point,
    directory: str,
    io: Io,
    environ: Mapping[str, str],
) -> tuple[Machine, list[str]]:
    final = os.path.abspath(directory)
    name = os.path.basename(final)
    create.require_place(final, name, verb="restore")
    has_folder = os.path.isdir(final)
    part, guard = create.working_folder(final if has_folder else os.path.dirname(final), name)
    try:
        os.chmod(part, 0o755)  # noqa: S103  # as mkdir would
        notes = lay_out(vm, shelf, archive, point, part, io, environ, name=name)
        create.put_in_place(part, final, has_folder=has_folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(guard)
    host_files.sync_folder(os.path.dirname(final))
    made = Machine(final, io=io, environ=environ)
    known.remember(made)
    return made, notes


def lay_out(
    vm: Machine | None,
    shelf: Shelf,
    archive: Archive,
    point: Point,
    folder: str,
    io: Io,
    environ: Mapping[str, str],
    *,
    name: str = "",
) -> list[str]:
    """Make a machine of an archived state in an empty folder; returns what is to be said of it.

    Args:
        vm: a machine whose `.vmrc` serves where the archive has none.
        name: the machine's new name, with which it gets an identity of its own; "" keeps both.
    """
    program = tools.qemu_img(vm) if vm else programs.find("qemu-img")
    reader = Reader(io, program, shelf, archive, point, folder)
    notes: list[str] = []
    os.makedirs(os.path.join(folder, ".qvm", "log"), exist_ok=True)
    if not reader.settings(folder):
        if vm is None:
            raise UsageError(
                f"{archive.folder} holds no .vmrc",
                hint="call `qvm restore` in the machine's directory, or with -M",
            )
        shutil.copyfile(vm.files.vmrc, os.path.join(folder, ".vmrc"))
    vmrc = os.path.join(folder, ".vmrc")
    if name:
        host_files.remove(os.path.join(folder, ".qvm", "uuid"))
        edit.assign_in_file(vmrc, "VM_MACHINE_NAME", name)
        edit.assign_in_file(vmrc, "VM_MACHINE_ID", create.free_id(environ))
    _bring_disks_inside(folder, point, environ, notes)
    made = Machine(folder, io=io, environ=environ)
    for part in point.parts:
        if part.role == SETTINGS:
            continue
        if part.left_out:
            notes.append(f"{part.source} is not in the archive: {part.left_out}")
            continue
        top = _place(made, part)
        below = [
            os.path.join(folder, each)
            for each in _layer_names(made, archive, part.role, os.path.basename(top))
        ]
        targets = [top, *below]
        for each in targets:
            os.makedirs(os.path.dirname(each), exist_ok=True)
        reader.layers(part.role, targets, targets)
    made.settings  # noqa: B018  # what we wrote must be right
    return notes


def _bring_disks_inside(folder: str, point: Point, environ: Mapping[str, str], notes: list[str]) -> None:
    """Disks of VM_DISKS that lay elsewhere come into the machine's directory."""
    made = Machine(folder, environ=environ)
    lines, is_changed = [], False
    sources = {part.role: part.source for part in point.parts if part.name}
    for disk in disks.further(made):
        source = sources.get(disk.node)
        words = [disk.name]
        inside = os.path.relpath(disk.path, folder)
        if source is not None and inside.startswith(".."):
            words, is_changed = [os.path.basename(disk.path)], True
            notes.append(f"{disk.name} is in the machine's directory now, as {words[0]}")
        line = disk.line
        words += [line.driver, *([line.cache] if line.cache else []), *(["ro"] if line.is_read_only else [])]
        lines.append(":".join(words))
    if is_changed:
        edit.assign_in_file(os.path.join(folder, ".vmrc"), "VM_DISKS", "\n".join(lines))


def _place(made: Machine, part: Part) -> str:
    """Where a disk belongs in a machine."""
    if part.role == MAIN:
        if hardware.is_by_hand(made):
            return os.path.join(made.directory, part.source)
        return os.path.join(made.directory, hardware.disk_name(made))
    if part.role == "uefi":
        return disks.variables_path(made) or os.path.join(made.directory, os.path.basename(part.source))
    for disk in disks.further(made):
        if disk.node == part.role:
            return disk.path
    inside = part.source if not os.path.isabs(part.source) else os.path.basename(part.source)
    return os.path.join(made.directory, inside)


def _layer_names(made: Machine, archive: Archive, role: str, top: str) -> list[str]:
    """File names of what a disk stands on, in a new machine."""
    names = [part.plain_name for part in archive.layers.get(role, [])]
    old = f"{archive.machine}-"
    new = f"{made.settings.text('VM_MACHINE_NAME')}-"
    names = [new + each.removeprefix(old) if each.startswith(old) else each for each in names]
    if role == MAIN and names and made.settings.boolean("VM_USE_SNAPSHOTS"):
        names[0] = made.settings.text("VM_SNAPSHOT_BASEFILENAME")
    return names


# The same machine


def _same(vm: Machine, shelf: Shelf, archive: Archive, point: Point, *, is_forced: bool) -> list[str]:
    with launch.work_lock(vm, "restore"):
        seen = state.observe(vm)
        if seen.is_live:
            raise StateError(
                f"cannot restore: it is {seen}", machine=vm.name, hint="`qvm stop` first", actual=seen.kind,
                required=state.STOPPED,
            )  # fmt: skip
        places = _places(vm, archive, point)
        for targets in places.values():
            for path in targets:
                image.require_unused(tools.qemu_img(vm), path, vm.name)
        _require_leave(vm, shelf, places, is_forced=is_forced)
        pairs = [
            [os.path.relpath(path + NEW, vm.directory), os.path.relpath(path, vm.directory)]
            for targets in places.values()
            for path in targets
        ]
        work = interrupted.begin(vm, "restore", swap=pairs, is_ready=False)
        try:
            for new, _ in pairs:
                host_files.remove(os.path.join(vm.directory, new))
            reader = Reader(vm.io, tools.qemu_img(vm), shelf, archive, point, vm.files.state)
            for role, targets in places.items():
                reader.layers(role, [path + NEW for path in targets], targets)
            work["is_ready"] = True
            interrupted.write(vm, work)
        except OSError as error:
            settle(vm, work)
            interrupted.end(vm)
            raise QvmError(
                f"cannot restore: {error.filename or vm.directory}: {error.strerror}",
                machine=vm.name, hint="make room; the machine is as it was",
            ) from error  # fmt: skip
        except BaseException:
            settle(vm, work)
            interrupted.end(vm)
            raise
        settle(vm, work)
        interrupted.end(vm)
    return [f"{each.source} is not in the archive: {each.left_out}" for each in point.parts if each.left_out]


def _places(vm: Machine, archive: Archive, point: Point) -> dict[str, list[str]]:
    """Where each layer of each disk belongs, by role, the top first."""
    found = {}
    for part in point.parts:
        if part.role == SETTINGS or part.left_out:
            continue
        top = _place(vm, part)
        layers = archive.layers.get(part.role, [])
        names = _layer_names(vm, archive, part.role, os.path.basename(top))
        below: list[str] = []
        for layer, name in zip(layers, names, strict=True):
            is_base = part.role == MAIN and not below
            source = layer.source if layer.source and not is_base else name
            below.append(os.path.join(vm.directory, source))
        found[part.role] = [top, *below]
    return found


def _require_leave(vm: Machine, shelf: Shelf, places: dict[str, list[str]], *, is_forced: bool) -> None:
    """Refuse to throw away what is in no archive.

    Raises:
        StateError: the disks hold what no archived state holds.
    """
    if is_forced:
        return
    tops = {role: targets[0] for role, targets in places.items() if os.path.exists(targets[0])}
    if not tops or _is_archived(shelf, tops):
        return
    raise StateError(
        "what its disks hold now is in no archive, and would be lost",
        machine=vm.name,
        hint="`qvm archive` keeps it; `qvm restore --force` throws it away; `qvm restore ARCHIVE DIR` "
        "restores into a new machine",
    )


def _is_archived(shelf: Shelf, tops: dict[str, str]) -> bool:
    """True if a state of an archive was made of these very files, which have not been written since."""
    for archive in _archives(shelf):
        for point in archive.done:
            parts = {role: point.part(role) for role in tops}
            if all(
                part and not part.of
                and (part.source_mtime_ns, part.size_bytes)
                == (os.stat(tops[role]).st_mtime_ns, os.stat(tops[role]).st_size)
                for role, part in parts.items()
            ):  # fmt: skip
                return True
    return False


def _archives(shelf: Shelf) -> list[Archive]:
    """The archives of a shelf; none where its store cannot be reached."""
    try:
        return shelf.archives()
    except QvmError:
        return []


def settle(vm: Machine, work: dict[str, Any]) -> str:
    """Complete a restore whose files were all ready, else undo it; returns what was done."""
    folders = set()
    for new, target in work["swap"]:
        source, path = os.path.join(vm.directory, new), os.path.join(vm.directory, target)
        if not work["is_ready"]:
            host_files.remove(source)
        elif os.path.exists(source):
            os.rename(source, path)
            folders.add(os.path.dirname(path))
    for folder in folders:
        host_files.sync_folder(folder)
    for name in os.listdir(vm.files.state):
        if name.endswith(NEW):
            host_files.remove(os.path.join(vm.files.state, name))
    return "completed" if work["is_ready"] else "undone, the machine is as it was"
