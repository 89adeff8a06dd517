"""`qvm restart`: stop, then start."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.machine.reports import Restarted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.machine.machine import Machine


@command(group="daily", words="machines")
def restart(
    vm: Machine,
    *,
    nat: Annotated[bool, Opt("-n", "--use-nat")] = False,
    base_only: Annotated[bool, Opt("-b")] = False,
    disposable: bool = False,
    force: Annotated[bool, Opt("-f")] = False,
    timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None,
    ssh_attempts: Annotated[int | None, Opt("-s", metavar="N")] = None,
    wait: bool = True,
) -> Restarted:
    """Power the machine off, start it again with a new QEMU, and wait until its guest answers.

    So a changed configuration takes effect; `reboot` keeps QEMU. A machine that does not run is
    started. Kept are the ssh port, if it is free, and `--disposable` and `--base-only` of the run
    before. What would stop the start is found before anything is powered off.

    Args:
        nat: user mode networking, whatever the configuration says.
        base_only: run the base image, without the overlay.
        disposable: all changes of the new run vanish when it stops.
        force: if the guest does not power off, end QEMU: QMP quit, SIGTERM, SIGKILL.
        timeout: seconds for the polite ways to power off together (VM_SHUTDOWN_TIMEOUT).
        ssh_attempts: how often ssh is tried, 2 s each (VM_SSH_ATTEMPTS).
        wait: False: return as soon as the new QEMU runs, without waiting for the guest.

    Raises:
        ConfigError, ImageError: it could not be started again; it runs on as it is.
        DeadlineError: the guest did not power off, or the new one did not answer; it is left running.
        LaunchError: it is powered off, and the new QEMU ended at once.
    """
    from qvmsh.machine.power import start as lifecycle

    return lifecycle.restart(
        vm,
        lifecycle.Request(base_only=base_only, disposable=disposable),
        force=force,
        timeout_s=timeout,
        ssh_attempts=ssh_attempts,
        is_waiting=wait,
    )
