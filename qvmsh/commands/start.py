"""`qvm start`: launch QEMU in the background and wait until the guest answers."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.power.reports import Started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="machines")
def start(
    vm: BaseMachine,
    *,
    nat: Annotated[bool, Opt("-n", "--use-nat")] = False,
    base_only: Annotated[bool, Opt("-b")] = False,
    disposable: bool = False,
    encapsulate: Annotated[bool, Opt("-e")] = False,
    force: bool = False,
    loadvm: Annotated[str | None, Opt("-l", metavar="NAME", complete="snapshot")] = None,
    ssh_attempts: Annotated[int | None, Opt("-s", metavar="N")] = None,
    wait: bool = True,
) -> Started:
    """Start the machine and wait until its guest answers ssh.

    Without ssh (`VM_READY=none`, or no network) it returns as soon as QEMU runs.

    QEMU runs in the background, in a session of its own: it survives this terminal. Ctrl-C while
    waiting ends the machine that this call started. If the deadline passes, the machine keeps
    running and the error says how far it got.

    Args:
        nat: use user mode networking regardless of the configuration.
        base_only: run the base image, without the overlay.
        disposable: discard all changes when the machine stops.
        encapsulate: show the screen as text in a session of tmux or screen (VM_QEMU_DISPLAY=curses).
        force: start even if the guest's images back other images; with --loadvm, even if the hardware
            has changed (a state that cannot be loaded is undone).
        loadvm: resume from this saved state (`stop --savevm`).
        ssh_attempts: number of ssh attempts, 2 s each (VM_SSH_ATTEMPTS).
        wait: False: return as soon as QEMU runs, without waiting for the guest.

    Raises:
        StateError: the machine is running already, or in use by another command; the saved state
            is missing, or does not fit.
        QmpError: the state could not be loaded. The disks did not change, and nothing runs.
        LaunchError: QEMU ended; the details hold its output.
        DeadlineError: the guest did not answer in time. The machine keeps running.
    """
    from qvmsh.machine.power import start
    from qvmsh.machine.power.request import Request

    return start.start(
        vm,
        Request(
            base_only=base_only,
            disposable=disposable,
            is_encapsulated=encapsulate,
            is_forced=force,
            loadvm=loadvm,
        ),
        ssh_attempts=ssh_attempts,
        is_waiting=wait,
    )
