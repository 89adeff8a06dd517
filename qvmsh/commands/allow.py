"""`qvm allow`: accept the machine's own code, and let root use a `.vmrc` that is somebody else's."""

from __future__ import annotations

from qvmsh.commands._define import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.configuration import Allowed
    from qvmsh.machine.machine import Machine


@command(group="configuration")
def allow(vm: Machine) -> Allowed:
    """Accept what the machine's directory would run: .qvmrc.xsh, and for root .vmrc.

    The shell loads a `.qvmrc.xsh` that lies beside the `.vmrc` only with a content that you have
    accepted. Root uses a `.vmrc` (and the files that VM_INCLUDE names) only if root or the user
    behind sudo owns it and nobody else can write it, or has accepted it. After a change a file
    must be accepted anew. Look at it first: it decides what runs in your name.

    Raises:
        UsageError: there is nothing to accept: no `.qvmrc.xsh`, and the caller is not root.
    """
    from qvmsh.machine import configuration

    return configuration.allow(vm)
