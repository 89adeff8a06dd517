"""`qvm allow`: accept what the machine's directory would run."""

from __future__ import annotations

from qvmsh.commands._define import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import Machine
    from qvmsh.machine.settings.commands import Allowed


@command(group="configuration")
def allow(vm: Machine) -> Allowed:
    """Accept what the machine's directory would run: .vmrc and .qvmrc.xsh.

    In a directory that belongs to somebody else, or with such a `.vmrc` (or a file that VM_INCLUDE
    names), nothing starts before you have accepted it. Commands that only look run no program of
    VM_QEMU_BIN, VM_QEMU_IMG or VM_SSH_OPTIONS before that, not even in a directory of your own, unless
    you have started the machine as it is. The shell loads a `.qvmrc.xsh` only if it was accepted. Root
    does not even read a `.vmrc` that another account owns or can write. After a change a file must be
    accepted again. Look at it first: it decides what runs in your name.
    """
    from qvmsh.machine.settings import commands as configuration

    return configuration.allow(vm)
