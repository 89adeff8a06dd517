"""Where the files of an archived state belong in their machine, and what prevents that.

    plan = plan_of(vm, archive, point)
    require_nobody_above(vm, plan)
    plan.places["disk1"]            # [Place("/vm/demo/data.qcow2", ...), Place("/vm/demo/base.qcow2", ...)]

A disk is matched by its file, not by its number: VM_DISKS may have changed since. Disks that the state did
not have stay unchanged; disks that the machine no longer has are restored. What backs an image elsewhere is
never replaced.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from qvmsh.errors import ImageError, QvmError, StateError
from qvmsh.machine.archive import drives
from qvmsh.machine.archive.checked_reader import NEW, Place
from qvmsh.machine.archive.drives import MAIN, READ_ONLY, UEFI
from qvmsh.machine.archive.model import Archive, Part, Point
from qvmsh.machine.archive.settings import SETTINGS
from qvmsh.machine.archive.unchanged import is_archived, is_unchanged
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.restore.new_machine import format_of, free_name, layer_names
from qvmsh.machine.storage import chain, dependents, linked, supplies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from qvmsh.machine.archive.drives import Drive
    from qvmsh.machine.archive.index import ArchiveIndex


@dataclass
class Plan:
    """What goes where.

    Args:
        places: of each disk's layers, the top first, by its role in the archive.
        opened: the format with which the machine opens each disk that it has, "" where QEMU guesses it.
        lacking: parts whose disk the machine no longer has.
        notes: for the user.
    """

    places: dict[str, list[Place]] = field(default_factory=dict)
    opened: dict[str, str] = field(default_factory=dict)
    lacking: list[Part] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def made(self) -> list[str]:
        """The files that are replaced, each once."""
        found = [place.name for places in self.places.values() for place in places if place.is_made]
        return list(dict.fromkeys(found))


def top_of(vm: BaseMachine) -> str:
    return os.path.realpath(vm.directory)


def plan_of(vm: BaseMachine, archive: Archive, point: Point) -> Plan:
    plan = Plan()
    present = drives.named(vm)
    matched: dict[str, Drive] = {}
    parts = [each for each in point.parts if each.role != SETTINGS]
    for part in parts:
        if part.left_out:
            plan.notes.append(f"{part.source} is not in the archive and stays unchanged: {part.left_out}")
            continue
        found = _present(vm, part, [each for each in present if each not in matched.values()])
        if found and os.path.exists(found.path) and not os.path.isfile(found.path):
            raise ImageError(
                f"cannot restore {found.name}: it was a file when it was archived, and is not a file now",
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
            if found:
                plan.opened[part.role] = format_of(vm, found)
    for drive in present:
        is_known = drive in matched.values() or any(drives.same(drive.path, _at(vm, each)) for each in parts)
        if not is_known and drive.left_out != READ_ONLY and os.path.exists(drive.path):
            plan.notes.append(f"{drive.name} is not in that state and stays unchanged")
    return plan


def _at(vm: BaseMachine, part: Part) -> str:
    return os.path.normpath(os.path.join(vm.directory, part.source))


def _present(vm: BaseMachine, part: Part, present: list[Drive]) -> Drive | None:
    """The disk of the machine that an archived one is."""
    if part.role == MAIN:
        return next((each for each in present if each.role == MAIN), None)
    if part.role == UEFI and supplies.variables_path(vm):
        return drives.Drive(UEFI, supplies.variables_path(vm), "qcow2")
    if not part.source:
        return None
    path = os.path.realpath(_at(vm, part))
    return next((each for each in present if os.path.realpath(each.path) == path), None)


def _place_of_lacking(vm: BaseMachine, part: Part, taken: set[str], plan: Plan) -> str:
    """Where to restore a disk that the machine no longer has: never outside its directory.

    If a link leads outside, it gets an unused name.
    """
    name = part.source if part.source and not os.path.isabs(part.source) else ""
    name = free_name(name or os.path.basename(part.source) or part.plain_name, taken)
    if not is_inside(vm, os.path.realpath(os.path.join(vm.directory, name))):
        name = free_name(os.path.basename(name), {*taken, *os.listdir(vm.directory)})
    taken.add(name)
    plan.lacking.append(part)
    return os.path.join(vm.directory, name)


def _layers(vm: BaseMachine, archive: Archive, part: Part, top: str, plan: Plan) -> list[Place]:
    """The places of a disk and its bases.

    A base inside the machine's directory is replaced in place; one elsewhere is left unchanged if it is still
    the same, else the machine gets a copy of its own.
    """
    top = real(vm, top)
    places = [Place(top, top + NEW)]
    stored = archive.layers.get(part.role, [])
    names = stored_names = [os.path.join(vm.directory, each) for each in layer_names(vm, archive, part.role)]
    there = _chain(vm, top, part.format)
    if len(there) == len(stored):
        names = [
            now if is_inside(vm, now) or is_unchanged(now, layer) else _fresh(name)
            for now, layer, name in zip(there, stored, names, strict=True)
        ]
    else:
        names = [
            name if is_inside(vm, real(vm, name)) or is_unchanged(name, layer) else _fresh(name)
            for layer, name in zip(stored, names, strict=True)
        ]
    known = {place.name: place for places in plan.places.values() for place in places}
    held = {
        place.name: layer
        for role, row in plan.places.items()
        for place, layer in zip(row[1:], archive.layers.get(role, []), strict=True)
    }
    for name, stored_name, layer in zip(names, stored_names, stored, strict=True):
        path = real(vm, name)
        if path in known and not _is_same(held.get(path), layer):
            path = _fresh(os.path.join(top_of(vm), os.path.basename(stored_name)), known)
        if path in known:  # two disks on one base
            places.append(Place(path, known[path].now, is_made=False))
        elif is_unchanged(path, layer) and (not is_inside(vm, path) or _strangers(vm, path, {top})):
            places.append(Place(path, is_made=False))
        else:
            places.append(Place(path, path + NEW))
    return places


def _is_same(held: Part | None, layer: Part) -> bool:
    """True if two disks had the same base when they were archived."""
    return held is not None and (held.format, held.size_bytes, held.xxh128 or held.source) == (
        layer.format,
        layer.size_bytes,
        layer.xxh128 or layer.source,
    )


def _fresh(path: str, known: Container[str] = ()) -> str:
    """A name that no file has and that is not `known`."""
    stem, suffix = os.path.splitext(path)
    found, count = path, 1
    while os.path.lexists(found) or found in known:
        count += 1
        found = f"{stem}-{count}{suffix}"
    return found


def _chain(vm: BaseMachine, path: str, kind: str) -> list[str]:
    """The bases of an image, as far as they are there and may be read."""
    try:
        return chain.below(vm, path, kind) if os.path.exists(path) else []
    except QvmError:
        return []


def real(vm: BaseMachine, path: str) -> str:
    """Where a file is when links are followed."""
    return os.path.realpath(path)


def is_inside(vm: BaseMachine, path: str) -> bool:
    return not os.path.relpath(path, top_of(vm)).startswith("..")


# What prevents it


def _strangers(vm: BaseMachine, path: str, own: set[str]) -> list[str]:
    return [each for each in dependents.overlays_on(path, vm) if each not in own]


def require_nobody_above(vm: BaseMachine, plan: Plan) -> None:
    """Refuse to replace what backs images that are not replaced too.

    Raises:
        ImageError: they would be silently corrupted.
        StateError: a machine that may be backed by it is not to be found.
    """
    own = {place.name for places in plan.places.values() for place in places}
    for path in plan.made():
        for other in _strangers(vm, path, own) if os.path.exists(path) else ():
            inside = os.path.relpath(other, top_of(vm))
            raise ImageError(
                f"cannot restore: {other if inside.startswith('..') else inside} is backed by "
                f"{os.path.basename(path)}, which would be replaced, and would be silently corrupted",
                machine=vm.name,
                hint=f"`qvm restore ARCHIVE DIR` makes a new machine; or {dependents.way_out(vm, other)}",
            )
        linked.require_found(vm, "restore", path)


def require_leave(vm: BaseMachine, index: ArchiveIndex, plan: Plan, *, is_forced: bool) -> None:
    """Refuse to discard what is in no archive.

    Raises:
        StateError: the disks hold what no archived state holds.
    """
    there = [path for path in plan.made() if os.path.exists(path)]
    if is_forced or not there or is_archived(index, there):
        return
    raise StateError(
        "cannot restore: the current content of the disks is in no archive and would be lost",
        machine=vm.name,
        hint="`qvm archive` keeps it; `qvm restore --force` discards it; `qvm restore ARCHIVE DIR` "
        "restores into a new machine",
    )
