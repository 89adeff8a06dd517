"""The hardware of a snapshot is compared as QEMU gets it, not as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.snapshot import hardware as snapshot_hardware
from qvmsh.machine.snapshot.catalogue import HARDWARE
from tests.support.world import write_vmrc

ARGV = ["/usr/bin/qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-cpu", "max"]


def machine(directory: Path, **values: str) -> BaseMachine:
    write_vmrc(directory, **{"VM_MACHINE_MEM": "", "VM_QEMU_ACCEL": "tcg"} | values)
    return BaseMachine(directory, environ={"HOME": str(directory), "VM_GLOBAL_CONFIG": "/dev/null"})


def entry(vm: BaseMachine, kind: str = "pc-i440fx-7.2", argv: list[str] = ARGV) -> dict[str, Any]:
    settings = {name: vm.settings.text(name) for name in HARDWARE if name in vm.settings}
    return {"settings": settings, "machine": kind, "arguments": argv}


@pytest.mark.parametrize(
    ("name", "then", "now"),
    [
        ("VM_MACHINE_MEM", "256", "256M"),
        ("VM_MACHINE_MEM", "1048576K", ""),
        ("VM_MACHINE_MEM", "2G", "2048"),
        ("VM_MACHINE_CPUS", "", "2"),
        ("VM_MACHINE_CPUS", "02", "2"),
        ("VM_TPM", "", "no"),
        ("VM_SERIAL", "true", "yes"),
        ("VM_VIRTIO_RNG", "0", "off"),
        ("VM_FIRMWARE", "", "bios"),
        ("VM_MACHINE_ARCH", "x86_64", ""),
        ("VM_QEMU_CPU", "", "max"),
        ("VM_QEMU_CPU", "max", ""),
        ("VM_NET_MODEL", "virtio", "virtio-net-pci"),
        ("VM_DISK_BUS", "", "virtio"),
        ("VM_DISKS", "data.qcow2\nb.img:raw", "./data.qcow2:qcow2\n  b.img:raw:none "),
        ("VM_QEMU_EXTRA", "-device  usb-ehci", "-device 'usb-ehci'"),
        ("VM_QEMU_MACHINE", "pc", "pc-i440fx-7.2"),
        ("VM_QEMU_MACHINE", "pc-i440fx-7.2", "pc"),
        ("VM_QEMU_MACHINE", "pc,usb=on,smm=off", "pc-i440fx-7.2,smm=off,usb=on"),
    ],
)
def test_same_hardware_written_otherwise_is_the_same(tmp_path: Path, name: str, then: str, now: str) -> None:
    before = entry(machine(tmp_path, **{name: then}))
    vm = machine(tmp_path, **{name: now})
    assert snapshot_hardware.differences(vm, before) == []
    assert snapshot_hardware.differences(vm, before, entry(vm)) == []
    assert snapshot_hardware.remedy(vm, before) == []


@pytest.mark.parametrize(
    ("name", "then", "now", "expected"),
    [
        ("VM_MACHINE_MEM", "256", "256G", "VM_MACHINE_MEM was 256, and is 256G"),
        ("VM_SERIAL", "yes", "no", "VM_SERIAL was yes, and is no"),
        ("VM_QEMU_CPU", "", "qemu64", "VM_QEMU_CPU was max, and is qemu64"),
        ("VM_QEMU_MACHINE", "pc", "q35", "VM_QEMU_MACHINE was pc, and is q35"),
        ("VM_QEMU_MACHINE", "pc", "pc-i440fx-6.2", "VM_QEMU_MACHINE was pc, and is pc-i440fx-6.2"),
        ("VM_QEMU_MACHINE", "pc", "pc,usb=on", "VM_QEMU_MACHINE was pc, and is pc,usb=on"),
        ("VM_DISKS", "a.img\nb.img", "b.img\na.img", "VM_DISKS was a.img, b.img, and is b.img, a.img"),
        ("VM_DISKS", "a.img", "a.img:ro", "VM_DISKS was a.img, and is a.img:ro"),
        ("VM_NET_MODEL", "virtio", "e1000", "VM_NET_MODEL was virtio, and is e1000"),
    ],
)
def test_other_hardware_is_reported(tmp_path: Path, name: str, then: str, now: str, expected: str) -> None:
    before = entry(machine(tmp_path, **{name: then}))
    vm = machine(tmp_path, **{name: now})
    assert snapshot_hardware.differences(vm, before) == [expected]
    (option,) = snapshot_hardware.remedy(vm, before)
    assert option.startswith("--set ")
    assert f"{name}={then}" in option


def test_alias_means_the_type_at_the_time(tmp_path: Path) -> None:
    for now, then, loaded in (
        ("pc", "pc-i440fx-6.2", "pc-i440fx-6.2"),
        ("pc,usb=on", "pc-i440fx-6.2", "pc-i440fx-6.2,usb=on"),
        ("q35", "pc-q35-5.1", "pc-q35-5.1"),
        ("pc", "pc-q35-5.1", "pc"),
        ("pc-i440fx-7.2", "pc-i440fx-6.2", "pc-i440fx-7.2"),
        ("virt", "virt-6.2", "virt-6.2"),
        ("microvm", "microvm", "microvm"),
        ("pc", "", "pc"),
        ("pc", "pc-i440fx-6.2,dumpdtb=/tmp/x", "pc"),
        ("pc", "pc-i440fx-6.2 -S", "pc"),
    ):
        vm = machine(tmp_path, VM_QEMU_MACHINE=now)
        known = {"machine": then, "settings": {"VM_QEMU_MACHINE": "isapc"}}
        assert snapshot_hardware.machine_type(vm.settings, known) == loaded
    vm = machine(tmp_path, VM_QEMU_MACHINE="pc")
    before = entry(vm, "pc-i440fx-6.2")
    assert snapshot_hardware.differences(vm, before) == []
    output = snapshot_hardware.differences(vm, before, entry(vm))
    assert output == ["VM_QEMU_MACHINE was pc-i440fx-6.2, and then pc-i440fx-7.2"]


def test_default_processor_of_another_accelerator_is_reported(tmp_path: Path) -> None:
    vm = machine(tmp_path)
    before = entry(vm, argv=["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host"])
    assert snapshot_hardware.differences(vm, before) == ["VM_QEMU_CPU was host, and is max"]
    vm = machine(tmp_path, VM_QEMU_ACCEL="auto")  # what it measures is not asked here
    assert snapshot_hardware.differences(vm, before) == []


def test_hardware_by_hand_is_all_that_counts(tmp_path: Path) -> None:
    before = entry(machine(tmp_path, VM_QEMU_ARGS="-m 64 -hda x", VM_MACHINE_MEM="64"))
    vm = machine(tmp_path, VM_QEMU_ARGS="-m 64  -hda 'x'", VM_MACHINE_MEM="128")
    assert snapshot_hardware.differences(vm, before) == []
    vm = machine(tmp_path, VM_QEMU_ARGS="-m 65 -hda x")
    output = snapshot_hardware.differences(vm, before)
    assert output == ["VM_QEMU_ARGS was -m 64 -hda x, and is -m 65 -hda x"]


def test_entry_that_was_edited_is_compared_as_text(tmp_path: Path) -> None:
    vm = machine(tmp_path)
    before = entry(vm)
    before["settings"] |= {"VM_MACHINE_MEM": "lots", "VM_SERIAL": "perhaps", "VM_QEMU_EXTRA": "'"}
    before["arguments"] = ["-cpu"]
    names = [line.partition(" ")[0] for line in snapshot_hardware.differences(vm, before)]
    assert names == ["VM_MACHINE_MEM", "VM_SERIAL", "VM_QEMU_EXTRA"]
