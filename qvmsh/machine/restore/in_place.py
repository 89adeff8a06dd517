"""An archived state back into its machine: all disks and what belongs to them, in one step.

    notes = same(vm, index, archive, point, is_forced=False)

Everything is made under temporary names (`NEW`); then the new files are renamed over the old ones. The
journal `.qvm/archive.unfinished` lists them, so after a kill the old state is there, or the next command
completes the restore. `plan` says where everything belongs and what prevents it.
"""

from __future__ import annotations

import errno
import os

from qvmsh.config import devices, edit, files
from qvmsh.errors import ImageError, QvmError, Terminated
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import journal as journals
from qvmsh.machine import programs, state
from qvmsh.machine.archive.checked_reader import NEW, Reader
from qvmsh.machine.archive.model import Archive, Point
from qvmsh.machine.archive.settings import STATE, is_known
from qvmsh.machine.journal import Journal, Kind, Phase, Record
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.restore import recovery
from qvmsh.machine.restore.new_machine import line_of
from qvmsh.machine.restore.plan import Plan, plan_of, real, require_leave, require_nobody_above, top_of
from qvmsh.machine.storage import supplies
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.archive.index import ArchiveIndex


def same(
    vm: BaseMachine, index: ArchiveIndex, archive: Archive, point: Point, *, is_forced: bool
) -> list[str]:
    """Restore a state into the machine; returns notes for the user.

    Raises:
        StateError: it runs, or its content is in no archive and `is_forced` is false.
        ImageError: the archive is damaged, or another image is backed by what would be replaced.
        QvmError: the disk is full. In each case nothing was changed.
    """
    with work_lock(vm, "restore"):
        state.require_off(vm, state.observe(vm), "restore")
        plan = plan_of(vm, archive, point)
        for path in plan.made():
            image.require_unused(path, vm.name)
        require_nobody_above(vm, plan)
        require_leave(vm, index, plan, is_forced=is_forced)
        pairs = _renames(vm, plan.made())
        foreign = recovery.foreign(vm, pairs)
        if foreign:
            raise ImageError(
                f"cannot restore: {foreign} is not a file of the machine", machine=vm.name,
                hint="`qvm restore ARCHIVE DIR` makes a new machine",
            )  # fmt: skip
        # the record keeps its length, so that it can be written on a full disk
        journal = journals.begin(vm, Record(Kind.RESTORE, renames=pairs, uuid=archive.uuid))
        try:
            recovery.put_in_place(journal, is_clearing=True)
            _make(Reader(vm.io, programs.qemu_img(vm), index, archive, point, vm.files.state), plan, journal)
            journal.write(phase=Phase.READY)
        except OSError as error:
            _undo(journal)
            raise QvmError(
                f"cannot restore: {error.filename or vm.directory}: {error.strerror}",
                machine=vm.name, hint="free some space; the machine did not change",
            ) from error  # fmt: skip
        except BaseException as error:
            done = _undo(journal)
            if not isinstance(error, Exception):
                vm.io.warn(f"{vm.name}: the restore was interrupted, and {done}")
            raise
        try:
            with process.Shielded():  # a few renames
                recovery.put_in_place(journal)
                journal.end()
                vm.reload()
        except (KeyboardInterrupt, Terminated):
            vm.io.warn(f"{vm.name}: interrupted too late: the restore was completed")
            raise
    return plan.notes


def _undo(journal: Journal) -> str:
    """Leave the machine as it was, also if the record already says that all is ready."""
    with process.Shielded():
        if journal.record.phase is Phase.READY:
            journal.write(phase=Phase.BEGIN)
        done = recovery.put_in_place(journal)
        journal.end()
    return done


def _renames(vm: BaseMachine, paths: list[str]) -> tuple[tuple[str, str], ...]:
    """New name and final name of each file, from the machine's directory."""
    top = top_of(vm)
    return tuple((os.path.relpath(path + NEW, top), os.path.relpath(path, top)) for path in paths)


