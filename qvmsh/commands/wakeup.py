"""`qvm wakeup`: wake a guest that sleeps."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.machine.reports import Woken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.machine.machine import Machine


@command(group="daily", words="machines")
def wakeup(
    vm: Machine,
    *,
    wait: bool = True,
    timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None,
) -> Woken:
    """Wake a suspended guest and wait until its ssh answers (QMP `system_wakeup`).

    Without ssh (`VM_READY=none`, or no network) it returns at once.
    On q35 its power registers are given back, which the firmware forgets: it can sleep again.

    Args:
        wait: False: return at once, without waiting for ssh.
        timeout: seconds that ssh may take (VM_SSH_ATTEMPTS, 2 s each).

    Raises:
        StateError: it does not sleep; it is as it was.
        DeadlineError: it is awake but does not answer; it is left running.
    """
    from qvmsh.machine.power import suspend as holding

    return holding.wakeup(vm, is_waiting=wait, timeout_s=timeout)
