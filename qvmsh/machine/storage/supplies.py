"""The files that the hardware needs: additional disks, CD, kernel, firmware; found, checked, prepared.

    supplies = gather(vm)                 # what the configuration names; no file is read yet
    require(vm, supplies)                 # all present and of the right format, or an error says which
    prepare(vm, supplies)                 # the UEFI variables, where there are none yet

The format of an image comes from the configuration or from the file's name, never from its content: a guest
with a raw disk could write the header of another format into it.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from itertools import pairwise

from qvmsh.config import devices
from qvmsh.config.words import quote
from qvmsh.errors import ConfigError, ImageError, MissingProgramError
from qvmsh.host import files as host_files
from qvmsh.machine import programs
from qvmsh.machine.storage import chain
from qvmsh.qemu import firmware, image, qemuimg
from qvmsh.qemu.commandline import Cdrom, Disk
from qvmsh.qemu.flash import UEFI_VARIABLES, Flash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.firmware import Firmware


@dataclass(frozen=True)
class AdditionalDisk:
    """A disk of VM_DISKS.

    Args:
        name: its path as the user wrote it.
        path: absolute.
        node: QEMU's name of it.
    """

    name: str
    path: str
    node: str
    line: devices.DiskLine


@dataclass(frozen=True)
class Supplies:
    """The files that the hardware needs, besides the machine's own disk.

    Args:
        additional: the disks of VM_DISKS.
        cdrom, kernel, initrd: paths, "" where there is none.
        firmware: the UEFI firmware of this host, None for the machine type's own.
        variables: path of the machine's UEFI variables, "" without UEFI.
    """

    additional: tuple[AdditionalDisk, ...] = ()
    cdrom: str = ""
    kernel: str = ""
    initrd: str = ""
    firmware: Firmware | None = None
    variables: str = ""


def gather(vm: BaseMachine) -> Supplies:
    """What the configuration names.

    Raises:
        MissingProgramError: this host has no such firmware.
    """
    settings = vm.settings
    if settings.text("VM_QEMU_ARGS"):
        return Supplies()
    found = None
    wanted = settings.text("VM_FIRMWARE")
    if wanted.startswith("uefi"):
        try:
            found = firmware.find(
                settings.architecture,
                settings.text("VM_QEMU_MACHINE"),
                is_secure=wanted == "uefi-secure",
                environ=vm.environ,
            )
        except MissingProgramError as error:
            error.machine = vm.name
            raise
    return Supplies(
        additional=tuple(additional_disks(vm)),
        cdrom=settings.path("VM_CDROM"),
        kernel=settings.path("VM_KERNEL"),
        initrd=settings.path("VM_INITRD"),
        firmware=found,
        variables=variables_path(vm),
    )


def additional_disks(vm: BaseMachine) -> list[AdditionalDisk]:
    """The disks of VM_DISKS."""
    lines = devices.disks(vm.settings.text("VM_DISKS"))
    return [
        AdditionalDisk(line.path, host_files.shortest(vm.settings.located(line.path)), f"disk{at}", line)
        for at, line in enumerate(lines, start=1)
    ]


def variables_path(vm: BaseMachine) -> str:
    """The machine's UEFI variables: a qcow2 image, so that snapshots include them; "" without UEFI.

    Each kind of firmware has its own: Secure Boot's keys are among the variables.
    """
    kind = vm.settings.text("VM_FIRMWARE")
    if not kind.startswith("uefi"):
        return ""
    return os.path.join(vm.directory, f"{vm.settings.text('VM_MACHINE_NAME')}-{kind}.qcow2")


# Judging


def require(vm: BaseMachine, supplies: Supplies) -> None:
    """Make sure that all of it is there and can be used.

    Raises:
        ImageError: an image or file is missing, corrupt, or of another format; the text says which.
    """
    for disk in supplies.additional:
        require_additional(vm, disk)
    for variable, path in (
        ("VM_CDROM", supplies.cdrom),
        ("VM_KERNEL", supplies.kernel),
        ("VM_INITRD", supplies.initrd),
    ):
        if path:
            _require_file(vm, variable, path)
    if supplies.firmware and os.path.exists(supplies.variables):
        _require_variables(vm, supplies.firmware, supplies.variables)


def require_additional(vm: BaseMachine, disk: AdditionalDisk) -> None:
    """Make sure that a disk of VM_DISKS can be used.

    Raises:
        ImageError: it cannot; see `require`.
    """
    kind = disk.line.driver
    found = image.require(disk.path, vm.name, hint=_missing_hint(disk), name=disk.name, kind=kind)
    is_declared = disk.line.format or disk.path.lower().endswith(".raw")
    if not is_declared and kind == "raw" and image.header(disk.path).format == "qcow2":
        raise ImageError(
            f"{disk.name} looks like qcow2, but neither its name nor VM_DISKS says so",
            machine=vm.name,
            hint=f"write {disk.name}:qcow2 in VM_DISKS; or {disk.name}:raw if the guest wrote that itself",
        )
    if kind == "qcow2" != found.format:
        raise ImageError(
            f"{disk.name} is in format {found.format}, but VM_DISKS says qcow2",
            machine=vm.name,
            hint=f"`qemu-img convert -O qcow2 {image.typed(disk.path)} NEW` converts it, or write "
            f"{disk.name}:raw",
        )
    is_cd = disk.name.lower().endswith(".iso") and not disk.line.format and not disk.line.is_read_only
    if is_cd and image.is_iso(disk.path):
        raise ImageError(
            f"{disk.name} is a CD image (ISO 9660), not a writable disk",
            machine=vm.name,
            hint=f"`qvm config VM_CDROM={quote(disk.name)}` inserts it into the CD drive; in VM_DISKS write "
            f"{disk.name}:raw:ro",
        )
    if not disk.line.is_read_only and not os.access(disk.path, os.W_OK):
        hint = f"write {disk.name}:{kind}:ro in VM_DISKS for a disk that the guest only reads"
        raise unwritable(vm, disk.name, disk.path, hint)
    require_chain(vm, disk.path, disk.name, kind)


def unwritable(vm: BaseMachine, name: str, path: str, hint: str) -> ImageError:
    """The error for a disk that cannot be written to."""
    if host_files.is_read_only(path):
        what = f"{name} is on a read-only file system"
        return ImageError(what, machine=vm.name, hint=f"{hint}; {host_files.READ_ONLY_HINT}")
    return ImageError(f"you cannot write to {name}", machine=vm.name, hint=hint)


def require_chain(vm: BaseMachine, path: str, name: str, kind: str) -> None:
    """Make sure that everything that an image is backed by is there and readable.

    Raises:
        ImageError: a backing file is missing; or see `chain.layers`.
    """
    layers = chain.layers(path, kind, vm.name, vm.directory)
    for above, layer in pairwise(layers):
        if layer.header is None and above.header is not None:
            name = name if above is layers[0] else os.path.basename(above.path)
            raise ImageError(
                f"{name} is orphaned: its base {above.header.backing} is missing",
                machine=vm.name,
                hint="put that file back; the overlay is useless without it",
            )


def _missing_hint(disk: AdditionalDisk) -> str:
    word = disk.name.rpartition(":")[2]
    if ":" in disk.name and "/" not in word:
        return f"a line of VM_DISKS is path[:format[:cache]][:ro], and {word!r} is none of these"
    form = disk.line.driver
    way = f"`qemu-img create -f {form} {image.typed(disk.path)} 10G` creates an empty one"
    return f"{way}; or remove it from VM_DISKS"


def _require_file(vm: BaseMachine, variable: str, path: str) -> None:
    try:
        with image.opened(path):
            return
    except (OSError, ImageError) as error:
        why = error.what if isinstance(error, ImageError) else error.strerror
        raise ImageError(
            f"{variable}: cannot read {vm.settings.text(variable)}: {why}",
            machine=vm.name,
            hint=f"put the file there, or correct {variable}",
        ) from None


def _require_variables(vm: BaseMachine, found: Firmware, path: str) -> None:
    """The variables must be whole, and made for this firmware's flash chip."""
    name = os.path.basename(path)
    hint = "move it away: the next start creates a new one, without the boot entries of the guest"
    header = image.require(path, vm.name, hint=hint, kind="qcow2")
    wanted = image.header(found.template, found.template_format).size_bytes
    if header.format != "qcow2" or header.size_bytes != wanted:
        raise ImageError(
            f"{name} does not fit the firmware {found.code}: it is {header.format} of {header.size_bytes} "
            f"bytes, not qcow2 of {wanted}",
            machine=vm.name,
            hint=hint,
        )
    require_chain(vm, path, name, "qcow2")


