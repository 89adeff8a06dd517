"""`use`: switch the shell to another machine."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.errors import UsageError
from qvmsh.io import QUIET
from qvmsh.machine.overview.session import Used

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.io import Io


@command(group="shell")
def use(where: Annotated[str, Opt(complete="machine")], *, io: Io = QUIET) -> Used:
    """Switch this shell to another machine.

    `vm`, `settings`, `guest`, the prompt and `$VM_...` change, and the shell changes to the machine's
    directory. No value of the previous machine stays in the environment.

    Args:
        where: the machine's directory, or the name of a known machine.

    Raises:
        UsageError: this is not a shell, or there is no such machine. Nothing changed.
        ConfigError: the machine's configuration has problems. Nothing changed.
    """
    if io.session is None:
        raise UsageError(
            "use: cannot switch machines outside a shell", hint=f"`qvm -C {where} sh` opens one there"
        )
    vm = io.session.use(where)
    return Used(vm.name, vm.directory)
