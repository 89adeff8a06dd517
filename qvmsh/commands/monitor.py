"""`qvm monitor`: use QEMU's monitor interactively."""

from __future__ import annotations

from qvmsh.commands import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.reports import Ended


@command(group="monitor", words="machines", terminal=True)
def monitor(vm: BaseMachine, *, qmp: bool = False) -> Ended:
    """Use QEMU's monitor interactively; Ctrl-D leaves it.

    Lines are HMP commands, or QMP commands with --qmp: `device_del id=nic0` or JSON. Tab completes
    the commands and arguments of the running QEMU; there is a history across sessions; events are
    shown as they arrive. In a pipe, each line of standard input is executed and its answer printed;
    the exit status is 1 if one failed. Leaving the monitor does not stop the machine.

    Args:
        qmp: use QMP instead of HMP.

    Raises:
        StateError: the machine is not running.
        QmpError: QEMU does not answer.
    """
    from qvmsh.machine.reports import Ended
    from qvmsh.machine.terminal import monitor

    return Ended(vm.name, monitor.hold(vm, has_qmp=qmp))
