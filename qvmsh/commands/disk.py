"""`qvm disk`: the disks of a machine."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.machine.disk import list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.machine.disk.reports import Checked, DiskDone, Disks, Trimmed
    from qvmsh.machine.machine import Machine


@command(group="images", name="disk list")
def disk_list(vm: Machine) -> Disks:
    """List the machine's disks: sizes, snapshots, what each stands on, and who has it open.

    Returns:
        `disks`: dicts, as in JSON, `vm.disk_list().disks[0]["id"]`.
    """

    return list.disks(vm)


@command(group="images", name="disk add")
def disk_add(
    vm: Machine,
    file: Annotated[str, Opt(complete="file")],
    size: str | None = None,
    *,
    format: Annotated[str | None, Opt("-f", choices=("qcow2", "raw"))] = None,
    read_only: bool = False,
) -> DiskDone:
    """Give the machine a further disk: it is added to VM_DISKS, and a running guest has it at once.

    With a size an empty image is made. Where the machine cannot take a disk while it runs (q35, ide),
    the guest sees it from the next start.

    Args:
        file: the image; a relative name begins at the machine's directory.
        size: of an image to be made, in qcow2 or raw: 512M, 10G.
        format: of the image (by its name: .qcow2, .img; others as they are there: .vmdk, .vdi, .vhdx).
        read_only: the guest cannot write to it.

    Raises:
        UsageError: it is a disk of the machine already.
        ImageError: it is not there, of another format, in use, or others stand on it; nothing was changed.
    """
    from qvmsh.machine.disk import add as disk_add

    return disk_add.add(vm, file, disk_add.Addition(size, format, read_only))


@command(group="images", name="disk resize")
def disk_resize(
    vm: Machine,
    disk: Annotated[str, Opt(complete="disk")],
    size: str | None = None,
    *,
    shrink: bool = False,
) -> DiskDone:
    """Give a disk another size; a running guest is told at once. Its file systems are its own work.

    Args:
        disk: its id (`disk list`) or file; may be left out where the machine has one disk only.
        size: 20G, or +5G for more.
        shrink: make it smaller (while the machine is off); what lies behind is lost.

    Raises:
        UsageError: there is no such disk, or it would shrink.
        ImageError: others stand on it, or it is in use.
    """
    from qvmsh.machine.disk import size as disk_size

    return disk_size.resize(vm, disk, size, is_shrinking=shrink)


@command(group="images", name="disk trim")
def disk_trim(vm: Machine, disk: Annotated[str | None, Opt(complete="disk")] = None) -> Trimmed:
    """Give room that the guest does not use back to the host.

    While it is on the guest trims its file systems (by its agent, else by ssh). While it is off each
    image without snapshots is written anew beside its place, compared, and takes it.

    Args:
        disk: id or file of one disk; all by default.

    Raises:
        StateError: nothing in the guest can be asked.
    """
    from qvmsh.machine.disk import size as disk_size

    return disk_size.trim(vm, disk)


@command(group="images", name="disk check")
def disk_check(
    vm: Machine,
    disk: Annotated[str | None, Opt(complete="disk")] = None,
    *,
    repair: Annotated[bool, Opt("-r")] = False,
) -> Checked:
    """Check the images and all that they stand on; exit status 1 if one is damaged.

    What a running QEMU writes to is not checked.

    Args:
        disk: id or file of one disk; all by default.
        repair: mend what `qemu-img` can mend; the machine must be off. Copy a damaged image first.
    """
    from qvmsh.machine.disk import check as disk_check

    return disk_check.check(vm, disk, is_repairing=repair)


@command(group="images", name="disk commit")
def disk_commit(vm: Machine, disk: Annotated[str | None, Opt(complete="disk")] = None) -> DiskDone:
    """Write an overlay's data into its base; the overlay is empty then.

    A running guest goes on meanwhile, and stands still for a moment at the end. Refused while the
    overlay holds snapshots, or other overlays stand on the base: they would be silently wrong. One
    that is cut off can be given again.

    Args:
        disk: id or file of the overlay; the machine's own by default.

    Raises:
        ImageError: something stands on the base, or there is no room; nothing was changed.
    """
    from qvmsh.machine.disk import layers as disk_layers

    return disk_layers.commit(vm, disk)


@command(group="images", name="disk rebase")
def disk_rebase(
    vm: Machine,
    disk: Annotated[str, Opt(complete="disk")],
    base: Annotated[str | None, Opt(complete="file")] = None,
    *,
    unsafe: Annotated[bool, Opt("-u")] = False,
) -> DiskDone:
    """Let an overlay stand on another base, or on none; its content stays.

    Onto another base only while the machine is off.

    Args:
        disk: id or file of the overlay.
        base: the new base; none = the overlay takes all data over and stands alone.
        unsafe: only change the name: for a base that has moved, and holds the same.

    Raises:
        ImageError: it holds snapshots, or there is no room; nothing was changed.
    """
    from qvmsh.machine.disk import layers as disk_layers

    return disk_layers.rebase(vm, disk, base, is_unsafe=unsafe)
