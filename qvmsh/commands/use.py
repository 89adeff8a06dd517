"""`use`: make another machine the one of the shell."""

from __future__ import annotations

from qvmsh.commands._define import command
from qvmsh.errors import UsageError
from qvmsh.io import QUIET
from qvmsh.machine.overview.session import Used

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.io import Io


@command(group="shell")
def use(where: Annotated[str, Opt(complete="machine")], *, io: Io = QUIET) -> Used:
    """Make another machine the one of this shell.

    `vm`, `settings`, `guest`, the prompt and `$VM_...` follow, and the shell goes to the machine's
    directory. No value of the machine before it stays in the environment.

    Args:
        where: the machine's directory, or the name of a known machine.

    Raises:
        UsageError: this is no shell, or no such machine is known; nothing has changed.
        ConfigError: its configuration is wrong; nothing has changed.
    """
    if io.session is None:
        raise UsageError(
            "use: there is no session whose machine it could change",
            hint=f"`qvm -C {where} sh` opens one there",
        )
    vm = io.session.use(where)
    return Used(vm.name, vm.directory)
