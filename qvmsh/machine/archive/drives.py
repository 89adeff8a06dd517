"""All disks of a machine as one unit: its own, those of VM_DISKS and VM_QEMU_EXTRA, UEFI's variables.

for drive in of(vm): print(drive.role, drive.path)         # main /vm/demo/demo-backing.qcow2
for drive in live(vm, blocks): print(drive.node)           # as the running QEMU has them
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace

from qvmsh.errors import ImageError
from qvmsh.machine.storage import chain, own_disk, supplies, volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.storage.volumes import Volume

MAIN, UEFI = "main", "uefi"
READ_ONLY = "the guest only reads it"
"""As the other reasons, in manifests: never changed."""


@dataclass(frozen=True)
class Drive:
    """One disk that the guest may write to.

    Args:
        role: `main`, `disk1` ..., `uefi`, `extra1` ...; it stays the same over the runs.
        path: absolute.
        node: QEMU's name of it, "" where QEMU does not run.
        left_out: why its content cannot be taken as a file; "" if it can.
    """

    role: str
    path: str
    format: str
    node: str = ""
    left_out: str = ""

    @property
    def name(self) -> str:
        return os.path.basename(self.path)


def of(vm: BaseMachine) -> list[Drive]:
    """The disks that the configuration names; its own comes first.

    Raises:
        ImageError: its own disk, or one of VM_DISKS, is missing or cannot be used.
    """
    if not own_disk.is_by_hand(vm):
        supplies.require(vm, supplies.gather(vm))
        own_disk.require_disk(vm)
    return _named(vm, volumes.configured(vm))


def named(vm: BaseMachine) -> list[Drive]:
    """As `of`, whether they are there or not; roles do not depend on that either."""
    return _named(vm, volumes.configured(vm, is_to_come=True))


def _named(vm: BaseMachine, disks_of_vm: list[Volume]) -> list[Drive]:
    """Disks with their roles.

    The firmware's code, which a flash chip only reads, is the host's, and no disk of the machine.
    """
    found: list[Drive] = []
    by_words = 0
    for each in disks_of_vm:
        if each.is_flash and each.is_read_only:
            continue
        role = {"machine": MAIN, "VM_DISKS": each.id, "UEFI": UEFI}.get(each.source, "")
        if not role and not found:
            role = MAIN
        elif not role:
            by_words += 1
            role = f"extra{by_words}"
        found.append(Drive(role, each.path, each.format, left_out=_why_left_out(each)))
    return found


def _why_left_out(disk: Volume) -> str:
    if disk.is_read_only:
        return READ_ONLY
    if disk.source == "words" and not os.path.exists(disk.path):
        return "it is missing"
    return _no_file(disk.path)


def live(vm: BaseMachine, blocks: Sequence[dict[str, Any]]) -> list[Drive]:
    """The disks that a running QEMU writes to, by what it says (`query-block`), with their roles.

    Raises:
        ImageError: it does not have the machine's own disk.
    """
    known = of(vm)
    found = []
    for block in blocks:
        inserted = block.get("inserted")
        if not inserted or inserted["ro"]:
            continue
        node = inserted["node-name"]
        path = os.path.join(vm.directory, volumes.file_of(inserted["image"]["filename"]))
        mine = [each for each in known if same(each.path, path)]
        if mine:
            found.append(replace(mine[0], node=node))
        else:
            why = _no_file(path) if os.path.exists(path) else "it is not a file of this host"
            role = f"extra{sum(each.role.startswith('extra') for each in (*known, *found)) + 1}"
            found.append(Drive(role, path, inserted["drv"], node, why))
    roles = {each.role for each in found}
    for each in known:
        if each.role == MAIN and MAIN not in roles:
            raise ImageError(f"QEMU does not have the machine's own disk {each.name} open", machine=vm.name)
        if each.role not in roles:
            why = each.left_out or "the machine was started without it"
            found.append(replace(each, left_out=why))
    order = [each.role for each in known]
    return sorted(found, key=lambda each: order.index(each.role) if each.role in order else len(order))


def same(one: str, other: str) -> bool:
    """True if two paths lead to the same file."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def below(vm: BaseMachine, drive: Drive) -> list[tuple[str, str]]:
    """What a disk is backed by, the nearest first: path and format of each layer.

    Raises:
        ImageError: one of them is missing.
    """
    layers = chain.layers(drive.path, drive.format, vm.name, vm.directory)
    if layers[-1].header is None:
        raise ImageError(f"cannot read {drive.name}: {layers[-1].path} is missing", machine=vm.name)
    return [(layer.path, layer.format) for layer in layers[1:]]


def _no_file(path: str) -> str:
    try:
        return "" if stat.S_ISREG(os.stat(path).st_mode) else "it is not a file"
    except OSError:
        return ""
