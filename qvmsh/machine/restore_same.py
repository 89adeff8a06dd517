"""An archived state back into its machine: all disks and what belongs to them, in one step.

May import: `config.edit`, `host`, `qemu`, `machine`.

    notes = same(vm, shelf, archive, point, is_forced=False)

Everything is made beside its place under the names of `NEW`; then the new files take the place of the old
ones by renaming. `.qvm/archive.unfinished` tells of it, so that a restore that was killed leaves the old
state, or the next command completes it.

A disk is found again by its file, not by its number: VM_DISKS may have changed since. What the state
did not have stays as it is; what the machine has no more comes back, into VM_DISKS too. What an image
elsewhere stands on is never replaced.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from qvmsh.config import edit, files
from qvmsh.errors import ImageError, QvmError, StateError
from qvmsh.host import accounts
from qvmsh.host import files as host_files
from qvmsh.machine import chain, disks, drives, interrupted, launch, owner, state, tools
from qvmsh.machine.archive_reader import NEW, Place, Reader
from qvmsh.machine.archive_settings import SETTINGS, STATE
from qvmsh.machine.archives import Archive, Part, Point
from qvmsh.machine.drives import MAIN, READ_ONLY, UEFI
from qvmsh.machine.machine import Machine
from qvmsh.machine.restore_new import free_name, layer_names, line_of
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.drives import Drive
    from qvmsh.machine.shelf import Shelf


@dataclass
class _Plan:
    """What goes where.

    Args:
        places: of each disk's layers, the top first, by its role in the archive.
        lacking: parts whose disk the machine has no more.
        notes: what is to be said.
    """

    places: dict[str, list[Place]] = field(default_factory=dict)
    lacking: list[Part] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def made(self) -> list[str]:
        """The files that are replaced, each once."""
        found = [place.name for places in self.places.values() for place in places if place.is_made]
        return list(dict.fromkeys(found))


def same(vm: Machine, shelf: Shelf, archive: Archive, point: Point, *, is_forced: bool) -> list[str]:
    """Restore a state into the machine; returns what is to be said of it.

    Raises:
        StateError: it runs, or what it holds is in no archive and `is_forced` is false.
        ImageError: the archive is damaged, or another image stands on what would be replaced.
        QvmError: the disk is full. In each case nothing was changed.
    """
    with launch.work_lock(vm, "restore"):
        seen = state.observe(vm)
        if seen.is_live:
            raise StateError(
                f"cannot restore: it is {seen}", machine=vm.name, hint="`qvm stop` first", actual=seen.kind,
                required=state.STOPPED,
            )  # fmt: skip
        plan = _plan(vm, archive, point)
        for path in plan.made():
            image.require_unused(tools.qemu_img(vm), path, vm.name)
        _require_nobody_above(vm, plan)
        _require_leave(vm, shelf, plan, is_forced=is_forced)
        work = interrupted.begin(vm, "restore", swap=_pairs(vm, plan.made()), is_ready=False)
        try:
            settle(vm, work, is_clearing=True)
            _make(vm, Reader(vm.io, tools.qemu_img(vm), shelf, archive, point, vm.files.state), plan, work)
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
        vm.reload()
    return plan.notes


def _pairs(vm: Machine, paths: list[str]) -> list[list[str]]:
    """New name and name in the end of each file, from the machine's directory."""
    return [[os.path.relpath(path + end, _top(vm)) for end in (NEW, "")] for path in paths]


def _top(vm: Machine) -> str:
    return os.path.realpath(vm.directory)


# Where everything belongs


def _plan(vm: Machine, archive: Archive, point: Point) -> _Plan:
    plan = _Plan()
    present = drives.named(vm)
    matched: dict[str, Drive] = {}
    parts = [each for each in point.parts if each.role != SETTINGS]
    for part in parts:
        if part.left_out:
            plan.notes.append(f"{part.source} is not in the archive, and stays as it is: {part.left_out}")
            continue
        found = _present(vm, part, [each for each in present if each not in matched.values()])
        if found and os.path.exists(found.path) and not os.path.isfile(found.path):
            raise ImageError(
                f"cannot restore {found.name}: it was a file when it was archived, and is none now",
                machine=vm.name, hint="`qvm restore ARCHIVE DIR` makes a new machine",
            )  # fmt: skip
        if found:
            matched[part.role] = found
    taken = {os.path.relpath(each.path, vm.directory) for each in present}
    for part in parts:
        if not part.left_out:
            found = matched.get(part.role)
            top = found.path if found else _place_of_lacking(vm, part, taken, plan)
            plan.places[part.role] = _layers(vm, archive, part, top, plan)
    for drive in present:
        is_known = drive in matched.values() or any(drives.same(drive.path, _at(vm, each)) for each in parts)
        if not is_known and drive.left_out != READ_ONLY and os.path.exists(drive.path):
            plan.notes.append(f"{drive.name} is not in that state, and stays as it is")
    return plan


