"""`qvm stop`: power the guest off politely, or save its state; and say what worked."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.errors import UsageError
from qvmsh.machine.reports import Rebooted, Saved, Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.machine.machine import Machine


@command(group="daily", words="machines", aliases=("shutdown",))
def stop(
    vm: Machine,
    *,
    savevm: Annotated[
        str | None,
        Opt("-s", "--vm-save", metavar="NAME", complete="snapshot", excludes=("poweroff", "reboot", "force")),
    ] = None,
    suspend: Annotated[bool, Opt("-n", "--nosuspend")] = True,
    poweroff: Annotated[bool, Opt("-p", excludes=("reboot",))] = False,
    reboot: Annotated[bool, Opt("-r")] = False,
    force: Annotated[bool, Opt("-f")] = False,
    timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None,
) -> Stopped | Saved | Rebooted:
    """Power the machine off and wait for its end; or save its state.

    Tried in order, each with its share of the time: the guest agent, `poweroff` over ssh, the
    ACPI power button. A guest that does not obey is left running, unless `--force`.
    With `--savevm` the guest is suspended, memory and disks are saved as a snapshot, and QEMU
    ends; `start --loadvm` goes on from there.

    Args:
        savevm: save the state under this name instead of powering off.
        suspend: False: with --savevm, save the guest as it runs, without suspending it first.
        poweroff: power off (what stop does anyway; `vm` asked for the option).
        reboot: reboot the guest instead (as the verb `reboot`).
        force: if nothing else works, end QEMU: QMP quit, SIGTERM, SIGKILL.
        timeout: seconds for the polite ways together (VM_SHUTDOWN_TIMEOUT); with --savevm, those
            that the guest may take to suspend (60).

    Raises:
        StateError: it is not running, or refuses to suspend; it is as it was.
        DeadlineError: the guest did not power off or suspend; it is still running.
        QmpError: QEMU could not save; the guest runs on.
    """
    from qvmsh.machine.power import stop as power

    if savevm is not None:
        return Saved(vm.name, savevm, *power.save(vm, savevm, has_suspend=suspend, timeout_s=timeout))
    if not (suspend or poweroff or reboot):  # `vm` took it with those two
        raise UsageError(
            "stop: --no-suspend belongs to --savevm NAME",
            hint="`qvm stop` alone powers off, and saves nothing",
        )
    if reboot:
        return Rebooted(vm.name, *power.reboot(vm, force=force, timeout_s=power.patience_s(vm, timeout)))
    return Stopped(vm.name, *power.stop(vm, force=force, timeout_s=power.patience_s(vm, timeout)))
