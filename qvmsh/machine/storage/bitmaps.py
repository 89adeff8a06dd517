"""Dirty bitmaps and snapshot tables of images, as archives of changes need them."""

from __future__ import annotations

import os

from qvmsh.machine import programs
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import BaseMachine

BITMAP = "qvm-"
"""Prefix of qvm's dirty bitmaps; the id of the state and the disk's role follow."""


def tags_of(program: str, path: str) -> list[dict[str, Any]]:
    """The internal snapshots of a qcow2 image, from qemu-img; also while a QEMU has it open."""
    from qvmsh.qemu.qmp import loads

    text = qemuimg.run(
        program,
        ["info", "-U", "-f", "qcow2", "--output=json", image.safe_name(path)],
        what=f"read {os.path.basename(path)}",
    )
    found: list[dict[str, Any]] = loads(text).get("snapshots", [])
    return found


def forget(vm: BaseMachine, path: str) -> None:
    """Bitmaps did not record a change: remove them, so that the next archive of the image is complete."""
    qemuimg.remove_bitmaps(programs.qemu_img(vm), path, BITMAP)
