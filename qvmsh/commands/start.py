"""`qvm start`: launch QEMU in the background and wait until the guest answers."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.machine.reports import Started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.machine.machine import Machine


@command(group="daily", words="machines")
def start(
    vm: Machine,
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
    waiting ends the machine that this call began. If the deadline passes, the machine is left
    running and the report says what was already true.

    Args:
        nat: user mode networking, whatever the configuration says.
        base_only: run the base image, without the overlay.
        disposable: all changes vanish when the machine stops.
        encapsulate: show the screen as text in a session of tmux or screen (VM_QEMU_DISPLAY=curses).
        force: although other images stand on those that the guest writes to; with --loadvm although
            the hardware is not that of then: what cannot be loaded is undone.
        loadvm: continue from this saved state (`stop --savevm`).
        ssh_attempts: how often ssh is tried, 2 s each (VM_SSH_ATTEMPTS).
        wait: False: return as soon as QEMU runs, without waiting for the guest.

    Raises:
        StateError: it is running already, or another command is at work on it; the saved state is not
            there, or does not fit.
        QmpError: the state could not be loaded; the disks are as they were, and nothing runs.
        LaunchError: QEMU ended; its own words are in the details.
        DeadlineError: the guest did not answer in time; the machine is left running.
    """
    from qvmsh.machine.power import start as lifecycle

    return lifecycle.start(
        vm,
        lifecycle.Request(
            base_only=base_only,
            disposable=disposable,
            is_encapsulated=encapsulate,
            is_forced=force,
            loadvm=loadvm,
        ),
        ssh_attempts=ssh_attempts,
        is_waiting=wait,
    )
