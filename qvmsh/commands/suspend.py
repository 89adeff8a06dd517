"""`qvm suspend`: suspend the guest."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.power.reports import Suspended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="machines")
def suspend(
    vm: BaseMachine, *, timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None
) -> Suspended:
    """Suspend the guest (ACPI S3) and wait until it is suspended.

    ssh, else the guest agent, asks the guest. `wakeup` wakes it; `stop --savevm` also saves it.

    Args:
        timeout: seconds that it may take (60).

    Raises:
        StateError: the machine is not running, or neither ssh nor the agent answers. Nothing changed.
        DeadlineError: the guest was asked but did not suspend. It keeps running.
    """
    from qvmsh.machine.power import suspend

    return suspend.suspend(vm, timeout_s=timeout)
