"""`qvm import`: a machine from a package."""

from __future__ import annotations

from qvmsh.commands import Opt, command
from qvmsh.io import QUIET
from qvmsh.machine.shelf.package_reports import Imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.io import Io


@command(group="images", name="import")
def import_package(
    file: Annotated[str, Opt(metavar="FILE|-", complete="file")],
    name: Annotated[str | None, Opt(complete="dir")] = None,
    *,
    keep_identity: bool = False,
    io: Io = QUIET,
) -> Imported:
    """Make a machine from a package: all of it, or nothing.

    Takes packages of `qvm export`, of S2E's `ctl vm export`, and a machine's directory that was packed by
    `tar`; how it is compressed is seen from its content. Checksums are verified, and what could write
    or read outside the new directory is refused. The machine gets an identity of its own, as with
    `restore`.

    A package may come from anybody. What its settings would run, or open outside the machine's
    directory, is listed, and has no effect before `qvm allow`; until then such a machine does not
    start.

    Args:
        file: the package; `-` for standard input.
        name: the new directory; its last part is the machine's name (default: the package's name).
        keep_identity: keep UUID, VM_MACHINE_ID and MAC address; the UUID only if no known machine has it.

    Raises:
        StateError: the directory exists.
        ImageError: the package is damaged, or holds what it must not hold. Nothing of it is left.
    """
    import os

    from qvmsh.machine.shelf import import_

    return import_.import_package(file, name, io, os.environ, keeps_identity=keep_identity)
