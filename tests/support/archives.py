"""Archives of machines, and what is in their disks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.support.programs import output_of
from tests.support.world import Vm


def write_byte(vm: Vm, value: int, at: str, name: str = "demo-backing.qcow2", form: str = "qcow2") -> None:
    """Write 64 KiB of one byte into a disk of a machine that is off."""
    output_of(vm, "qemu-io", "-f", form, "-c", f"write -P {value} {at} 64k", f"./{name}")


def write_live(vm: Vm, words: str, node: str = "disk0") -> None:
    """Have the running QEMU write to a disk as its device would."""
    told = vm.ok("cmd", f'qemu-io -d /machine/peripheral/{node}-device/virtio-backend "write {words}"').out
    assert not told.strip(), told


def read_byte(vm: Vm, at: str, name: str = "demo-backing.qcow2", form: str = "qcow2") -> int:
    """The byte at a place of a disk."""
    told = output_of(vm, "qemu-io", "-f", form, "-r", "-c", f"read -v {at} 1", f"./{name}")
    return int(told.split()[1], 16)


def read_bytes(vm: Vm, *places: str) -> list[int]:
    return [read_byte(vm, place) for place in places]


def snapshot_names(vm: Vm, name: str = "demo-backing.qcow2") -> list[str]:
    told = json.loads(output_of(vm, "qemu-img", "info", "--output=json", f"./{name}"))
    return [each["name"] for each in told.get("snapshots", [])]


def make_archive(vm: Vm, *words: str, **kw: Any) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(vm.ok("--json", "archive", *words, **kw).out)
    return report


def state_name(report: dict[str, Any]) -> str:
    return f"{report['archive']}/{report['stamp']}"


def archived_states(vm: Vm) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(vm.ok("--json", "archive", "--list").out)["states"]
    return found


def require_nothing_left(vm: Vm) -> None:
    """No unfinished file, no note of interrupted work."""
    left = [
        str(path) for path in vm.directory.rglob("*") if ".part" in path.name or "restore-new" in path.name
    ]
    left += [
        str(path)
        for path in vm.directory.glob(".qvm/*")
        if path.name.startswith(("cut-", "staged-", "verify-"))
    ]
    assert not left
    assert not (vm.directory / ".qvm/archive.unfinished").exists()


def state_names(vm: Vm) -> list[str]:
    return [f"{row['archive']}/{row['stamp']}" for row in archived_states(vm)]


def damage(path: Path) -> None:
    """As a bad disk does it: the size stays, a byte changes."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 0xFF]))
