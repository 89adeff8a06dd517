"""`qvm renew`: an identity of its own for a copied machine."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.shelf.reports import Renewed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="images", words="machines")
def renew(vm: BaseMachine, *, yes: Annotated[bool, Opt("-y")] = False) -> Renewed:
    """Give a machine that was copied by hand an identity of its own.

    New are its uuid, its number (VM_MACHINE_ID), its network address and its ports. Its name, its
    disks and what is on them stay. `clone` does this by itself.

    Args:
        yes: do not ask where the machine is no copy of another one.

    Raises:
        StateError: it is not off. Nothing changed.
        UsageError, QvmError: it was not confirmed. Nothing changed.
    """
    from qvmsh.machine.shelf import renew

    return renew.renew(vm, is_sure=yes)
