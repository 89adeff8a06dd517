"""Looking at snapshots: the list, one of them, what has changed since. `verify` checks them.

    print(listing(vm))

Read from the images, on or off, so those of other tools are included; what is only in the metadata is marked
as stale.
"""

from __future__ import annotations

import os

from qvmsh.errors import ImageError, QmpError
from qvmsh.machine import journal as journals
from qvmsh.machine import snapshot_names, state
from qvmsh.machine.reports import stamp
from qvmsh.machine.snapshot import catalogue, consistency, of_s2e, recovery
from qvmsh.machine.snapshot import hardware as snapshot_hardware
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.reports import Details, Differences, SnapshotList
from qvmsh.machine.storage import chain, volumes
from qvmsh.qemu import image, qcow2, qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.storage.volumes import Volume
    from qvmsh.qemu.qcow2 import Snapshot


INTERNAL = "internal"
"""The kind of a snapshot that is in the images."""


def observed(vm: BaseMachine) -> state.Observation:
    """The machine's state, with a warning if its guest does not work on these images."""
    seen = state.observe(vm)
    if seen.is_live and seen.note is not None and seen.note.disposable:
        vm.io.warn(f"{vm.name} is disposable: this shows its images, which do not change")
    return seen


def disks_of(vm: BaseMachine, seen: state.Observation) -> list[Volume]:
    """All disks of the machine: while it is on from QEMU, unless its changes are discarded."""
    if seen.is_live and seen.note is not None and not seen.note.disposable:
        with state.Answering(vm):
            blocks = qmp.ask(seen.note.socket("qmp"), "query-block", timeout_s=state.GREETING_S)
            return volumes.of_blocks(vm, blocks)
    return volumes.configured(vm)


def able(disks: list[Volume]) -> list[Volume]:
    """Those that can hold snapshots."""
    return [each for each in volumes.written(disks) if each.format == "qcow2"]


def by_name(vm: BaseMachine, disks: list[Volume]) -> dict[str, dict[str, Snapshot]]:
    """The snapshots by name, each by the id of the disk.

    Raises:
        ImageError: an image cannot be read.
    """
    return {name: sets[0] for name, sets in sets_by_name(vm, disks).items()}


def sets_by_name(vm: BaseMachine, disks: list[Volume]) -> dict[str, list[dict[str, Snapshot]]]:
    """As `by_name`, with duplicates: the first on each disk, the second on each disk that has one, ...

    Raises:
        ImageError: an image cannot be read.
    """
    found: dict[str, list[dict[str, Snapshot]]] = {}
    for disk in disks:
        try:
            there = chain.snapshots_in(disk.path, disk.format)
        except ImageError as error:
            error.machine = vm.name
            raise
        for each in there:  # of two with one name on one disk QEMU takes the first
            sets = found.setdefault(each.name, [{}])
            if all(disk.id in one for one in sets):
                sets.append({})
            next(one for one in sets if disk.id not in one)[disk.id] = each
    found.pop(recovery.BACK, None)  # of a restore in progress
    for name in [each for each in found if each.endswith(snapshot_names.NEW)]:
        new = found.pop(name)  # of a save that was replacing one
        found.setdefault(name.removesuffix(snapshot_names.NEW), new)
    return found


def _row_of_disk(disk: Volume) -> dict[str, Any]:
    used = virtual = 0
    problem = ""
    try:
        used, virtual = os.stat(disk.path).st_blocks * 512, image.header(disk.path, disk.format).size_bytes
    except FileNotFoundError:
        problem = "it is missing"
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
    except ImageError as error:
        problem = error.what
    return {
        "id": disk.id,
        "name": disk.name,
        "file": disk.path,
        "format": disk.format,
        "size_bytes": virtual,
        "used_bytes": used,
        "writable": not disk.is_read_only,
        "source": disk.source,
        "problem": problem,
    }


def listing(vm: BaseMachine) -> SnapshotList:
    """All snapshots of the machine, oldest first.

    Raises:
        ImageError: an image cannot be read.
    """
    seen = observed(vm)
    work = journals.message(vm)
    try:
        disks = disks_of(vm, seen)
    except QmpError:
        if not work:
            raise
        disks = volumes.configured(vm)  # QEMU does not answer while it saves or loads memory
    holders = able(disks)
    tags, known = sets_by_name(vm, holders), Catalogue.read(vm)
    rows = [
        _row(name, on, holders, None if at else known.entries.get(name), tags, is_double=bool(at))
        for name, sets in tags.items()
        for at, on in enumerate(sets)
    ]
    for name, entry in known.entries.items():
        if name not in tags:
            rows.append(
                {
                    "name": name, "kind": INTERNAL, "time": str(entry.get("time", "")),
                    "memory": False, "vmstate_bytes": 0, "disks": [],
                    "missing": [each.id for each in holders], "without": [], "parent": None,
                    "message": entry.get("message", ""), "stale": True, "foreign": False, "double": False,
                }
            )  # fmt: skip
    rows += of_s2e.rows(vm)
    rows.sort(key=lambda row: catalogue.moment(str(row["time"])))
    head = known.head if known.head in tags else ""
    return SnapshotList(vm.name, [_row_of_disk(each) for each in disks], rows, head, work)