def _at(vm: Machine, part: Part) -> str:
    return os.path.normpath(os.path.join(vm.directory, part.source))


def _present(vm: Machine, part: Part, present: list[Drive]) -> Drive | None:
    """The disk of the machine that an archived one is."""
    if part.role == MAIN:
        return next((each for each in present if each.role == MAIN), None)
    if part.role == UEFI and disks.variables_path(vm):
        return drives.Drive(UEFI, disks.variables_path(vm), "qcow2")
    if not part.source:
        return None
    path = os.path.realpath(_at(vm, part))
    return next((each for each in present if os.path.realpath(each.path) == path), None)


def _place_of_lacking(vm: Machine, part: Part, taken: set[str], plan: _Plan) -> str:
    """Where a disk comes back that the machine has no more: never outside of its directory."""
    name = part.source if part.source and not os.path.isabs(part.source) else ""
    name = free_name(name or os.path.basename(part.source) or part.plain_name, taken)
    taken.add(name)
    plan.lacking.append(part)
    return os.path.join(vm.directory, name)


def _layers(vm: Machine, archive: Archive, part: Part, top: str, plan: _Plan) -> list[Place]:
    """The places of a disk and all that it stands on.

    What it stands on comes where it is now, if that is in the machine's directory; where it is elsewhere, it
    is left alone if it is still the same, else the machine gets one of its own.
    """
    top = _real(vm, top)
    places = [Place(top, top + NEW)]
    stored = archive.layers.get(part.role, [])
    names = [os.path.join(vm.directory, each) for each in layer_names(vm, archive, part.role)]
    there = _chain(top)
    if len(there) == len(stored):
        names = [
            now if _is_inside(vm, now) or _is_unchanged(now, layer) else _fresh(name)
            for now, layer, name in zip(there, stored, names, strict=True)
        ]
    known = {place.name: place for places in plan.places.values() for place in places}
    for name, layer in zip(names, stored, strict=True):
        path = _real(vm, name)
        if path in known:  # two disks on one base
            places.append(Place(path, known[path].now, is_made=False))
        elif _is_unchanged(path, layer) and (not _is_inside(vm, path) or _strangers(vm, path, {top})):
            places.append(Place(path, is_made=False))
        else:
            places.append(Place(path, path + NEW))
    return places


def _fresh(path: str) -> str:
    """A name that no file has."""
    stem, suffix = os.path.splitext(path)
    found, count = path, 1
    while os.path.lexists(found):
        count += 1
        found = f"{stem}-{count}{suffix}"
    return found


def _chain(path: str) -> list[str]:
    """What an image stands on, as far as it is there."""
    found: list[str] = []
    below = chain.base_of(path) if os.path.exists(path) else ""
    while below and below not in found:
        found.append(below)
        below = chain.base_of(below) if os.path.exists(below) else ""
    return found


def _real(vm: Machine, path: str) -> str:
    """Where a file is when links are followed; root follows none that another account has made."""
    if os.geteuid() == 0 and os.path.islink(path) and os.lstat(path).st_uid != 0:
        raise ImageError(
            f"{os.path.basename(path)} is a link that another account has made; root does not follow it",
            machine=vm.name, hint="make it a file, or let root own the link",
        )  # fmt: skip
    return os.path.realpath(path)


def _is_inside(vm: Machine, path: str) -> bool:
    return not os.path.relpath(path, _top(vm)).startswith("..")


