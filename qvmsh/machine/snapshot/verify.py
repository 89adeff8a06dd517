"""Checking snapshots: whether their content can be trusted.

    verify(vm, ["ready"]).is_whole

While the machine is off, the work lock keeps others from writing. While it is on, QEMU writes to the images,
but never to an existing snapshot, so that can be read. Only the images' own tables cannot be checked.
"""

from __future__ import annotations

import os

from qvmsh.errors import QvmError
from qvmsh.machine import programs, progress, state
from qvmsh.machine.snapshot import consistency, hardware, list_show_diff
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.reports import Verified
from qvmsh.machine.storage import chain
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.storage.volumes import Volume
    from qvmsh.qemu.qcow2 import Snapshot


def verify(vm: BaseMachine, names: tuple[str, ...]) -> Verified:
    """Check snapshots: on all disks, of one moment, on an unchanged base, in sound images, readable.

    Raises:
        StateError: there is no snapshot of that name.
        LockedError: another command works on the machine, which is off.
    """
    if not state.observe(vm).is_live:
        with work_lock(vm, "snapshot verify", is_looking=True):
            seen = state.observe(vm)
            if not seen.is_live:
                return _verify(vm, names, seen)
    return _verify(vm, names, list_show_diff.observed(vm))


def _verify(vm: BaseMachine, names: tuple[str, ...], seen: state.Observation) -> Verified:
    able = list_show_diff.able(list_show_diff.disks_of(vm, seen))
    sets, known = list_show_diff.sets_by_name(vm, able), Catalogue.read(vm)
    tags = {name: each[0] for name, each in sets.items()}
    names = tuple(each if each in known.entries else list_show_diff.find(vm, each, seen)[0] for each in names)
    wanted = list(dict.fromkeys(names)) or sorted({*tags, *known.entries})
    there = [each for each in able if os.path.exists(each.path)]
    images = [f"{each.name} is missing" for each in able if each not in there]
    images += [] if seen.is_live else [line for each in there for line in _damage(vm, each)]
    rows = []
    for name in wanted:
        on, entry = tags.get(name, {}), known.entries.get(name)
        problems = [*_on_all(there, on, entry), *images, *list_show_diff.doubles(able, sets.get(name, []))]
        problems += consistency.mixture(able, on, entry)
        problems += consistency.base_changes(able, entry)
        unsure = []
        for each in there:
            if each.id in on:
                problems += _unreadable(vm, each, on[each.id], is_on=seen.is_live)
                unsure += _unread(each, on[each.id])
        if seen.is_live:
            unsure.append("the machine is on: the tables of its images were not checked")
        if entry is None:
            unsure.append("made by another tool: the base may have been written to since")
        unsure += consistency.base_doubts(able, entry) if not problems else []
        if entry and entry.get("memory"):
            unsure += [f"its memory will not load: {each}" for each in hardware.differences(vm, entry)]
        doubt = consistency.doubt(on, entry)
        rows.append({"name": name, "problems": problems, "unsure": [*unsure, doubt] if doubt else unsure})
    return Verified(vm.name, rows)


def _on_all(there: list[Volume], on: dict[str, Snapshot], entry: dict[str, Any] | None) -> list[str]:
    if not on:
        return ["no image has it"]
    later = consistency.without(there, on, entry)
    missing = [each for each in there if each.id not in on and each not in later]
    return [
        *(f"it is missing on {each.id}, {each.name}" for each in missing),
        *(f"it was taken without {each.id}, {each.name}" for each in later),
    ]


def _damage(vm: BaseMachine, disk: Volume) -> list[str]:
    """What is wrong with an image itself."""
    try:
        chain.below(vm, disk.path, disk.format)
        with vm.io.stage(f"checking {disk.name}"):
            sound = qemuimg.check(programs.qemu_img(vm), disk.path, disk.format)
    except QvmError as error:
        return [f"{disk.name} cannot be checked: {'; '.join(error.details) or error.what}"]
    if sound and sound.corruptions:
        return [f"{disk.name} is damaged: {sound.corruptions} errors (`qvm disk check --repair`)"]
    return []


def _unread(disk: Volume, snapshot: Snapshot) -> list[str]:
    """That a part of it could not be read: the disk was made smaller since."""
    now = image.header(disk.path, disk.format).size_bytes
    if snapshot.disk_bytes <= now:
        return []
    return [
        f"only {progress.size(now)} of its {progress.size(snapshot.disk_bytes)} on {disk.id} were read: "
        "the disk is smaller now"
    ]


def _unreadable(vm: BaseMachine, disk: Volume, snapshot: Snapshot, *, is_on: bool) -> list[str]:
    """Read the whole snapshot of a disk; the problems found.

    qemu-img reads as much of it as the disk has now, and zeros beyond its end.
    """
    size = image.header(disk.path, disk.format).size_bytes
    shared = ["-U"] if is_on else []
    words = ["convert", *shared, "-n", "-f", disk.format, "-l", f"snapshot.id={snapshot.id}"]
    words += ["--target-image-opts", image.safe_name(disk.path), f"driver=null-co,size={size}"]
    try:
        chain.below(vm, disk.path, disk.format)
        with vm.io.stage(f"reading {snapshot.name} on {disk.id}"):
            qemuimg.run(programs.qemu_img(vm), words, what=f"read it on {disk.id}")
    except QvmError as error:
        if snapshot not in chain.snapshots_in(disk.path, disk.format):  # removed in the meantime
            return [f"it was removed from {disk.id} while it was read"]
        return [f"it cannot be read on {disk.id}: {'; '.join(error.details) or error.what}"]
    return []
