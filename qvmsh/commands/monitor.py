"""`qvm monitor`: a dialogue with QEMU's monitor."""

from __future__ import annotations

from qvmsh.commands._define import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import Machine
    from qvmsh.machine.reports import Ended


@command(group="monitor", words="machines", terminal=True)
def monitor(
    vm: Machine,
    *,
    qmp: bool = False,
) -> Ended:
    """Talk with QEMU's monitor; Ctrl-D leaves, and the machine runs on.

    Lines are HMP, the commands for people, or with --qmp the commands for programs, as
    `device_del id=net0` or as JSON. Tab completes commands and their arguments as the running QEMU
    has them; the lines of earlier sessions are kept; events are shown as they come. In a pipe each
    line of standard input is executed and its answer printed; the exit status is 1 if one failed.

    Args:
        qmp: talk QMP instead of HMP.

    Raises:
        StateError: the machine is not running.
        QmpError: QEMU does not answer.
    """
    from qvmsh.machine.reports import Ended
    from qvmsh.machine.terminal import monitor as dialogue

    return Ended(vm.name, dialogue.hold(vm, has_qmp=qmp))
