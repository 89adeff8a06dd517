"""The machine's own disk: which image it is, in which format, and what to do where it is missing."""

from __future__ import annotations

import os

from qvmsh.config import devices
from qvmsh.config.variables import FORMATS
from qvmsh.errors import ImageError, QvmError, UsageError
from qvmsh.machine.storage import supplies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine

MAIN = "disk0"
"""QEMU's name of the machine's own disk."""
S2E = "disk.s2e"
"""The raw disk of a machine of S2E, which refuses any other name; where there is no NAME.raw."""
S2E_SETTINGS = (
    ("VM_USE_SNAPSHOTS", "no"), ("VM_FMT", "raw"), ("VM_DISK_BUS", "ide"), ("VM_NET_MODEL", "e1000"),
)  # fmt: skip
"""A guest of S2E may be older than virtio, and its disk is used as it is."""


def disk_name(vm: BaseMachine, *, base_only: bool = False) -> str:
    """File name of the image that is the machine's disk.

    Raises:
        UsageError: `base_only` where there are no layers (VM_USE_SNAPSHOTS=no).
    """
    settings = vm.settings
    if not settings.boolean("VM_USE_SNAPSHOTS"):
        if base_only:
            raise UsageError(
                "--base-only needs layers, but VM_USE_SNAPSHOTS=no turns them off", machine=vm.name
            )
        name = f"{settings.text('VM_MACHINE_NAME')}.{settings.text('VM_FMT')}"
        return S2E if settings.text("VM_FMT") == "raw" and _is_s2e(vm, name) else name
    which = "BASE" if base_only else "BACKING"
    return settings.text(f"VM_SNAPSHOT_{which}FILENAME")


def _is_s2e(vm: BaseMachine, name: str) -> bool:
    here, other = (os.path.join(vm.directory, each) for each in (S2E, name))
    if not os.path.lexists(here) or os.path.lexists(other):
        return False
    return os.path.realpath(here) not in map(os.path.realpath, _additional(vm))


def _additional(vm: BaseMachine) -> list[str]:
    """The disks that the settings name: VM_DISKS, and the user's own words."""
    from qvmsh.qemu import drives

    words = vm.settings.words("VM_QEMU_EXTRA")
    return [
        *(each.path for each in supplies.additional_disks(vm)),
        *(os.path.join(vm.directory, each.file) for each in drives.drives(words)),
    ]


def has_disk(vm: BaseMachine) -> bool:
    """False for a machine that boots something else and has no image of a disk of its own."""
    settings = vm.settings
    boots = [settings.text(name) for name in ("VM_CDROM", "VM_KERNEL")]
    if not any(boots) and "network" not in devices.boot(settings.text("VM_BOOT")):
        return True
    names = [disk_name(vm)]
    if settings.boolean("VM_USE_SNAPSHOTS"):
        names += [settings.text(f"VM_SNAPSHOT_{which}FILENAME") for which in ("SEED", "BASE")]
    return any(os.path.lexists(os.path.join(vm.directory, name)) for name in names)


def is_empty(vm: BaseMachine) -> bool:
    """True if nothing was ever written to the machine's disk, so that no system can boot from it."""
    from qvmsh.host import files
    from qvmsh.machine.storage import chain
    from qvmsh.qemu import qcow2

    if is_by_hand(vm):
        return False
    name = disk_name(vm)
    try:
        for each in chain.layers(name, image_format(vm, name), vm.name, vm.directory):
            path = os.path.join(vm.directory, each.path)
            if each.format == "qcow2":
                if not qcow2.is_empty(path):
                    return False
                continue
            with open(files.opened(path), "rb") as file:
                if each.format != "raw" or any(True for _ in files.extents(file.fileno())):
                    return False
    except (OSError, QvmError):
        return False
    return True


def is_by_hand(vm: BaseMachine) -> bool:
    """True if the user wrote the hardware (VM_QEMU_ARGS)."""
    return bool(vm.settings.text("VM_QEMU_ARGS"))


def image_format(vm: BaseMachine, image: str) -> str:
    """Format of an image of the machine: an overlay is qcow2, the others are VM_FMT."""
    is_layered = vm.settings.boolean("VM_USE_SNAPSHOTS")
    overlay = is_layered and image == vm.settings.text("VM_SNAPSHOT_BACKINGFILENAME")
    return "qcow2" if overlay or image.startswith(".qvm/") else vm.settings.text("VM_FMT")


def require_disk(vm: BaseMachine, *, base_only: bool = False) -> str:
    """The file name of the machine's disk, checked together with its bases; "" for none.

    Raises:
        ImageError: an image is missing, corrupt, or of another format than VM_FMT says.
    """
    from qvmsh.qemu import image

    name = disk_name(vm, base_only=base_only)
    if not has_disk(vm):
        return ""
    path = os.path.join(vm.directory, name)
    wanted = image_format(vm, name)
    found = image.require(path, vm.name, hint=_missing_hint(vm), kind=wanted)
    if found.format != wanted and "qcow2" in (found.format, wanted):
        typed = image.typed(path)
        raise ImageError(
            f"{name} is in format {found.format}, but the configuration says {wanted}",
            machine=vm.name,
            hint=f"`qemu-img convert -O {wanted} {typed} NEW && mv NEW {typed}` converts it",
        )
    supplies.require_chain(vm, path, name, wanted)
    return name


def other_format(vm: BaseMachine, *names: str) -> str:
    """The hint if one of these images exists in another format than VM_FMT, else ""."""
    wanted = vm.settings.text("VM_FMT")
    for name in names:
        stem = name.removesuffix(wanted)
        for kind in FORMATS:
            if kind != wanted and os.path.exists(os.path.join(vm.directory, stem + kind)):
                return f"{stem}{kind} exists, but VM_FMT is {wanted}: `qvm config VM_FMT={kind}`"
    return ""


def _missing_hint(vm: BaseMachine) -> str:
    settings = vm.settings
    if not settings.boolean("VM_USE_SNAPSHOTS"):
        return other_format(vm, disk_name(vm)) or f"put the disk image in the directory as {disk_name(vm)}"
    seed, base = (settings.text(f"VM_SNAPSHOT_{which}FILENAME") for which in ("SEED", "BASE"))
    if os.path.exists(os.path.join(vm.directory, base)):
        return "`qvm init` creates it (an empty overlay on the base)"
    if os.path.exists(os.path.join(vm.directory, seed)):
        return f"`qvm init` creates it from {seed}"
    if other := other_format(vm, seed, base):
        return other
    return f"put an installed system there as {seed}, then `qvm init`; or `qvm create NAME --image FILE`"
