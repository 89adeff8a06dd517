"""`qvm pause`: pause the guest."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.power.reports import Paused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="machines")
def pause(vm: BaseMachine) -> Paused:
    """Pause the guest: QEMU stops its vcpus (QMP `stop`).

    The guest notices only the missing time. `resume` resumes it and corrects its clock.

    Raises:
        StateError: the machine is not running. Nothing changed.
    """
    from qvmsh.machine.power import pause as power_pause

    return power_pause.pause(vm)
