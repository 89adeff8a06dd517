"""Disks of machines: made, written to, read, listed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.programs import qemu_img, qemu_io
from tests.support.world import Blank, Vm


def two_disks(blank: Blank) -> Vm:
    """A machine with an empty second disk, off."""
    vm = blank(VM_DISKS="data.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "16M")
    return vm


def disk_io(vm: Vm, disk: str, *commands: str) -> str:
    """Run commands of qemu-io; returns all that it prints."""
    words = [word for command in commands for word in ("-c", command)]
    is_reading = all(command.startswith("read") for command in commands)
    argv = ["qemu-io", *(["-U", "-r"] if is_reading else []), "-f", "qcow2", *words, disk]
    done = subprocess.run(argv, cwd=vm.directory, capture_output=True, text=True)
    return done.stdout + done.stderr


def holds(vm: Vm, disk: str, pattern: int, at: str = "1M") -> bool:
    """True if 64 KiB of a disk have that byte."""
    output = disk_io(vm, disk, f"read -P {pattern} {at} 64k")
    assert "read 65536/65536" in output, output
    return "verification failed" not in output


def list_disks(vm: Vm) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in json.loads(vm.ok("disk", "list", "--json").out)["disks"]}


def write_byte(vm: Vm, value: int, at: str, name: str = "demo-backing.qcow2", form: str = "qcow2") -> None:
    """Write 64 KiB of one byte into a disk of a machine that is off."""
    qemu_io(vm, "-f", form, "-c", f"write -P {value} {at} 64k", f"./{name}")


def write_live(vm: Vm, words: str, node: str = "disk0") -> None:
    """Have the running QEMU write to a disk as its device would."""
    output = vm.ok("cmd", f'qemu-io -d /machine/peripheral/{node}-device/virtio-backend "write {words}"').out
    assert not output.strip(), output


def flush(vm: Vm, node: str = "disk0") -> None:
    """Have the running QEMU write out what was written to a disk."""
    vm.ok("cmd", f'qemu-io -d /machine/peripheral/{node}-device/virtio-backend "flush"')


def read_byte(vm: Vm, at: str, name: str = "demo-backing.qcow2", form: str = "qcow2") -> int:
    """The byte at a place of a disk."""
    output = qemu_io(vm, "-f", form, "-r", "-c", f"read -v {at} 1", f"./{name}")
    return int(output.split()[1], 16)


def read_bytes(vm: Vm, *places: str) -> list[int]:
    return [read_byte(vm, place) for place in places]


def snapshot_names(vm: Vm, name: str = "demo-backing.qcow2") -> list[str]:
    report = json.loads(qemu_img(vm, "info", "-U", "--output=json", f"./{name}"))
    return [each["name"] for each in report.get("snapshots", [])]


def check_images(where: Vm | Path, *names: str) -> None:
    """Run `qemu-img check` on images, or on those of a machine `demo` with a second disk.

    Clusters that nothing uses (status 3) are harmless.
    """
    folder = where if isinstance(where, Path) else where.directory
    for name in names or ("demo-base.qcow2", "demo-backing.qcow2", "data.qcow2"):
        done = subprocess.run(["qemu-img", "check", "-U", name], cwd=folder, capture_output=True)
        assert done.returncode in (0, 3), (name, done.stdout, done.stderr)
