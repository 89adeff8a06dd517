"""`qvm rename` and `qvm move`: another name, another place."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.shelf.reports import Moved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="images", words="first")
def rename(vm: BaseMachine, name: str) -> Moved:
    """Give the machine another name.

    Its files and archives are renamed, and its directory if it has the old name. Settings, images and
    links that lead into the directory by its whole path are changed; what cannot be changed is refused.
    `qvm rename NEW` renames the machine here, `qvm rename MACHINE NEW` another one. A renaming that is
    interrupted is completed, or undone, by the machine's next command.

    Args:
        name: the new name.

    Raises:
        StateError: it is not off, disks of other machines are backed by its own, or something in it leads to
            its directory in a way that cannot be changed.
        UsageError: the name cannot be used, or is taken.
    """
    from qvmsh.machine.shelf import rename

    return rename.rename(vm, name)


@command(group="images", words="first")
def move(vm: BaseMachine, directory: Annotated[str, Opt(complete="dir")]) -> Moved:
    """Move the machine to another directory.

    Everything in its directory goes along; also to another file system. Settings, images and links that
    lead into the directory by its whole path are changed; what would mean another file there is refused.
    `qvm move DIR` moves the machine here, `qvm move MACHINE DIR` another one.

    Args:
        directory: the new path; an existing directory gets the machine into it.

    Raises:
        StateError: it is not off, disks of other machines are backed by its own, or something in it would
            mean another file there, or cannot be copied.
        UsageError: something is there already.
    """
    from qvmsh.machine.shelf import move

    return move.move(vm, directory)