def _make(reader: Reader, plan: Plan, journal: Journal) -> None:
    """Make all new files under their temporary names."""
    vm = journal.vm
    for role, places in plan.places.items():
        for place in places:
            os.makedirs(os.path.dirname(place.path), exist_ok=True)
        reader.layers(role, places, plan.opened.get(role))
        for place in places:
            if place.is_made:
                _adopt(vm, place.now, place.name)
    old = os.path.join(vm.files.state, f"vmrc-{os.getpid()}{NEW}")
    made = set(plan.made())

    def wanted(name: str) -> str | None:
        """Files that belong to the disks, and missing ones that the settings name; the `.vmrc` to read."""
        if name == ".vmrc":
            return old
        path = os.path.join(top_of(vm), name)
        is_wanted = name.startswith(STATE) or (not os.path.lexists(path) and is_known(vm, name))
        if not is_wanted or os.path.realpath(path) != path or path in made:  # never through a link
            return None
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        journal.write(renames=journal.record.renames + _renames(vm, [path]))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path + NEW

    before = len(journal.record.renames)
    reader.settings(wanted)
    for new, name in journal.record.renames[before:]:
        _adopt(vm, os.path.join(top_of(vm), new), os.path.join(top_of(vm), name))
    _bring_in_step(plan, reader, old, journal)
    host_files.remove(old)


def _adopt(vm: BaseMachine, new: str, path: str) -> None:
    """Take mode and owner of the file that is replaced."""
    try:
        status = os.lstat(path)
    except OSError:
        return
    os.chmod(new, status.st_mode & 0o7777)
    if os.geteuid() == 0:
        os.chown(new, status.st_uid, status.st_gid, follow_symlinks=False)


def _bring_in_step(plan: Plan, reader: Reader, old: str, journal: Journal) -> None:
    """Set VM_DISKS to the disks of the state, in its order, then those that it did not have."""
    vm = journal.vm
    stored = {part.role for part in reader.point.parts if part.role.startswith("disk") and part.name}
    then = _lines_of(vm, old)
    now = supplies.additional_disks(vm)
    lines = []
    for role in sorted(stored, key=lambda role: int(role.removeprefix("disk"))):
        path = plan.places[role][0].name
        mine = [each for each in now if os.path.realpath(each.path) == path]
        name = os.path.relpath(path, top_of(vm))
        if mine:
            lines.append(line_of(mine[0].name, mine[0].line))
        else:
            line = then.get(role, devices.DiskLine(name))
            line.format = reader.formats(role)[0]
            lines.append(line_of(name, line))
    tops = {plan.places[role][0].name for role in stored}
    lines += [line_of(each.name, each.line) for each in now if os.path.realpath(each.path) not in tops]
    for part in plan.lacking:
        name = os.path.basename(plan.places[part.role][0].name)
        plan.notes.append(
            f"{name} was restored and added to VM_DISKS again"
            if part.role in stored
            else f"{name} was restored, but no setting names it now: VM_QEMU_EXTRA or VM_FIRMWARE did"
        )
    if lines == [line_of(each.name, each.line) for each in now]:
        return
    if "VM_DISKS" in dict(vm.overrides):
        plan.notes.append("VM_DISKS of the .vmrc is as it was: this command had another one by --set")
        return
    if not any(part.role in stored for part in plan.lacking):
        plan.notes.append("the disks in VM_DISKS are now in the order of the archived state")
    path = real(vm, vm.files.vmrc)
    text = edit.assign(files.read(path).text, "VM_DISKS", "\n".join(lines))
    journal.write(renames=journal.record.renames + _renames(vm, [path]))
    with host_files.new(path + NEW) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        file.flush()
        os.fsync(file.fileno())
    _adopt(vm, path + NEW, path)


def _lines_of(vm: BaseMachine, vmrc: str) -> dict[str, Any]:
    """What the archived `.vmrc` says of each disk of VM_DISKS."""
    from qvmsh.config import layers

    try:
        text = files.read(vmrc).text
        value = layers.load(vm.directory, vm.environ, text=text)["VM_DISKS"]
        return {f"disk{at}": each for at, each in enumerate(devices.disks(value), start=1)}
    except (OSError, files.Unreadable, QvmError, ValueError, KeyError):
        return {}
