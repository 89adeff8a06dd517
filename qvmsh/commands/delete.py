"""`qvm delete`, `undelete` and `prune`: machines into the trash, out of it, and out of the trash for good."""

from __future__ import annotations

import os

from qvmsh.commands import command
from qvmsh.io import QUIET
from qvmsh.machine.shelf.reports import Deleted, Pruned, Trashed, Undeleted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine


@command(group="images", words="machines")
def delete(vm: BaseMachine, *, now: bool = False, yes: Annotated[bool, Opt("-y")] = False) -> Deleted:
    """Delete the machine: move it into the trash, after asking.

    Only its own files go: configuration, disks in its directory, state, archives. Other files in the
    directory stay, and so do disks elsewhere; both are named. `undelete` takes the machine back,
    `prune` removes what has been in the trash for 30 days. Linked clones go before what they are backed
    by. A word NAME:SNAPSHOT deletes that snapshot of the machine instead.

    Args:
        now: remove it for good instead.
        yes: do not ask.

    Raises:
        StateError: it is not off, protected (VM_PROTECT), or disks of other machines are backed by its own.
        UsageError: there is no terminal to ask on.
    """
    from qvmsh.machine.shelf import delete

    return delete.delete(vm, is_now=now, is_sure=yes)


@command(group="images")
def undelete(
    name: Annotated[str | None, Opt(complete="deleted")] = None, *, list: bool = False, io: Io = QUIET
) -> Undeleted | Trashed:
    """Take a deleted machine back out of the trash, to where it was.

    Where that is on another file system now, the machine is copied.

    Args:
        name: the machine's name; of several with one name the latest. Default: the latest deleted one.
        list: only list what is in the trash, the latest first.

    Raises:
        UsageError: it is not in the trash.
        StateError: something else is in its place.
        QvmError: it cannot be copied; it is still in the trash.
    """
    from qvmsh.machine.shelf import delete

    return delete.in_trash(name, os.environ) if list else delete.undelete(name, os.environ, io)


@command(group="images")
def prune(
    *,
    older: Annotated[float, Opt(metavar="DAYS")] = 30.0,
    yes: Annotated[bool, Opt("-y")] = False,
    io: Io = QUIET,
) -> Pruned:
    """Remove machines from the trash for good, after asking.

    Those on a file system that is not mounted are named, and stay.

    Args:
        older: only those deleted at least DAYS days ago (30); 0 = all.
        yes: do not ask.

    Raises:
        UsageError: there is no terminal to ask on.
    """
    from qvmsh.machine.shelf import delete

    return delete.prune(older, is_sure=yes, environ=os.environ, io=io)
