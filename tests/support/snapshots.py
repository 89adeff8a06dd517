"""Machines of three disks, and the snapshots in them."""

from __future__ import annotations

from tests.support.disks import holds, snapshot_names, write_byte
from tests.support.monitor import monitor
from tests.support.programs import qemu_img
from tests.support.world import Blank, Vm

DISKS = ["demo-backing.qcow2", "data.qcow2", "more.qcow2"]


def three_disks(blank: Blank, **more: str) -> Vm:
    vm = blank(**{"VM_DISKS": "data.qcow2\nmore.qcow2"} | more)
    for disk in DISKS[1:]:
        qemu_img(vm, "create", "-q", "-f", "qcow2", disk, "16M")
    return vm


def tags(vm: Vm, *disks: str) -> list[list[str]]:
    """The names of the snapshots in each image."""
    return [snapshot_names(vm, disk) for disk in disks or DISKS]


def write_disks(vm: Vm, pattern: int, *disks: str, is_on: bool = False) -> None:
    """Write to each disk; to those of a running machine as its guest would."""
    if not is_on:
        for disk in disks or DISKS:
            write_byte(vm, pattern, "1M", disk)
        return
    for at in range(len(disks or DISKS)):
        io = f"qemu-io -d /machine/peripheral/disk{at}-device/virtio-backend"
        output = monitor(vm, f'{io} "write -P {pattern} 1M 64k"', f'{io} "flush"')
        assert not output.strip(), output


def patterns_of(vm: Vm, wanted: list[int], *disks: str) -> list[int]:
    """Which of the patterns each disk holds; -1 for none of them."""
    return [next((pattern for pattern in wanted if holds(vm, disk, pattern)), -1) for disk in disks or DISKS]
