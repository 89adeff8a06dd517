"""`qvm resume`: resume a paused guest."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.power.reports import Paused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="machines")
def resume(vm: BaseMachine) -> Paused:
    """Resume a paused guest (QMP `cont`).

    Raises:
        StateError: the guest is not paused or must not be resumed. Nothing changed.
    """
    from qvmsh.machine.power import pause as power_pause

    return power_pause.resume(vm)
