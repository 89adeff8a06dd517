"""`qvm restart`: stop the machine, then start it."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.power.reports import Restarted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="machines")
def restart(
    vm: BaseMachine,
    *,
    nat: Annotated[bool, Opt("-n", "--use-nat")] = False,
    base_only: Annotated[bool, Opt("-b")] = False,
    disposable: bool = False,
    force: Annotated[bool, Opt("-f")] = False,
    timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None,
    ssh_attempts: Annotated[int | None, Opt("-s", metavar="N")] = None,
    wait: bool = True,
) -> Restarted:
    """Power the machine off and start it again with a new QEMU.

    A changed configuration takes effect; `reboot` keeps QEMU. A machine that is off is started. The
    ssh port, if it is free, and `--disposable` and `--base-only` of the previous run are kept.
    Anything that would prevent the start is found before the machine is powered off.

    Args:
        nat: use user mode networking regardless of the configuration.
        base_only: run the base image, without the overlay.
        disposable: discard all changes of the new run when it stops.
        force: if the guest does not power off, end QEMU: QMP quit, SIGTERM, SIGKILL.
        timeout: seconds for the guest to power off (VM_SHUTDOWN_TIMEOUT).
        ssh_attempts: number of ssh attempts, 2 s each (VM_SSH_ATTEMPTS).
        wait: False: return as soon as the new QEMU runs, without waiting for the guest.

    Raises:
        ConfigError, ImageError: it could not be started again. It keeps running.
        DeadlineError: the guest did not power off, or did not answer after the start. It keeps running.
        LaunchError: the machine is off, and the new QEMU ended at once.
    """
    from qvmsh.machine.power import restart as power_restart
    from qvmsh.machine.power.request import Request

    return power_restart.restart(
        vm,
        Request(base_only=base_only, disposable=disposable),
        force=force,
        timeout_s=timeout,
        ssh_attempts=ssh_attempts,
        is_waiting=wait,
    )
