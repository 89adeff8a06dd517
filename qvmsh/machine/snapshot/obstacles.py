"""What prevents a snapshot, each with its remedy: checked before anything is done.

    require(vm, disks, "save a snapshot", exchange=qemu, pid=pid, has_memory=True)   # StateError with all

With memory QEMU reports what cannot be saved (`query-migrate`); its words are put into ours.
Source: QEMU qapi/migration.json (blocked-reasons); qcow2 alone holds internal snapshots.
"""

from __future__ import annotations

import itertools
import os
import re

from qvmsh.config.shares import P9, VIRTIOFS
from qvmsh.errors import QmpError, QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine.guest.shares import devices
from qvmsh.machine.storage.volumes import Volume, written
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.qmp import Exchange

WITHOUT_STATE = ("hvf", "nvmm", "whpx")
"""Accelerators that cannot save the processors' state."""

TEMPORARY = re.compile(r"vl\.\w{6}")
"""QEMU's name of the overlay that `-snapshot` makes, and removes at once. Source: QEMU block.c."""

_FORMAT = re.compile(r"The (\w+) format used by node '(.*)' does not support live migration")

_VIRTIOFS = "vhost-user-fs"

DISKS_ALONE = "`qvm snapshot save --disk-only`"

OF_SHARES = "`qvm snapshot save --unmount-shares` unmounts and unplugs shares for the moment"

NO_DISK = "`qvm disk add data.qcow2 10G` adds one"

DISK_ROOM_BYTES = 4 << 20
"""The most that the tables of a snapshot without memory take, for disks of a usual size."""


class Blocker:
    """One obstacle: what it is, and what to do about it."""

    __slots__ = ("remedy", "what")

    def __init__(self, what: str, remedy: str) -> None:
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def require(
    vm: BaseMachine,
    disks: list[Volume],
    what: str,
    *,
    exchange: Exchange | None = None,
    pid: int | None = None,
    has_memory: bool = False,
) -> None:
    """Refuse if anything prevents a snapshot.

    Args:
        disks: all disks of the machine.
        what: what is to be done, for the error: `save a snapshot`.
        exchange, pid: the QEMU, where it runs.
        has_memory: the memory is to be saved or loaded too.

    Raises:
        StateError: it names each blocker and its remedy; nothing has been changed.
    """
    found = of_disks(disks, vm.directory)
    if not written(disks):
        found.append(Blocker("the machine has no writable disk", NO_DISK))
    if has_memory and exchange is not None and pid is not None:
        found += of_accelerator(process.arguments(pid))
        found += of_devices(exchange, {each.node for each in written(disks) if each.format != "qcow2"})
        if not found:
            found += of_room(written(disks)[0], memory_bytes(pid))
    elif not found:
        found += [row for each in written(disks) for row in of_room(each, DISK_ROOM_BYTES)]
    if found:
        raise StateError(
            f"cannot {what}: {found[0].what}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""),
            machine=vm.name,
            details=[str(each) for each in found] if len(found) > 1 else (),
            hint=found[0].remedy,
        )


def of_disks(disks: list[Volume], directory: str) -> list[Blocker]:
    """The writable disks that cannot hold snapshots, or not for long."""
    found = []
    for each in disks:
        if TEMPORARY.fullmatch(each.name) and not os.path.exists(each.path):
            what = f"changes to the disk {each.id} are lost when QEMU ends"
            remedy = "start it without -snapshot and snapshot=on (VM_QEMU_ARGS, VM_QEMU_EXTRA)"
            found.append(Blocker(what, remedy))
            continue
        if each.is_read_only or (each.format == "qcow2" and not _has_data_file(each)):
            continue
        where = directory if each.format == "qcow2" else ""  # QEMU looks for a data file where it runs
        convert = f"`{qemuimg.converted(each.path, each.format, where)}` and use the result"
        if each.node:  # QEMU has it open
            convert = f"`qvm stop` first, then {convert}"
        if each.format == "qcow2":
            what = f"the disk {each.name} keeps its data in another file, so it cannot hold snapshots"
            found.append(Blocker(what, f"{convert}, or make it read-only"))
        elif each.is_flash:
            what = f"the UEFI variables {each.name} are {each.format}, which cannot hold snapshots"
            found.append(Blocker(what, f"{convert}; VM_FIRMWARE=uefi creates them as qcow2"))
        else:
            what = f"the disk {each.name} is {each.format}, which cannot hold snapshots"
            found.append(Blocker(what, f"{convert}, or make it read-only"))
    return found


def _has_data_file(disk: Volume) -> bool:
    try:
        return image.header(disk.path).has_data_file
    except (OSError, QvmError):  # other checks report it
        return False


