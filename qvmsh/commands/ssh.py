"""`qvm ssh`: a command or a login shell in the guest."""

from __future__ import annotations

from qvmsh.commands._define import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands._define import Opt
    from qvmsh.machine.machine import Machine


@command(group="guest", words="rest", terminal=True)
def ssh(
    vm: Machine,
    *words: str,
    tty: Annotated[bool, Opt("-t")] = False,
) -> str:
    """Run a command in the guest over ssh, or a login shell.

    One cached connection serves all calls. As ssh does, the words are joined by spaces and read
    by the guest's shell. The exit status is the guest command's own; 125 if the guest cannot be
    reached. In Python the command's output is returned, and a failing one raises.

    Args:
        words: the command; none opens a login shell.
        tty: give the command a terminal, even if it is not a login shell.

    Raises:
        StateError: the machine is not running.
        GuestUnreachableError: ssh cannot log in; the text says why.
        CommandError: (Python) the command failed, with its status and its standard error.
    """
    from qvmsh.machine import remote

    return remote.shell(vm, words, wants_tty=tty)
