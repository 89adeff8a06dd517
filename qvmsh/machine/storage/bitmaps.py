"""Dirty bitmaps and snapshot tables of images, as archives of changes need them."""

from __future__ import annotations

import os

from qvmsh.machine import programs as tools
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import Machine

BITMAP = "qvm-"
"""What the names of qvm's dirty bitmaps begin with; the id of the state and the disk's role follow."""


def tags_of(program: str, path: str) -> list[dict[str, Any]]:
    """The internal snapshots of a qcow2 image, as qemu-img tells them; also while a QEMU has it open."""
    from qvmsh.qemu.qmp import loads

    text = qemuimg.run(
        program,
        ["info", "-U", "-f", "qcow2", "--output=json", image.safe_name(path)],
        what=f"read {os.path.basename(path)}",
    )
    found: list[dict[str, Any]] = loads(text).get("snapshots", [])
    return found


def forget(vm: Machine, path: str) -> None:
    """Its content has changed in a way that no bitmap tells: the next archive of the image is whole."""
    qemuimg.remove_bitmaps(tools.qemu_img(vm), path, BITMAP)