def disk_listing(vm: BaseMachine) -> SnapshotList:
    """The same, with the snapshots of each disk by QEMU's own numbers: `list-disk`.

    Raises:
        ImageError: an image cannot be read.
    """
    found = listing(vm)
    for row in found.disks:
        there = chain.snapshots_in(row["file"], row["format"]) if row["format"] == "qcow2" else []
        rows = [{"id": each.id, "tag": each.name, "date": stamp(each.date_s)} for each in there]
        row |= {"drive_id": row["id"], "disk": row["name"], "snapshots": rows}
    return found


def _row(
    name: str, on: dict[str, Snapshot], holders: list[Volume], known: dict[str, Any] | None,
    tags: Container[str], *, is_double: bool,
) -> dict[str, Any]:  # fmt: skip
    entry = known or {}
    parent = entry.get("parent")
    return {
        "name": name,
        "kind": INTERNAL,
        "time": stamp(min(each.date_s for each in on.values())),
        "memory": any(each.vmstate_bytes for each in on.values()),
        "vmstate_bytes": max(each.vmstate_bytes for each in on.values()),
        "disks": [each.id for each in holders if each.id in on],
        "missing": [each.id for each in holders if each.id not in on],
        "without": [each.id for each in consistency.without(holders, on, entry)],
        "parent": parent if parent in tags else None,
        "message": entry.get("message", ""),
        "stale": False,
        "foreign": not known,
        "double": is_double,
    }


def find(
    vm: BaseMachine, word: str, seen: state.Observation
) -> tuple[str, list[Volume], dict[str, Snapshot]]:
    """The name of the snapshot that `word` means, the disks that hold snapshots, and the snapshot on each.

    Raises:
        StateError: no disk has it.
    """
    holders = able(disks_of(vm, seen))
    tags = sets_by_name(vm, holders)
    known = Catalogue.read(vm).entries
    own = {each for each, on in tags.items() if consistency.may_be_own(holders, on[0], known.get(each))}
    name = word if word in tags else snapshot_names.meant(vm, word, {*own, *of_s2e.paths(vm)})
    of_s2e.require_not(vm, name)
    if name not in tags:
        raise snapshot_names.unknown(vm, name, tags)
    for line in doubles(holders, tags[name]):
        vm.io.warn(f"{vm.name}: {line}; the first is used")
    return name, holders, tags[name][0]


def doubles(disks: list[Volume], sets: list[dict[str, Snapshot]]) -> list[str]:
    """That several snapshots of one name are on a disk, a line for each disk."""
    found = [(disk, [one[disk.id] for one in sets if disk.id in one]) for disk in disks]
    return [consistency.doubles(disk, each) for disk, each in found if len(each) > 1]


def show(vm: BaseMachine, name: str) -> Details:
    """Everything known about a snapshot.

    Raises:
        StateError: there is no snapshot of that name.
    """
    name, holders, on = find(vm, name, observed(vm))
    entry = Catalogue.read(vm).entries.get(name)
    rows = [
        {
            "id": each.id,
            "name": each.name,
            "file": each.path,
            "time": stamp(on[each.id].date_s),
            "vmstate_bytes": on[each.id].vmstate_bytes,
            "size_bytes": on[each.id].disk_bytes,
            "clock_s": on[each.id].clock_ns / 1e9,
        }
        for each in holders
        if each.id in on
    ]
    missing = [each.id for each in holders if each.id not in on]
    other = snapshot_hardware.differences(vm, entry) if entry else []
    other += [f"{path} was a disk at the time" for path in consistency.gone(holders, entry)]
    return Details(vm.name, name, rows, missing, entry, other)


def diff(vm: BaseMachine, first: str, second: str | None) -> Differences:
    """What was written on each disk between two snapshots, or between one and now.

    Raises:
        StateError: there is no such snapshot.
    """
    seen = observed(vm)
    first, holders, one = find(vm, first, seen)
    two = None
    if second is not None:
        second, _, two = find(vm, second, seen)
    rows = []
    for each in holders:
        changed: int | None = None
        note = ""
        if each.id not in one:
            note = f"has no snapshot {first}"
        elif two is not None and each.id not in two:
            note = f"has no snapshot {second}"
        else:
            changed = qcow2.changed(each.path, one[each.id].id, None if two is None else two[each.id].id)
        rows.append({"id": each.id, "file": each.path, "changed_bytes": changed, "note": note})
    known = Catalogue.read(vm).entries
    one_entry, two_entry = known.get(first), None if second is None else known.get(second)
    hardware = []
    if one_entry and (second is None or two_entry):
        hardware = snapshot_hardware.differences(vm, one_entry, two_entry)
    return Differences(vm.name, first, second, rows, hardware, is_on=seen.is_live)