# Preparing


def prepare(vm: BaseMachine, supplies: Supplies) -> None:
    """Create the machine's UEFI variables from the firmware's own, if there are none yet."""
    found, path = supplies.firmware, supplies.variables
    settings = vm.settings
    is_virt = settings.text("VM_QEMU_MACHINE").startswith("virt") and not settings.text("VM_QEMU_ARGS")
    if is_virt and not found and not supplies.kernel:
        vm.io.warn(
            f"{vm.name}: machine type virt has no firmware that boots a disk: "
            "set VM_FIRMWARE=uefi or VM_KERNEL"
        )
    if found is None or os.path.exists(path):
        return
    part = host_files.unique(f"{path}.part")
    words = ["convert", "-q", "-f", found.template_format, "-O", "qcow2"]
    try:
        qemuimg.run(
            programs.qemu_img(vm),
            [*words, image.safe_name(found.template), part],
            what=f"create {os.path.basename(path)}",
        )
        host_files.sync(part)
        os.link(part, path)  # unlike rename, never over a new file
    except FileExistsError:
        pass
    finally:
        host_files.remove(part)
    host_files.sync_folder(vm.directory)


def overlays(vm: BaseMachine, supplies: Supplies) -> dict[str, tuple[str, str]]:
    """The disks that `--disposable` covers besides the machine's own: node, path and format."""
    found = {
        disk.node: (disk.path, disk.line.driver) for disk in supplies.additional if not disk.line.is_read_only
    }
    if supplies.variables:
        found[UEFI_VARIABLES] = (supplies.variables, "qcow2")
    return found


