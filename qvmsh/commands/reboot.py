"""`qvm reboot`: the guest reboots, QEMU stays."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.machine.reports import Rebooted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.machine.machine import Machine


@command(group="daily", words="machines")
def reboot(
    vm: Machine,
    *,
    force: Annotated[bool, Opt("-f")] = False,
    timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None,
) -> Rebooted:
    """Reboot the guest and wait until it answers again.

    QEMU stays; `restart` takes a new one. Asked by the guest agent, else by ssh; with `--force`
    QEMU resets a guest that cannot be asked, does not obey, is paused or has crashed.

    Args:
        force: reset it (QMP `system_reset`), where asking does not help.
        timeout: seconds until the guest must have reset itself (VM_SHUTDOWN_TIMEOUT).

    Raises:
        StateError: it is not running, or nothing in it can be asked.
        DeadlineError: it did not reboot, or did not come back.
    """
    from qvmsh.machine.power import stop as power

    return Rebooted(vm.name, *power.reboot(vm, force=force, timeout_s=power.patience_s(vm, timeout)))
