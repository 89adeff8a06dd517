"""`qvm img build` and `qvm img list`: the guests that qvm builds itself.

qvm img build tiny
qvm img build tiny -o /srv/images/tiny.qcow2
qvm img list
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from qvmsh.commands._define import Opt, command
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
    """Build one of qvm's own guests from Debian packages, as any user.

    The image is kept in the user's cache and used again; `qvm create --image NAME` copies it from
    there (and builds it, if need be). It needs apt with a Debian repository, e2fsprogs and
    qemu-img on the host, and changes nothing outside the cache.

    Args:
        name: the guest: tiny.
        refresh: fetch the package lists anew, and build again if there are newer packages.
        output: copy the image to this file too, for a host that has no apt (`--image FILE`).

    Returns:
        The image's path, its size, the packages in it.

    Raises:
        UsageError: no guest has this name, or the output file is there already.
        MissingProgramError: apt or another program is not installed.
        QvmError: apt, the network, the disk or a tool failed; what the cache held is still there.
    """
    from qvmsh.images import builtin

    if output is not None:
        builtin.check_output(output)
    built = builtin.build(name, io, refresh=refresh)
    return built if output is None else builtin.copy_out(built, output, io)


@command(group="images", name="img list")
def img_list(*, io: Io = QUIET) -> Listing:
    """List qvm's own guests: which are built, how large, where.

    Returns:
        One line a guest.
    """
    from qvmsh.images import builtin

    return builtin.listing()
