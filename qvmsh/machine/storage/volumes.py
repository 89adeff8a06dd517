"""The disks of a machine as one set, whether it is on or off.

    for each in of(vm): print(each.id, each.path)       # disk0 /vm/demo/demo-backing.qcow2

While it is off they come from the configuration: the machine's own disk, VM_DISKS, UEFI's variables, and what
VM_QEMU_EXTRA and VM_QEMU_ARGS name; while it is on, from QEMU. The machine's own disk comes first: it takes
the memory of a snapshot; flash chips come last.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from qvmsh.errors import QvmError
from qvmsh.machine.storage import own_disk, supplies
from qvmsh.machine.storage.own_disk import MAIN
from qvmsh.qemu import drives, image
from qvmsh.qemu.flash import UEFI_VARIABLES
from qvmsh.qemu.qmp import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import BaseMachine

OVERLAY_NODE = "qvm-cut"
"""Prefix of the overlays that QEMU writes to during an archive (`archive.live_copy`)."""


@dataclass(frozen=True)
class Volume:
    """One disk.

    Args:
        id: QEMU's name of it, that of the drive: `disk0`, `disk1`, ...
        path: its file, absolute.
        format: `qcow2`, `raw`, ...
        is_flash: it is a flash chip: UEFI's variables.
        source: what names it: `machine`, `VM_DISKS`, `UEFI`, or `words` (VM_QEMU_EXTRA, VM_QEMU_ARGS).
        node: QEMU's node while it is on, "" while it is off.
    """

    id: str
    path: str
    format: str
    is_read_only: bool = False
    is_flash: bool = False
    source: str = "machine"
    node: str = ""

    @property
    def name(self) -> str:
        return os.path.basename(self.path)


def configured(vm: BaseMachine, *, is_to_come: bool = False) -> list[Volume]:
    """The disks that the configuration names; those of the user's own words too.

    Args:
        is_to_come: the machine's own disk may not be there yet.
    """
    found: list[Volume] = []
    settings = vm.settings
    if not own_disk.is_by_hand(vm) and (is_to_come or own_disk.has_disk(vm)):
        name = own_disk.disk_name(vm)
        found.append(Volume(MAIN, os.path.join(vm.directory, name), own_disk.image_format(vm, name)))
    if not own_disk.is_by_hand(vm):
        found += [
            Volume(each.node, each.path, each.line.driver, each.line.is_read_only, source="VM_DISKS")
            for each in supplies.additional_disks(vm)
        ]
    for drive in drives.drives([*settings.words("VM_QEMU_ARGS"), *settings.words("VM_QEMU_EXTRA")]):
        path = os.path.normpath(os.path.join(vm.directory, drive.file))
        kind = drive.format or _guessed(path)
        found.append(Volume(drive.id, path, kind, drive.is_read_only, drive.is_flash, source="words"))
    variables = "" if own_disk.is_by_hand(vm) else supplies.variables_path(vm)
    if variables and os.path.exists(variables):
        found.append(Volume(UEFI_VARIABLES, variables, "qcow2", is_flash=True, source="UEFI"))
    return sorted(found, key=_rank)


def of_blocks(vm: BaseMachine, blocks: list[dict[str, Any]]) -> list[Volume]:
    """The disks of a running QEMU, from its answer to `query-block`."""
    named = {os.path.realpath(each.path): each for each in configured(vm)}
    found = []
    for block in blocks:
        inserted = block.get("inserted")
        if not inserted:
            continue
        node, kind, held = inserted["node-name"], inserted["drv"], inserted["image"]
        while (
            node.startswith(OVERLAY_NODE) and "backing-image" in held
        ):  # an archive copies it: the disk is below
            held = held["backing-image"]
            node, kind = block["device"] or block.get("qdev", node), held["format"]
        path = os.path.normpath(os.path.join(vm.directory, file_of(held["filename"])))
        known = named.get(os.path.realpath(path))
        name = known.id if known else block["device"] if node.startswith("#") else node
        is_flash = "flash" in block["device"] + block.get("qdev", "") + node or node == UEFI_VARIABLES
        source = known.source if known else "words"
        if is_flash and inserted["ro"]:  # the firmware itself
            continue
        found.append(Volume(name or node, path, kind, inserted["ro"], is_flash, source, node))
    return sorted(found, key=_rank)


def file_of(name: str) -> str:
    """The file of an image, from QEMU's name of it.

    QEMU says `json:{...}` where the backing file is not the one in the header.
    """
    if not name.startswith("json:"):
        return name
    found = loads(name.removeprefix("json:"))
    while isinstance(below := found.get("file", found.get("image")), dict):  # blkdebug calls it `image`
        found = below
    return str(found.get("filename", name))


def written(found: list[Volume]) -> list[Volume]:
    """Those that the guest can write to."""
    return [each for each in found if not each.is_read_only]


def _rank(volume: Volume) -> int:
    """The order of the disks: 0 the machine's own, 2 a flash chip."""
    if MAIN in (volume.node, volume.id):
        return 0
    return 2 if volume.is_flash else 1


def _guessed(path: str) -> str:
    """The format of a file whose arguments leave it to QEMU."""
    try:
        return image.header(path).format
    except (OSError, QvmError):  # missing or truncated: reported when it is used
        return "raw"
