"""An archived state back into its machine: all disks and what belongs to them, in one step.

May import: `config.edit`, `host`, `qemu`, `machine`.

    notes = same(vm, shelf, archive, point, is_forced=False)

Everything is made beside its place under the names of `NEW`; then the new files take the place of the old
ones by renaming. `.qvm/archive.unfinished` tells of it, so that a restore that was killed leaves the old
state, or the next command completes it.

Where everything belongs, and what stands against it, is `restore_plan`.
"""

from __future__ import annotations

import errno
import os

from qvmsh.config import devices, edit, files
from qvmsh.errors import ImageError, QvmError, StateError, Terminated
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import identity, state
from qvmsh.machine import programs as tools
from qvmsh.machine.archive import drives
from qvmsh.machine.archive import recovery as interrupted
from qvmsh.machine.archive.model import Archive, Point
from qvmsh.machine.archive.reader import NEW, Reader
from qvmsh.machine.archive.settings import STATE, is_known
from qvmsh.machine.machine import Machine
from qvmsh.machine.restore.new_machine import line_of
from qvmsh.machine.restore.plan import (
    Plan,
    is_inside,
    plan_of,
    real,
    require_leave,
    require_nobody_above,
    top_of,
)
from qvmsh.machine.storage import supplies as disks
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.archive.index import Shelf


def same(vm: Machine, shelf: Shelf, archive: Archive, point: Point, *, is_forced: bool) -> list[str]:
    """Restore a state into the machine; returns what is to be said of it.

    Raises:
        StateError: it runs, or what it holds is in no archive and `is_forced` is false.
        ImageError: the archive is damaged, or another image stands on what would be replaced.
        QvmError: the disk is full. In each case nothing was changed.
    """
    with work_lock(vm, "restore"):
        seen = state.observe(vm)
        if seen.is_live:
            raise StateError(
                f"cannot restore: it is {seen}", machine=vm.name, hint="`qvm stop` first", actual=seen.kind,
                required=state.STOPPED,
            )  # fmt: skip
        plan = plan_of(vm, archive, point)
        for path in plan.made():
            image.require_unused(path, vm.name)
        require_nobody_above(vm, plan)
        require_leave(vm, shelf, plan, is_forced=is_forced)
        pairs = _pairs(vm, plan.made())
        foreign = _foreign(vm, pairs)
        if foreign:
            raise ImageError(
                f"cannot restore: {foreign} is no file of the machine", machine=vm.name,
                hint="`qvm restore ARCHIVE DIR` makes a new machine",
            )  # fmt: skip
        # the note of a whole restore is as long as that of an unfinished one: a full disk has room for it
        work = interrupted.begin(vm, "restore", swap=pairs, is_ready=0, uuid=archive.uuid)
        try:
            settle(vm, work, is_clearing=True)
            _make(vm, Reader(vm.io, tools.qemu_img(vm), shelf, archive, point, vm.files.state), plan, work)
            work["is_ready"] = 1
            interrupted.write(vm, work)
        except OSError as error:
            _undo(vm, work)
            raise QvmError(
                f"cannot restore: {error.filename or vm.directory}: {error.strerror}",
                machine=vm.name, hint="make room; the machine is as it was",
            ) from error  # fmt: skip
        except BaseException as error:
            done = _undo(vm, work)
            if not isinstance(error, Exception):
                vm.io.warn(f"{vm.name}: the restore was interrupted, and is {done}")
            raise
        try:
            with process.Shielded():  # a few renames
                settle(vm, work)
                interrupted.end(vm)
                vm.reload()
        except (KeyboardInterrupt, Terminated):
            vm.io.warn(f"{vm.name}: the interruption came too late, the restore is done")
            raise
    return plan.notes


def _undo(vm: Machine, work: dict[str, Any]) -> str:
    """Leave the machine as it was, whether the note says already that all is ready, or not; see `settle`."""
    with process.Shielded():
        if work["is_ready"]:
            work["is_ready"] = 0
            interrupted.write(vm, work)
        done = settle(vm, work)
        interrupted.end(vm)
    return done


def _pairs(vm: Machine, paths: list[str]) -> list[list[str]]:
    """New name and name in the end of each file, from the machine's directory."""
    return [[os.path.relpath(path + end, top_of(vm)) for end in (NEW, "")] for path in paths]


