"""`qvm run`: run QEMU in the foreground, on this terminal."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.reports import Ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="qemu", terminal=True)
def run(
    vm: BaseMachine,
    *arguments: str,
    nat: Annotated[bool, Opt("-n", "--use-nat")] = False,
    base_only: Annotated[bool, Opt("-b")] = False,
    disposable: bool = False,
    force: bool = False,
    loadvm: Annotated[str | None, Opt("-l", metavar="NAME", complete="snapshot")] = None,
) -> Ended:
    """Run the machine in the foreground.

    QEMU has the terminal. On a desktop it opens a window; otherwise the guest's serial console and
    QEMU's monitor share the terminal (Ctrl-A C switches, Ctrl-A X quits). The exit status is
    QEMU's own.

    Args:
        arguments: additional arguments for QEMU, after VM_QEMU_EXTRA.
        nat: use user mode networking regardless of the configuration.
        base_only: run the base image, without the overlay.
        disposable: discard all changes when the machine stops.
        force: run even if the guest's images back other images; with --loadvm, even if the hardware
            has changed (a state that cannot be loaded is undone).
        loadvm: resume from this saved state (`stop --savevm`).
    """
    from qvmsh.machine.power import run as power_run
    from qvmsh.machine.power.request import Request

    return power_run.run(
        vm,
        Request(base_only=base_only, disposable=disposable, is_forced=force, loadvm=loadvm, extra=arguments),
    )
