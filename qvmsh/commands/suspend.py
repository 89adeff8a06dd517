"""`qvm suspend`: send the guest to sleep."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.machine.reports import Suspended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.machine.machine import Machine


@command(group="daily", words="machines")
def suspend(
    vm: Machine,
    *,
    timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None,
) -> Suspended:
    """Send the guest to sleep (ACPI S3) and wait until it sleeps.

    It is asked by ssh, else by the guest agent. `wakeup` wakes it; `stop --savevm` saves it too.

    Args:
        timeout: seconds that it may take (60).

    Raises:
        StateError: it does not run, or nothing in it can be asked; it is as it was.
        DeadlineError: it was asked but does not sleep; it runs on.
    """
    from qvmsh.machine.power import suspend as holding

    return holding.suspend(vm, timeout_s=timeout)
