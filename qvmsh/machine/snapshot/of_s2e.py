"""The snapshots of S2E: files `disk.s2e.NAME` beside its disk. Only S2E's own QEMU loads them.

    paths(vm)                  # {"ready": "/vms/box/disk.s2e.ready"}
    require_not(vm, "ready")   # raises

They are listed, copied and removed. Once a guest has written to the disk, they no longer fit to it.
"""

from __future__ import annotations

import os

from qvmsh.errors import QvmError
from qvmsh.host import files as host_files
from qvmsh.machine.reports import stamp
from qvmsh.machine.storage import own_disk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from qvmsh.machine.machine import BaseMachine

KIND = "s2e"
PREFIX = f"{own_disk.S2E}."


def paths(vm: BaseMachine) -> dict[str, str]:
    """The files by the name of the snapshot; none for a machine with layers, which S2E has not."""
    if own_disk.is_by_hand(vm) or vm.settings.boolean("VM_USE_SNAPSHOTS"):
        return {}
    names = sorted(each for each in os.listdir(vm.directory) if each.startswith(PREFIX))
    return {each.removeprefix(PREFIX): os.path.join(vm.directory, each) for each in names if each != PREFIX}


def rows(vm: BaseMachine) -> list[dict[str, Any]]:
    """Rows of `snapshot list`."""
    found = []
    for name, path in paths(vm).items():
        status = os.lstat(path)
        found.append(
            {
                "name": name, "kind": KIND, "time": stamp(status.st_mtime), "memory": True,
                "vmstate_bytes": status.st_size, "disks": [own_disk.MAIN], "missing": [], "without": [],
                "parent": None, "message": "", "stale": False, "foreign": True, "double": False,
            }
        )  # fmt: skip
    return found


def require_not(vm: BaseMachine, name: str) -> None:
    """Refuse to load or look into a snapshot of S2E.

    Raises:
        QvmError: it is one.
    """
    if name in paths(vm):
        raise QvmError(
            f"{name} is a snapshot of S2E, which only S2E's own QEMU can load",
            machine=vm.name,
            hint="qvm lists, copies, exports and deletes it",
        )


def remove(vm: BaseMachine, names: Collection[str]) -> None:
    """Remove these; the work lock is held."""
    found = paths(vm)
    for name in names:
        os.unlink(found[name])
    if names:
        host_files.sync_folder(vm.directory)


def copy(vm: BaseMachine, folder: str) -> None:
    """Copy all of them into the folder of another machine; holes stay."""
    for path in paths(vm).values():
        host_files.copy(path, os.path.join(folder, os.path.basename(path)), vm.io.checkpoint)