# For the argument list


def boot_order(vm: BaseMachine) -> tuple[dict[str, int], bool]:
    """The place of each device in the boot order, from 1, and whether there is a menu.

    Raises:
        ConfigError: VM_BOOT names what is not there.
    """
    settings = vm.settings
    words = devices.boot(settings.text("VM_BOOT"))
    order = ["disk0" if word == "disk" else word for word in words if word != "menu"]
    if len(set(order)) < len(order):
        raise ConfigError("VM_BOOT names disk and disk0, which are the same", machine=vm.name)
    if not order:
        order = ["disk0", "cdrom"] if settings.text("VM_CDROM") else ["disk0"]
    return {word: at for at, word in enumerate(order, start=1)}, "menu" in words


def disk_arguments(
    vm: BaseMachine, supplies: Supplies, order: Mapping[str, int], replaced: Mapping[str, str]
) -> list[Disk]:
    """The disks of VM_DISKS for the argument list; `replaced` names the overlays of `--disposable`."""
    found = []
    for disk in supplies.additional:
        overlay = replaced.get(disk.node)
        found.append(
            Disk(
                path=overlay or shown(vm, disk.path),
                format="qcow2" if overlay else disk.line.driver,
                bus=vm.settings.text("VM_DISK_BUS"),
                node=disk.node,
                cache=disk.line.cache,
                protocol="file" if overlay else protocol(disk.path),
                is_read_only=disk.line.is_read_only,
                boot=order.get(disk.node),
                serial=disk.node,
            )
        )
    return found


def cdrom_argument(vm: BaseMachine, supplies: Supplies, order: Mapping[str, int]) -> Cdrom | None:
    """The CD drive for the argument list."""
    path = supplies.cdrom
    return Cdrom(shown(vm, path), protocol(path), order.get("cdrom")) if path else None


def flash_argument(vm: BaseMachine, supplies: Supplies, replaced: Mapping[str, str]) -> Flash | None:
    """The firmware for the argument list."""
    found = supplies.firmware
    if found is None:
        return None
    variables = replaced.get(UEFI_VARIABLES) or shown(vm, supplies.variables)
    return Flash(found.code, found.code_format, variables, needs_smm=found.needs_smm)


def shown(vm: BaseMachine, path: str) -> str:
    """A path as QEMU gets it: relative to the machine's directory, if it is inside.

    Raises:
        ImageError: it is not UTF-8, which QEMU requires.
    """
    inside = os.path.relpath(path, vm.directory)
    name = path if inside.startswith("..") else os.path.join(".", inside)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ImageError(
            f"QEMU cannot open {name}: that name is not UTF-8",
            machine=vm.name,
            hint="rename the file or its folder; or use a link to it",
        ) from None
    return name


def protocol(path: str) -> str:
    """QEMU's driver for a file, or for a block device of the host."""
    try:
        return "host_device" if stat.S_ISBLK(os.stat(path).st_mode) else "file"
    except OSError:
        return "file"
