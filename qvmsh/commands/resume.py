"""`qvm resume`: let a paused guest go on."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.machine.reports import Paused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import Machine


@command(group="daily", words="machines")
def resume(vm: Machine) -> Paused:
    """Let a paused guest go on (QMP `cont`).

    Raises:
        StateError: it is not paused, or must not go on; it is as it was.
    """
    from qvmsh.machine.power import suspend as holding

    return holding.resume(vm)
