"""`qvm wakeup`: wake a suspended guest."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.power.reports import Woken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="machines")
def wakeup(
    vm: BaseMachine,
    *,
    wait: bool = True,
    timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None,
) -> Woken:
    """Wake a suspended guest (QMP `system_wakeup`) and wait for its ssh.

    Without ssh (`VM_READY=none`, or no network) it returns at once.
    On q35, qvm restores the power registers that the firmware loses, so it can suspend again.

    Args:
        wait: False: return at once, without waiting for ssh.
        timeout: seconds that ssh may take (VM_SSH_ATTEMPTS, 2 s each).

    Raises:
        StateError: the guest is not suspended. Nothing changed.
        DeadlineError: the guest is awake but does not answer. It keeps running.
    """
    from qvmsh.machine.power import suspend

    return suspend.wakeup(vm, is_waiting=wait, timeout_s=timeout)
