"""`qvm disk list`: all disks of a machine, what they are backed by, and who has them open."""

from __future__ import annotations

import os

from qvmsh.errors import QvmError
from qvmsh.machine import programs, state
from qvmsh.machine.disk.reports import Disks
from qvmsh.machine.storage import chain, selection
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import BaseMachine


def disks(vm: BaseMachine) -> Disks:
    """All disks of the machine; a missing one is reported, not an error."""
    seen = state.observe(vm)
    rows = []
    for each in selection.every(vm, seen):
        row: dict[str, Any] = {
            "id": each.id, "name": each.name, "file": each.path, "format": each.format, "size_bytes": 0,
            "used_bytes": 0, "writable": not each.is_read_only, "snapshots": 0, "chain": [],
            "source": each.source, "problem": "", "users": [],
        }  # fmt: skip
        try:
            image.require(each.path, vm.name, hint="", kind=each.format)
            row["used_bytes"] = selection.used_bytes(each)
            row["snapshots"] = len(chain.snapshots_in(each.path, each.format))
            row["chain"] = chain.below(vm, each.path, each.format)
            row["size_bytes"] = qemuimg.virtual_bytes(programs.qemu_img(vm), each.path, each.format)
            if row["chain"] and not os.path.exists(row["chain"][-1]):
                row["problem"] = f"orphaned: {os.path.basename(row['chain'][-1])} is missing"
            row["users"] = image.users(each.path)
        except QvmError as error:
            row["problem"] = error.what
        rows.append(row)
    return Disks(vm.name, rows)
