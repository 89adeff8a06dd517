"""`qvm reboot`: reboot the guest, keep QEMU."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.power.reports import Rebooted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="machines")
def reboot(
    vm: BaseMachine,
    *,
    force: Annotated[bool, Opt("-f")] = False,
    timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None,
) -> Rebooted:
    """Reboot the guest and wait until it answers again.

    QEMU keeps running; `restart` starts a new one. The guest agent, else ssh, asks the guest to
    reboot. With `--force`, QEMU resets a guest that cannot be asked, does not react, is paused or
    has crashed.

    Args:
        force: reset the guest (QMP `system_reset`) if asking fails.
        timeout: seconds that the guest may take to reset itself (VM_SHUTDOWN_TIMEOUT).

    Raises:
        StateError: the machine is not running, or neither the guest agent nor ssh answers.
        DeadlineError: the guest did not reboot, or does not answer afterwards.
    """
    from qvmsh.machine.power import reboot as power_reboot
    from qvmsh.machine.power.stop import patience_s

    return Rebooted(vm.name, *power_reboot.reboot(vm, force=force, timeout_s=patience_s(vm, timeout)))