def _make(vm: Machine, reader: Reader, plan: Plan, work: dict[str, Any]) -> None:
    """Make all new files under their names for the time being."""
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
        """The files of a moment, and those that the settings name and are missing; the `.vmrc` to look at."""
        if name == ".vmrc":
            return old
        path = os.path.join(top_of(vm), name)
        is_wanted = name.startswith(STATE) or (not os.path.lexists(path) and is_known(vm, name))
        if not is_wanted or os.path.realpath(path) != path or path in made:  # never through a link
            return None
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        work["swap"] += _pairs(vm, [path])
        interrupted.write(vm, work)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path + NEW

    before = len(work["swap"])
    reader.settings(wanted)
    for new, name in work["swap"][before:]:
        _adopt(vm, os.path.join(top_of(vm), new), os.path.join(top_of(vm), name))
    _bring_in_step(vm, plan, reader, old, work)
    host_files.remove(old)


def _adopt(vm: Machine, new: str, path: str) -> None:
    """Mode and owner are those of the file that is replaced."""
    try:
        status = os.lstat(path)
    except OSError:
        return
    os.chmod(new, status.st_mode & 0o7777)
    if os.geteuid() == 0:
        os.chown(new, status.st_uid, status.st_gid, follow_symlinks=False)


def _bring_in_step(vm: Machine, plan: Plan, reader: Reader, old: str, work: dict[str, Any]) -> None:
    """Let VM_DISKS name the disks of the state, in its order, and behind them those that it did not have."""
    stored = {part.role for part in reader.point.parts if part.role.startswith("disk") and part.name}
    then = _lines_of(vm, old)
    now = disks.further(vm)
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
            f"{name} is back, and in VM_DISKS again"
            if part.role in stored
            else f"{name} is back, but no setting names it: VM_QEMU_EXTRA or VM_FIRMWARE did"
        )
    if lines == [line_of(each.name, each.line) for each in now]:
        return
    if not any(part.role in stored for part in plan.lacking):
        plan.notes.append("the disks in VM_DISKS stand in the order of the archived state now")
    path = real(vm, vm.files.vmrc)
    text = edit.assign(files.read(path).text, "VM_DISKS", "\n".join(lines))
    work["swap"] += _pairs(vm, [path])
    interrupted.write(vm, work)
    with host_files.new(path + NEW) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        file.flush()
        os.fsync(file.fileno())
    _adopt(vm, path + NEW, path)


def _lines_of(vm: Machine, vmrc: str) -> dict[str, Any]:
    """What the archived `.vmrc` says of each disk of VM_DISKS."""
    from qvmsh.config import layers

    try:
        text = files.read(vmrc).text
        value = layers.load(vm.directory, vm.environ, text=text)["VM_DISKS"]
        return {f"disk{at}": each for at, each in enumerate(devices.disks(value), start=1)}
    except (OSError, files.Unreadable, QvmError, ValueError, KeyError):
        return {}


def settle(vm: Machine, work: dict[str, Any], *, is_clearing: bool = False) -> str:
    """Complete a restore whose files were all ready, else undo it; returns what was done.

    Args:
        is_clearing: only what an earlier one may have left is removed.

    Raises:
        QvmError: the note names files that are none of the machine's.
    """
    _require_own(vm, work["swap"])
    folders = set()
    for new, target in work["swap"]:
        source, path = os.path.join(top_of(vm), new), os.path.join(top_of(vm), target)
        if not work["is_ready"]:
            host_files.remove(source)
        elif os.path.exists(source):
            os.rename(source, path)
            folders.add(os.path.dirname(path))
    for folder in folders:
        host_files.sync_folder(folder)
    is_other = work.get("uuid", "") not in ("", identity.known_uuid(vm))
    if work["is_ready"] and is_other:  # another guest, with another host key
        host_files.remove(vm.files.known_hosts)
    for name in () if is_clearing else os.listdir(vm.files.state):
        if name.endswith(NEW):
            host_files.remove(os.path.join(vm.files.state, name))
    return "completed" if work["is_ready"] else "undone, the machine is as it was"


def _require_own(vm: Machine, pairs: list[list[str]]) -> None:
    """The note lies where another account may write: what it names must be the machine's."""
    foreign = _foreign(vm, pairs)
    if foreign:
        raise QvmError(
            f".qvm/archive.unfinished names {foreign}, which is no file of the machine",
            machine=vm.name,
            hint="look at that file; remove it if you do not know what it tells of",
        )


def _foreign(vm: Machine, pairs: list[list[str]]) -> str:
    """The first name that is none of the machine's, "" if all are."""
    images = {os.path.realpath(each.path) for each in drives.named(vm)}
    own = images | {os.path.realpath(vm.files.vmrc)}
    for new, target in pairs:
        path = os.path.normpath(os.path.join(top_of(vm), target))
        is_near = is_inside(vm, os.path.realpath(path)) and not os.path.isabs(target)
        if new != target + NEW or not (is_near or path in own):
            return target
    return ""
