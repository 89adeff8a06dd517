"""`qvm disk`: the disks of a machine."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.disk import list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.disk.reports import Checked, DiskDone, Disks, Trimmed
    from qvmsh.machine.machine import BaseMachine


@command(group="images", name="disk list")
def disk_list(vm: BaseMachine) -> Disks:
    """List the disks: sizes, snapshots, backing files, users.

    Returns:
        `disks`: dicts, as in JSON, `vm.disk_list().disks[0]["id"]`.
    """

    return list.disks(vm)


@command(group="images", name="disk add")
def disk_add(
    vm: BaseMachine,
    file: Annotated[str, Opt(complete="file")],
    size: str | None = None,
    *,
    format: Annotated[str | None, Opt("-f", choices=("qcow2", "raw"))] = None,
    read_only: bool = False,
) -> DiskDone:
    """Add another disk to VM_DISKS, and to a running guest.

    With a size, an empty image is created. If the machine cannot take a disk while it runs (q35, ide),
    the guest sees it after the next start.

    Args:
        file: the image; a relative name starts at the machine's directory.
        size: size of a new image, in qcow2 or raw: 512M, 10G.
        format: format of the image (default: by its name; .vmdk, .vdi, .vhdx only for existing images).
        read_only: the guest cannot write to it.

    Raises:
        UsageError: it already is a disk of the machine.
        ImageError: it is missing, has another format, is in use or backs other images. Nothing changed.
    """
    from qvmsh.machine.disk import add

    return add.add(vm, file, add.Addition(size, format, read_only))


@command(group="images", name="disk resize")
def disk_resize(
    vm: BaseMachine,
    disk: Annotated[str, Opt(complete="disk")],
    size: str | None = None,
    *,
    shrink: bool = False,
) -> DiskDone:
    """Resize a disk; a running guest sees the new size at once.

    The guest must resize its file systems itself.

    Args:
        disk: its id (`disk list`) or file; optional if the machine has only one disk.
        size: 20G, or +5G for more.
        shrink: make it smaller (while the machine is off); data beyond the new size is lost.

    Raises:
        UsageError: there is no such disk, or it would shrink.
        ImageError: it backs other images, or is in use.
    """
    from qvmsh.machine.disk import resize

    return resize.resize(vm, disk, size, is_shrinking=shrink)


@command(group="images", name="disk trim")
def disk_trim(vm: BaseMachine, disk: Annotated[str | None, Opt(complete="disk")] = None) -> Trimmed:
    """Return the disk space that the guest no longer uses to the host.

    While the machine is on, the guest trims its file systems (by its agent, else by ssh). While it
    is off, each image without snapshots is copied, compared, and replaced by the copy.

    Args:
        disk: id or file of one disk; all by default.

    Raises:
        StateError: neither the guest agent nor ssh answers.
    """
    from qvmsh.machine.disk import trim

    return trim.trim(vm, disk)


@command(group="images", name="disk check")
def disk_check(
    vm: BaseMachine,
    disk: Annotated[str | None, Opt(complete="disk")] = None,
    *,
    repair: Annotated[bool, Opt("-r")] = False,
) -> Checked:
    """Check images and backing files; exit status 1 if one is damaged.

    Images that a running QEMU writes to are not checked.

    Args:
        disk: id or file of one disk; all by default.
        repair: repair what `qemu-img` can; the machine must be off. Copy a damaged image first.
    """
    from qvmsh.machine.disk import check

    return check.check(vm, disk, is_repairing=repair)


@command(group="images", name="disk commit")
def disk_commit(vm: BaseMachine, disk: Annotated[str | None, Opt(complete="disk")] = None) -> DiskDone:
    """Write an overlay's data into its base and empty the overlay.

    A running guest keeps running, and is paused for a moment at the end. Refused while the overlay
    holds snapshots, or the base backs other overlays: the commit would corrupt them. An interrupted
    commit can be repeated.

    Args:
        disk: id or file of the overlay; the machine's own by default.

    Raises:
        ImageError: the base backs other images, or there is not enough free space. Nothing changed.
    """
    from qvmsh.machine.disk import commit_rebase

    return commit_rebase.commit(vm, disk)


@command(group="images", name="disk rebase")
def disk_rebase(
    vm: BaseMachine,
    disk: Annotated[str, Opt(complete="disk")],
    base: Annotated[str | None, Opt(complete="file")] = None,
    *,
    unsafe: Annotated[bool, Opt("-u")] = False,
) -> DiskDone:
    """Change an overlay's base, or remove it; the content stays the same.

    Changing to another base requires the machine to be off.

    Args:
        disk: id or file of the overlay.
        base: the new base (default: all data is copied into the overlay, which then has none).
        unsafe: change only the name, for a base that was moved and has the same content.

    Raises:
        ImageError: it holds snapshots, or there is not enough free space. Nothing changed.
    """
    from qvmsh.machine.disk import commit_rebase

    return commit_rebase.rebase(vm, disk, base, is_unsafe=unsafe)
