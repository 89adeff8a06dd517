"""`qvm create`: create a machine's directory from an image."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.io import QUIET
from qvmsh.machine.reports import Steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.io import Io


@command(group="daily")
def create(
    name: Annotated[str, Opt(complete="dir")],
    *,
    image: Annotated[str, Opt("-i", metavar="tiny|FILE", complete="image")] = "tiny",
    mem: Annotated[str | None, Opt("-m", metavar="MIB")] = None,
    cpus: Annotated[int | None, Opt(metavar="N")] = None,
    user: Annotated[str | None, Opt(metavar="ACCOUNT")] = None,
    id: Annotated[str | None, Opt(metavar="NN")] = None,
    io: Io = QUIET,
) -> Steps:
    """Create a machine: a directory with .vmrc, base image and empty overlay.

    The image is copied, so the original may be deleted; an overlay is copied with all its backing
    files. The built-in image `tiny` is built if it does not exist yet; a machine created from it gets
    an ssh key of its own.

    Args:
        name: the new directory; its last part is the machine's name.
        image: a built-in image, or an image file of an installed system (qcow2, raw, vmdk, ...).
        mem: guest memory in MiB, or with a unit such as 2G (256 for tiny, else 1024).
        cpus: number of vcpus.
        user: account in the guest that ssh logs in to.
        id: VM_MACHINE_ID, two digits (default: one that no known machine has).

    Raises:
        UsageError: the directory already contains something.
        ImageError: the image cannot be used. Nothing is left behind.
    """
    import os

    from qvmsh.config.words import quote
    from qvmsh.machine.create import create

    wish = create.Wish(
        image=image, memory=None if mem is None else str(mem), cpus=cpus, user=user, machine_id=id
    )
    vm = create.create(name, wish, io, os.environ)
    where = os.path.relpath(vm.directory)
    go = "" if where == "." else f"cd {quote(where)} && "
    return Steps(
        vm.name, [f"created from {image} in {where}", f"`{go}qvm start` starts it"], directory=vm.directory
    )