def _is_unchanged(path: str, part: Part) -> bool:
    """True if a file is what was archived, as far as its size and its time tell."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return bool(part.source_mtime_ns) and (status.st_mtime_ns, status.st_size) == (
        part.source_mtime_ns,
        part.size_bytes,
    )


# What stands against it


def _strangers(vm: Machine, path: str, own: set[str]) -> list[str]:
    return [each for each in chain.overlays_on(path, vm) if each not in own]


def _require_nobody_above(vm: Machine, plan: _Plan) -> None:
    """Refuse to replace what images stand on that are not replaced as well.

    Raises:
        ImageError: they would be silently wrong.
    """
    own = {place.name for places in plan.places.values() for place in places}
    for path in plan.made():
        for other in _strangers(vm, path, own) if os.path.exists(path) else ():
            inside = os.path.relpath(other, _top(vm))
            raise ImageError(
                f"cannot restore: {other if inside.startswith('..') else inside} stands on "
                f"{os.path.basename(path)}, which would be replaced, and would be silently wrong",
                machine=vm.name,
                hint="`qvm restore ARCHIVE DIR` makes a new machine; or give that overlay a base of its "
                "own first: `qvm disk rebase`, or a copy of the base",
            )


def _require_leave(vm: Machine, shelf: Shelf, plan: _Plan, *, is_forced: bool) -> None:
    """Refuse to throw away what is in no archive.

    Raises:
        StateError: the disks hold what no archived state holds.
    """
    tops = [places[0].name for places in plan.places.values() if os.path.exists(places[0].name)]
    if is_forced or not tops or _is_archived(shelf, tops):
        return
    raise StateError(
        "what its disks hold now is in no archive, and would be lost",
        machine=vm.name,
        hint="`qvm archive` keeps it; `qvm restore --force` throws it away; `qvm restore ARCHIVE DIR` "
        "restores into a new machine",
    )


def _is_archived(shelf: Shelf, tops: list[str]) -> bool:
    """True if a state of an archive was made of these very files, which have not been written since."""
    try:
        archives = shelf.archives()
    except QvmError:  # the store cannot be reached
        return False
    return any(
        all(any(not part.of and _is_unchanged(path, part) for part in point.parts) for path in tops)
        for archive in archives
        for point in archive.done
    )


# Doing it


def _make(vm: Machine, reader: Reader, plan: _Plan, work: dict[str, Any]) -> None:
    """Make all new files under their names for the time being."""
    for role, places in plan.places.items():
        for place in places:
            os.makedirs(os.path.dirname(place.path), exist_ok=True)
        reader.layers(role, places)
        for place in places:
            if place.is_made:
                _adopt(vm, place.now, place.name)
    old = os.path.join(vm.files.state, f"vmrc-{os.getpid()}{NEW}")
    made = set(plan.made())

    def wanted(name: str) -> str | None:
        """The files of a moment, and those that are missing; the `.vmrc` only to look at it."""
        if name == ".vmrc":
            return old
        path = os.path.join(_top(vm), name)
        is_wanted = name.startswith(STATE) or not os.path.lexists(path)
        if not is_wanted or os.path.realpath(path) != path or path in made:  # never through a link
            return None
        work["swap"] += _pairs(vm, [path])
        interrupted.write(vm, work)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path + NEW

    before = len(work["swap"])
    reader.settings(wanted)
    for new, name in work["swap"][before:]:
        _adopt(vm, os.path.join(_top(vm), new), os.path.join(_top(vm), name))
    _bring_in_step(vm, plan, reader.point, old, work)
    host_files.remove(old)


def _adopt(vm: Machine, new: str, path: str) -> None:
    """Mode and owner are those of the file that is replaced; else the owner's of the machine."""
    account = owner.other(vm)
    try:
        status = os.lstat(path)
    except OSError:
        if account:
            accounts.give(new, account)
        return
    os.chmod(new, status.st_mode & 0o7777)
    if os.geteuid() == 0:
        os.chown(new, status.st_uid, status.st_gid, follow_symlinks=False)


def _bring_in_step(vm: Machine, plan: _Plan, point: Point, old: str, work: dict[str, Any]) -> None:
    """Let VM_DISKS name the disks of the state, in its order, and behind them those that it did not have."""
    stored = {part.role: part for part in point.parts if part.role.startswith("disk") and part.name}
    then = _lines_of(vm, old)
    now = disks.further(vm)
    lines = []
    for role, part in sorted(stored.items(), key=lambda row: int(row[0].removeprefix("disk"))):
        path = plan.places[role][0].name
        mine = [each for each in now if os.path.realpath(each.path) == path]
        name = os.path.relpath(path, _top(vm))
        if mine:
            lines.append(line_of(mine[0].name, mine[0].line))
        elif role in then:
            lines.append(line_of(name, then[role]))
        else:
            lines.append(f"{name}:{part.format}")
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
    path = _real(vm, vm.files.vmrc)
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
    from qvmsh.config import devices, layers

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
        source, path = os.path.join(_top(vm), new), os.path.join(_top(vm), target)
        if not work["is_ready"]:
            host_files.remove(source)
        elif os.path.exists(source):
            os.rename(source, path)
            folders.add(os.path.dirname(path))
    for folder in folders:
        host_files.sync_folder(folder)
    for name in () if is_clearing else os.listdir(vm.files.state):
        if name.endswith(NEW):
            host_files.remove(os.path.join(vm.files.state, name))
    return "completed" if work["is_ready"] else "undone, the machine is as it was"


def _require_own(vm: Machine, pairs: list[list[str]]) -> None:
    """The note lies where another account may write: what it names must be the machine's."""
    images = {os.path.realpath(each.path) for each in drives.named(vm)}
    own = images | {os.path.realpath(vm.files.vmrc)}
    for new, target in pairs:
        path = os.path.normpath(os.path.join(_top(vm), target))
        is_inside = _is_inside(vm, os.path.realpath(path)) and not os.path.isabs(target)
        if new != target + NEW or not (is_inside or path in own):
            raise QvmError(
                f".qvm/archive.unfinished names {target}, which is no file of the machine",
                machine=vm.name,
                hint="look at that file; remove it if you do not know what it tells of",
            )
