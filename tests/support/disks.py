"""Disks of machines: written to, read, listed."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.support.world import Vm


def disk_io(vm: Vm, disk: str, *commands: str) -> str:
    words = [word for command in commands for word in ("-c", command)]
    is_reading = all(command.startswith("read") for command in commands)
    argv = ["qemu-io", *(["-U", "-r"] if is_reading else []), "-f", "qcow2", *words, disk]
    done = subprocess.run(argv, cwd=vm.directory, capture_output=True, text=True)
    return done.stdout + done.stderr


def holds(vm: Vm, disk: str, pattern: int) -> bool:
    told = disk_io(vm, disk, f"read -P {pattern} 1M 64k")
    assert "read 65536/65536" in told, told
    return "verification failed" not in told


def list_disks(vm: Vm) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in json.loads(vm.ok("disk", "list", "--json").out)["disks"]}
