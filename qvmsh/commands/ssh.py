"""`qvm ssh`: run a command or a login shell in the guest."""

from __future__ import annotations

from qvmsh.commands import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.guest.result import Result
    from qvmsh.machine.machine import BaseMachine


@command(group="guest", words="rest", terminal=True)
def ssh(
    vm: BaseMachine,
    *words: str,
    tty: Annotated[bool, Opt("-t")] = False,
    timeout: Annotated[float | None, Opt(is_python=True)] = None,
    input: Annotated[str | bytes | None, Opt(is_python=True)] = None,  # as in `subprocess`
    check: Annotated[bool, Opt(is_python=True)] = True,
) -> Result:
    """Run a command in the guest over ssh, or a login shell.

    All calls share cached connections. As with ssh, the words are joined by spaces and read by the
    guest's shell. The exit status is that of the guest's command; 125 if the guest cannot be
    reached, or the command's status is unknown. In the background the terminal is not read.
    In Python the result is returned as by `exec`: a string with `stderr`, `status` and more; a failing
    command raises.

    Args:
        words: the command; none opens a login shell.
        tty: give the command a terminal, even if it is not a login shell.
        timeout: (Python) seconds that it may take; it may still run in the guest afterwards.
        input: (Python) the command's standard input; nothing by default.
        check: (Python) raise if the exit status is not 0.

    Raises:
        StateError: the machine is not running.
        GuestUnreachableError: ssh cannot log in, or the exit status is unknown; the text says why.
        CommandError: (Python) the command failed, with its status and its standard error.
        DeadlineError: (Python) `timeout` passed.
    """
    from qvmsh.machine.guest.transports import ssh as remote

    return remote.shell(vm, words, wants_tty=tty, timeout_s=timeout, data=input, is_checked=check)
