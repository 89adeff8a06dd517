"""`qvm stop`: power the guest off, or save its state."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.errors import UsageError
from qvmsh.machine.power.reports import Rebooted, Saved, Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="machines", aliases=("shutdown",))
def stop(
    vm: BaseMachine,
    *,
    savevm: Annotated[
        str | None,
        Opt("-s", "--vm-save", metavar="NAME", complete="snapshot", excludes=("poweroff", "reboot", "force")),
    ] = None,
    suspend: Annotated[bool, Opt("-n", "--nosuspend")] = True,
    unmount_shares: Annotated[bool, Opt(excludes=("poweroff", "reboot", "force"))] = False,
    poweroff: Annotated[bool, Opt("-p", excludes=("reboot",))] = False,
    reboot: Annotated[bool, Opt("-r")] = False,
    force: Annotated[bool, Opt("-f")] = False,
    timeout: Annotated[float | None, Opt("-t", metavar="SECONDS")] = None,
) -> Stopped | Saved | Rebooted:
    """Power the machine off and wait until it has ended; or save its state.

    Tried in this order, sharing the time: the guest agent, `poweroff` over ssh, the ACPI power
    button. A guest that does not react keeps running, unless `--force` is given.
    With `--savevm` the guest is suspended, memory and disks are saved as a snapshot, and QEMU
    ends; `start --loadvm` resumes from there.

    Args:
        savevm: save the state under this name instead of powering off.
        suspend: False: with --savevm, save the guest without suspending it first.
        unmount_shares: with --savevm, unmount and unplug the shares (VM_SHARE) first; `start --loadvm`
            plugs and mounts them again.
        poweroff: power off (the default; `vm` required the option).
        reboot: reboot the guest instead (as the verb `reboot`).
        force: if nothing else works, end QEMU: QMP quit, SIGTERM, SIGKILL.
        timeout: seconds for the guest to power off (VM_SHUTDOWN_TIMEOUT), or with --savevm to
            suspend (60).

    Raises:
        StateError: the machine is not running, or the guest refuses to suspend. Nothing changed.
        DeadlineError: the guest did not power off or suspend. It is still running.
        QmpError: QEMU could not save the state. The guest keeps running.
    """
    from qvmsh.machine.power import stop

    if savevm is not None:
        took = stop.save(vm, savevm, has_suspend=suspend, unmounts=unmount_shares, timeout_s=timeout)
        return Saved(vm.name, savevm, *took)
    if unmount_shares:
        raise UsageError(
            "stop: --unmount-shares requires --savevm NAME",
            hint="a guest that powers off unmounts all itself",
        )
    if not (suspend or poweroff or reboot):  # `vm` accepted it with those two
        raise UsageError(
            "stop: --no-suspend requires --savevm NAME", hint="`qvm stop` alone powers off and saves nothing"
        )
    if reboot:
        from qvmsh.machine.power import reboot as power_reboot

        return Rebooted(
            vm.name, *power_reboot.reboot(vm, force=force, timeout_s=stop.patience_s(vm, timeout))
        )
    return Stopped(vm.name, *stop.stop(vm, force=force, timeout_s=stop.patience_s(vm, timeout)))
