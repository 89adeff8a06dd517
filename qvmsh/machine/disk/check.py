"""Checking and repairing the images of a machine.

check(vm, None, is_repairing=False)
"""

from __future__ import annotations

import contextlib
import os

from qvmsh.errors import ImageError, QvmError
from qvmsh.host import files as host_files
from qvmsh.machine import programs, state
from qvmsh.machine.disk.reports import Checked
from qvmsh.machine.storage import bitmaps, chain, dependents, selection, volumes
from qvmsh.machine.storage.volumes import Volume
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.qemuimg import Soundness


def check(vm: BaseMachine, name: str | None, *, is_repairing: bool) -> Checked:
    """Check the images and what they are backed by; see `commands.disk`."""
    with work_lock(vm, "disk check --repair" if is_repairing else "disk check", is_looking=not is_repairing):
        seen = state.observe(vm)
        if is_repairing:
            state.require_off(vm, seen, "repair")
        found = selection.every(vm, seen)
        if name is not None:
            found = [selection.one(vm, found, name)]
        is_lent = seen.note is not None and seen.note.disposable
        rows = []
        for path, kind, is_written in _images(vm, found):
            row: dict[str, Any] = {
                "name": os.path.basename(path), "file": path, "corruptions": 0, "leaks": 0, "note": "",
                "problem": "",
            }  # fmt: skip
            rows.append(row)
            if seen.is_live and is_written and not is_lent:
                row["note"] = "not checked: the running machine writes to it"
                continue
            try:
                sound = _look(vm, path, kind)
            except ImageError as error:  # the others are checked anyway
                words = [error.what, *error.details[-1:]]
                row["problem"] = ": ".join(words) + (f" ({error.hint})" if error.hint else "")
                continue
            if sound is None:
                row["note"] = f"{kind} has nothing to check"
                continue
            if is_repairing and (sound.corruptions or sound.leaks):
                sound = _repair(vm, row, kind, sound)
            row["corruptions"], row["leaks"] = sound.corruptions, sound.leaks
    return Checked(vm.name, rows)


def _images(vm: BaseMachine, found: list[Volume]) -> list[tuple[str, str, bool]]:
    """Every image of the chains once: file, format, and whether a running QEMU writes to it."""
    rows: dict[str, tuple[str, str, bool]] = {}
    for each in found:
        rows[os.path.realpath(each.path)] = (each.path, each.format, not each.is_read_only)
        with contextlib.suppress(ImageError):  # a circle: reported for the disk itself
            for layer in chain.layers(each.path, each.format, vm.name, vm.directory)[1:]:
                below = os.path.realpath(layer.path)
                rows.setdefault(below, (below, layer.format, False))
    return list(rows.values())


def _look(vm: BaseMachine, path: str, kind: str) -> Soundness | None:
    """The errors of one image; None for a format that cannot be checked."""
    image.require(path, vm.name, hint="put it back", kind=kind)
    chain.below(vm, path, kind)
    with vm.io.stage(f"checking {os.path.basename(path)}"):
        return qemuimg.check(programs.qemu_img(vm), path, kind)


def _repair(vm: BaseMachine, row: dict[str, Any], kind: str, sound: Soundness) -> Soundness:
    """Repair one image; its errors afterwards.

    ImageError: it is in use, or backs others; nothing was changed.
    """
    program, path = programs.qemu_img(vm), row["file"]
    image.require_unused(path, vm.name)
    if sound.corruptions:  # what cannot be repaired becomes zeros; leaks are not data
        dependents.require_writable(vm, path, "repair", besides=_own_overlay(vm, path))
    mode = "all" if sound.corruptions else "leaks"
    words = ["check", "-q", "-f", kind, "-r", mode, image.safe_name(path)]
    with vm.io.stage(f"repairing {row['name']}"):
        try:
            selection.run(vm, words, f"repair {row['name']}")
        except ImageError as error:  # some of it may be repaired: check again
            row["note"] = next(iter(error.details), "")
        if sound.corruptions and kind == "qcow2":  # bitmaps do not record what became zeros
            with contextlib.suppress(QvmError):
                bitmaps.forget(vm, path)
        host_files.sync(path)
        after = qemuimg.check(program, path, kind)
    if after is not None and not after.corruptions:
        row["note"] = f"repaired: {sound.corruptions} errors, {sound.leaks} leaked clusters"
    return after or sound


def _own_overlay(vm: BaseMachine, base: str) -> str | None:
    """The machine's own overlay on a base, which may be repaired for it."""
    for each in volumes.configured(vm):
        if chain.base_of(each.path, each.format) == os.path.realpath(base):
            return each.path
    return None
