"""`qvm img build` and `qvm img list`: the built-in guest images.

qvm img build tiny
qvm img build tiny -o /srv/images/tiny.qcow2
qvm img list
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from qvmsh.commands import Opt, command
from qvmsh.io import QUIET, Io

if TYPE_CHECKING:
    from qvmsh.images.reports import Built, Listing


@command(group="images", name="img build")
def img_build(
    name: Annotated[str, Opt(complete="builtin")],
    *,
    refresh: bool = False,
    output: Annotated[str | None, Opt("-o", metavar="FILE", complete="file")] = None,
    io: Io = QUIET,
) -> Built:
    """Build a built-in image from Debian packages, without root.

    The image is kept in the user's cache; `qvm create --image NAME` copies it from there (and builds
    it if necessary). Building needs apt with a Debian repository, e2fsprogs and qemu-img on the host,
    and changes nothing outside the cache.

    Args:
        name: the image: tiny.
        refresh: fetch the package lists again, and rebuild if there are newer packages.
        output: also copy the image to this file, for a host without apt (`--image FILE`).

    Returns:
        The image's path, its size, the packages in it.

    Raises:
        UsageError: there is no such image, or the output file already exists.
        MissingProgramError: apt or another program is not installed.
        QvmError: apt, the network, the disk or a tool failed. The cache did not change.
    """
    from qvmsh.images import builtin

    if output is not None:
        builtin.check_output(output)
    built = builtin.build(name, io, refresh=refresh)
    return built if output is None else builtin.copy_out(built, output, io)


@command(group="images", name="img list")
def img_list(*, io: Io = QUIET) -> Listing:
    """List the built-in images: built or not, size, path.

    Returns:
        One line per image.
    """
    from qvmsh.images import builtin

    return builtin.listing()
