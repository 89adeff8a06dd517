"""`qvm kill`: end QEMU at once."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.power.reports import Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="machines")
def kill(vm: BaseMachine) -> Stopped:
    """End QEMU at once: QMP quit, then SIGTERM, then SIGKILL.

    Like pulling the plug: the guest loses unwritten data. Only the logs of the run are kept.

    Raises:
        StateError: the machine is not running.
    """
    from qvmsh.machine.work import kill as work

    how, took_s = work.kill(vm)
    return Stopped(vm.name, how, took_s, is_kill=True)
