"""Judging snapshots: whether what they hold can be trusted.

    verify(vm, ["ready"]).is_whole

While the machine is off nobody may begin to write meanwhile, so the work lock is held. While it is on,
its QEMU writes to the images; but a snapshot that is taken is never written to again, so that it can be
read beside QEMU all the same. Only the check of the images' own tables has to wait.
"""

from __future__ import annotations

import os

from qvmsh.errors import QvmError
from qvmsh.machine import programs as tools
from qvmsh.machine import progress, state
from qvmsh.machine.snapshot import fit as snapshot_fit
from qvmsh.machine.snapshot import hardware as snapshot_hardware
from qvmsh.machine.snapshot import view as snapshot_view
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.reports import Verified
from qvmsh.machine.storage import chain
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import Machine
    from qvmsh.machine.storage.volumes import Volume
    from qvmsh.qemu.qcow2 import Snapshot


def verify(vm: Machine, names: tuple[str, ...]) -> Verified:
    """Judge snapshots: on all disks, of one moment, on the base of then, in sound images, readable.

    Raises:
        StateError: there is none of that name.
        LockedError: another command works on the machine, which is off.
    """
    if not state.observe(vm).is_live:
        with work_lock(vm, "snapshot verify", is_looking=True):
            seen = state.observe(vm)
            if not seen.is_live:
                return _verify(vm, names, seen)
    return _verify(vm, names, snapshot_view.observed(vm))


def _verify(vm: Machine, names: tuple[str, ...], seen: state.Observation) -> Verified:
    able = snapshot_view.able(snapshot_view.disks_of(vm, seen))
    sets, known = snapshot_view.sets_by_name(vm, able), Catalogue.read(vm)
    tags = {name: each[0] for name, each in sets.items()}
    for name in names:
        if name not in known.entries:
            snapshot_view.find(vm, name, seen)
    wanted = list(dict.fromkeys(names)) or sorted({*tags, *known.entries})
    there = [each for each in able if os.path.exists(each.path)]
    images = [f"{each.name} is not there" for each in able if each not in there]
    images += [] if seen.is_live else [line for each in there for line in _damage(vm, each)]
    rows = []
    for name in wanted:
        on, entry = tags.get(name, {}), known.entries.get(name)
        problems = [*_on_all(there, on, entry), *images, *snapshot_view.doubles(able, sets.get(name, []))]
        problems += snapshot_fit.mixture(able, on, entry)
        problems += snapshot_fit.base_changes(able, entry)
        unsure = []
        for each in there:
            if each.id in on:
                problems += _unreadable(vm, each, on[each.id], is_on=seen.is_live)
                unsure += _unread(each, on[each.id])
        if seen.is_live:
            unsure.append("the machine is on: the tables of its images were not checked")
        if entry is None:
            unsure.append("made by another tool: whether the base was written to since is not known")
        unsure += snapshot_fit.base_doubts(able, entry) if not problems else []
        if entry and entry.get("memory"):
            unsure += [
                f"its memory will not load: {each}" for each in snapshot_hardware.differences(vm, entry)
            ]
        doubt = snapshot_fit.doubt(on, entry)
        rows.append({"name": name, "problems": problems, "unsure": [*unsure, doubt] if doubt else unsure})
    return Verified(vm.name, rows)


def _on_all(there: list[Volume], on: dict[str, Snapshot], entry: dict[str, Any] | None) -> list[str]:
    if not on:
        return ["no image has it"]
    later = snapshot_fit.without(there, on, entry)
    missing = [each for each in there if each.id not in on and each not in later]
    return [
        *(f"it is missing on {each.id}, {each.name}" for each in missing),
        *(f"it was taken without {each.id}, {each.name}" for each in later),
    ]


def _damage(vm: Machine, disk: Volume) -> list[str]:
    """What is wrong with an image itself."""
    try:
        chain.below(vm, disk.path, disk.format)
        with vm.io.stage(f"checking {disk.name}"):
            sound = qemuimg.check(tools.qemu_img(vm), disk.path, disk.format)
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


def _unreadable(vm: Machine, disk: Volume, snapshot: Snapshot, *, is_on: bool) -> list[str]:
    """Read all that the snapshot holds of a disk; what stands against it.

    qemu-img reads as much of it as the disk has now, behind its end zeros.
    """
    size = image.header(disk.path, disk.format).size_bytes
    words = [
        "convert",
        *(["-U"] if is_on else []),
        "-n",
        "-f",
        disk.format,
        "-l",
        f"snapshot.id={snapshot.id}",
    ]
    words += ["--target-image-opts", image.safe_name(disk.path), f"driver=null-co,size={size}"]
    try:
        chain.below(vm, disk.path, disk.format)
        with vm.io.stage(f"reading {snapshot.name} on {disk.id}"):
            qemuimg.run(tools.qemu_img(vm), words, what=f"read it on {disk.id}")
    except QvmError as error:
        if snapshot not in chain.snapshots_in(disk.path, disk.format):  # removed in the meantime
            return [f"it has gone from {disk.id} while it was read"]
        return [f"it cannot be read on {disk.id}: {'; '.join(error.details) or error.what}"]
    return []
