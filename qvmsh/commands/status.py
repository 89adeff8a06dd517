"""`qvm status`: show the machine's state (one-shot path)."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.overview import status as overview_status
from qvmsh.machine.overview.status import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="daily", words="machines")
def status(
    vm: BaseMachine,
    *,
    quiet: Annotated[bool, Opt("-q")] = False,
    ssh_check: Annotated[bool, Opt("-s", "--no-ssh-check", "--no-ssh-fail")] = True,
) -> Status:
    """Show the machine's state; exit status 0 only if the guest is ready.

    Ready means that ssh answers; without ssh (`VM_READY=none`, or no network) that QEMU runs.
    States: stopped, starting, running, paused, suspended, shut down, crashed, broken.
    `-v` and `--json` add all that is known: identity, hardware, QEMU, the guest agent, disks, snapshots,
    sockets, logs.

    Args:
        quiet: print nothing, only set the exit status.
        ssh_check: False: do not check whether ssh answers.
    """
    return overview_status.look(vm, is_quiet=quiet, has_ssh_check=ssh_check)
