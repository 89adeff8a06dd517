"""`qvm allow`: accept the files that decide what the machine runs."""

from __future__ import annotations

from qvmsh.commands import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.settings.config import Allowed


@command(group="configuration")
def allow(vm: BaseMachine) -> Allowed:
    """Accept the files that decide what runs: .vmrc and .qvmrc.xsh.

    If the directory, the `.vmrc` or a file that VM_INCLUDE names belongs to another account, nothing
    starts before you accept it. Until you accept the files or start the machine with them, commands
    that only look run no program of VM_QEMU_BIN, VM_QEMU_IMG or VM_SSH_OPTIONS, even in your own
    directory. The shell loads a `.qvmrc.xsh` only if it was accepted. Root does not even read a
    `.vmrc` that another account owns or can write. A changed file must be accepted again. Read it
    first: it decides what runs with your rights.
    """
    from qvmsh.machine.settings import config as configuration

    return configuration.allow(vm)