def of_accelerator(arguments: list[str]) -> list[Blocker]:
    """An accelerator that cannot save the state, from QEMU's argument list."""
    for word, value in itertools.pairwise(arguments):
        kind = ""
        if word in ("-accel", "--accel"):
            kind = value.partition(",")[0]
        elif word in ("-machine", "-M", "--machine"):
            kind = next((p[6:] for p in value.split(",") if p.startswith("accel=")), "").partition(":")[0]
        if kind in WITHOUT_STATE:
            what = f"the accelerator {kind} cannot save the processor state"
            return [
                Blocker(
                    what, f"{DISKS_ALONE} saves the disks; or start with VM_QEMU_ACCEL=tcg (or kvm on Linux)"
                )
            ]
    return []


def of_devices(exchange: Exchange, reported: Collection[str] = ()) -> list[Blocker]:
    """What QEMU reports that it cannot save.

    Args:
        reported: nodes whose format is reported already where it prevents a snapshot.
    """
    try:
        reasons = [*map(str, exchange.ask("query-migrate").get("blocked-reasons", ()))]
    except QmpError:
        return []
    found: dict[str, Blocker] = {}
    own = {
        P9: devices.own_tags(exchange, P9) if any("VirtFS" in each for each in reasons) else [],
        VIRTIOFS: devices.own_tags(exchange, VIRTIOFS),
    }
    if own[VIRTIOFS] and not any(_VIRTIOFS in each for each in reasons):
        reasons.append(_VIRTIOFS)  # from 8.2 on QEMU says so only when it is to save it
    for reason in reasons:
        of_format = _FORMAT.search(reason)
        if of_format and of_format[2] in reported:
            continue
        each = _in_words(reason, own)
        found[str(each)] = each
    return list(found.values())


def _in_words(reason: str, own: Mapping[str, Sequence[str]] | None = None) -> Blocker:
    """A reason of QEMU's, and what to do about it.

    Args:
        own: the tags of the shares of VM_SHARE, by their kind.
    """
    share = re.search(r"VirtFS export path '(.*)' is mounted in the guest using mount_tag '(.*)'", reason)
    if share:
        return Blocker(
            f"the guest has mounted the 9p share {share[2]}",
            OF_SHARES
            if share[2] in (own or {}).get(P9, ())
            else "unmount it in the guest, and mount it again afterwards",
        )
    of_format = _FORMAT.search(reason)
    if of_format:
        what = f"the disk {of_format[2]} is {of_format[1]}, with which QEMU cannot save memory"
        return Blocker(what, f"convert it with `qemu-img convert -O qcow2`; or {DISKS_ALONE}")
    device = reason.removeprefix("non-migratable device: ")
    low = reason.lower()
    if low.endswith("/nvme"):
        return Blocker(
            "QEMU cannot save the state of nvme disks",
            f"`qvm config VM_DISK_BUS=virtio` and `qvm restart`; or {DISKS_ALONE}",
        )
    if _VIRTIOFS in low or "virtiofs" in low:
        if tags := (own or {}).get(VIRTIOFS):
            which = f"share {tags[0]} is" if len(tags) == 1 else f"shares {', '.join(tags)} are"
            return Blocker(f"the virtiofs {which} attached", OF_SHARES)
        return Blocker(f"a virtiofs share is attached ({device})", f"start without it; or {DISKS_ALONE}")
    if "vfio" in low or "usb-host" in low or "host device" in low:
        return Blocker(
            f"a device of the host is passed through ({device})",
            f"remove it with QMP's device_del; or {DISKS_ALONE}",
        )
    if "whpx" in low or "nvmm" in low or "hvf" in low:
        return Blocker(f"the accelerator cannot save the state ({reason})", f"{DISKS_ALONE} saves the disks")
    return Blocker(f"QEMU cannot save it: {reason}", f"remove that device; or {DISKS_ALONE}")


def of_room(disk: Volume, needed_bytes: int) -> list[Blocker]:
    """Not enough free space for what a snapshot adds to a disk's file."""
    from qvmsh.machine.progress import size

    folder = os.path.dirname(os.path.realpath(disk.path))  # a link may lead to another file system
    try:
        free = host_files.free_bytes(folder)
    except OSError:
        return []
    if free >= needed_bytes:
        return []
    what = f"{disk.name} would grow by up to {size(needed_bytes)}, but only {size(free)} is free"
    return [Blocker(what, f"free space in {folder}; `qvm snapshot list` shows what can be deleted")]


def memory_bytes(pid: int) -> int:
    """The most that the memory takes in a snapshot: the pages that the guest has touched."""
    sizes: list[tuple[int, int]] = []
    try:
        with open(f"/proc/{pid}/smaps") as file:
            whole = 0
            for line in file:
                if line.startswith("Size:"):
                    whole = int(line.split()[1])
                elif line.startswith("Rss:"):
                    sizes.append((whole, int(line.split()[1])))
    except OSError:
        return 0
    if not sizes:
        return 0
    most = max(whole for whole, _ in sizes)
    return sum(rss for whole, rss in sizes if whole * 2 > most) << 10
