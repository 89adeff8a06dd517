"""`qvm create`: create a machine's directory: an empty disk, an image, an installer, or the `.vmrc` alone."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.io import QUIET
from qvmsh.machine.reports import Steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.io import Io
    from qvmsh.machine.create.wish import Wish
    from qvmsh.machine.machine import BaseMachine


@command(group="daily")
def create(
    name: Annotated[str, Opt(complete="dir")],
    size: str | None = None,
    *,
    image: Annotated[str | None, Opt("-i", metavar="tiny|FILE", complete="image")] = None,
    iso: Annotated[str | None, Opt(metavar="FILE", complete="file")] = None,
    from_: Annotated[str | None, Opt(metavar="FILE", complete="file")] = None,
    link: Annotated[bool, Opt("--linked", excludes=("move", "copy"))] = False,
    move: Annotated[bool, Opt(excludes=("copy",))] = False,
    copy: bool = False,
    bare: bool = False,
    s2e: Annotated[bool, Opt(excludes=("format",))] = False,
    format: Annotated[str, Opt(choices=("qcow2", "raw"))] = "qcow2",
    disk: Annotated[tuple[str, ...], Opt(metavar="SIZE")] = (),
    mem: Annotated[str | None, Opt("-m", metavar="MIB")] = None,
    cpus: Annotated[int | None, Opt(metavar="N")] = None,
    user: Annotated[str | None, Opt(metavar="ACCOUNT")] = None,
    id: Annotated[str | None, Opt(metavar="NN")] = None,
    label: Annotated[tuple[str, ...], Opt(metavar="LABEL", complete="label")] = (),
    template: Annotated[str | None, Opt(metavar="FILE", complete="file")] = None,
    values: Annotated[tuple[str, ...], Opt(is_python=True)] = (),
    start: bool = False,
    io: Io = QUIET,
) -> Steps:
    """Create a machine: a directory with .vmrc, base image and empty overlay.

    The disk is made from one source: an empty one of SIZE, an image, an installer's CD with an empty
    disk, or any image file. Without one it is the built-in image `tiny`, which is built if it does not
    exist yet. An image is copied, so the original may be deleted; an overlay is copied with all its
    backing files. `--set NAME=VALUE` goes into the new .vmrc.

    Args:
        name: the new directory; its last part is the machine's name.
        size: an empty disk of this size (20G); with --iso the size of its disk.
        image: a built-in image, or an image file of an installed system (qcow2, raw, vmdk, ...).
        iso: the CD of an installer is in the drive; the disk boots once it can.
        from_: an image file of any format becomes the disk.
        link: do not copy the image: the disk is backed by it, so it must stay as it is.
        move: remove the image file once the machine is there.
        copy: copy the image file (the default).
        bare: only the .vmrc, with every variable as a comment.
        s2e: the disk is `disk.s2e` (raw), as S2E needs it; without an overlay.
        format: format of the base image.
        disk: one more, empty disk of this size; may be given several times.
        mem: guest memory in MiB, or with a unit such as 2G (256 for tiny, else 1024).
        cpus: number of vcpus.
        user: account in the guest that ssh logs in to.
        id: VM_MACHINE_ID, two digits (default: one that no known machine has).
        label: a label (VM_LABELS); may be given several times.
        template: begin the .vmrc with the text of this file.
        values: NAME=VALUE for the .vmrc.
        start: start it.

    Raises:
        UsageError: the directory already contains something, or the options contradict each other.
        ImageError: the image cannot be used. Nothing is left behind.
    """
    import os

    from qvmsh.config.edit import assignment
    from qvmsh.machine.create import create, sources
    from qvmsh.machine.create import wish as wishes
    from qvmsh.machine.create.wish import TINY, Wish

    has_source = size or bare or {image, iso, from_} != {None}
    if not has_source:
        wishes.require_name(name)
    wish = Wish(
        size=size or "",
        image=image if has_source else TINY,
        disk=from_,
        iso=iso,
        is_bare=bare,
        is_linked=link,
        is_moved=move,
        is_s2e=s2e,
        format=format,
        disks=tuple(disk),
        template=template,
        memory=None if mem is None else str(mem),
        cpus=cpus,
        user=user,
        machine_id=id,
        labels=tuple(label),
        values=tuple(assignment(each) for each in values),
    )
    vm = create.create(name, wish, io, os.environ)
    where = os.path.relpath(vm.directory)
    made = wish.source or (f"an empty disk of {wish.size or sources.DEFAULT_SIZE}" if not bare else "nothing")
    steps = [f"created from {made} in {where}"]
    if wish.is_linked:
        steps[0] += "; its disk is backed by that image, which must stay as it is"
    if start:
        from qvmsh.machine.power import start as power
        from qvmsh.machine.power.request import Request

        steps.append(
            str(power.start(vm, Request(), ssh_attempts=None, is_waiting=bool(wish.source))).partition(": ")[
                2
            ]
        )
    else:
        steps.append(_next(vm, wish, where))
    return Steps(vm.name, steps, directory=vm.directory)


def _next(vm: BaseMachine, wish: Wish, where: str) -> str:
    """What to type next.

    Args:
        where: the machine's directory, from here.
    """
    import os

    from qvmsh.config.edit import quote
    from qvmsh.machine.storage import own_disk

    go = "" if where == "." else f"cd {quote(where)} && "
    if not wish.is_bare or own_disk.is_by_hand(vm) or not own_disk.has_disk(vm):
        return f"`{go}qvm start{'' if wish.source or wish.is_bare else ' --no-wait'}` starts it"
    has_layers = vm.settings.boolean("VM_USE_SNAPSHOTS")
    disk = vm.settings.text("VM_SNAPSHOT_SEEDFILENAME") if has_layers else own_disk.disk_name(vm)
    place = os.path.normpath(os.path.join(where, disk))
    return (
        f"there is nothing to start yet: put an installed system there as {place}, then "
        f"`{go}qvm {'init` and `qvm ' if has_layers else ''}start`; or `{go}qvm config edit` names "
        "something else (VM_CDROM, VM_KERNEL)"
    )
