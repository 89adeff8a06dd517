"""`qvm pause`: hold the guest where it is."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.machine.reports import Paused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import Machine


@command(group="daily", words="machines")
def pause(vm: Machine) -> Paused:
    """Hold the guest where it is: QEMU stops its vcpus (QMP `stop`).

    The guest notices nothing but the time that is missing. `resume` lets it go on, and puts its clock right.

    Raises:
        StateError: it does not run; it is as it was.
    """
    from qvmsh.machine.power import suspend as holding

    return holding.pause(vm)
