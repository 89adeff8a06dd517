"""`qvm ssh`: run a command or a login shell in the guest, or let a key in."""

from __future__ import annotations

from qvmsh.commands import Opt, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.machine.guest.result import Result
    from qvmsh.machine.machine import BaseMachine


@command(group="guest", words="rest", terminal=True)
def ssh(
    vm: BaseMachine,
    *words: str,
    tty: Annotated[bool, Opt("-t")] = False,
    agent: Annotated[bool, Opt("-A")] = False,
    local: Annotated[tuple[str, ...], Opt("-L", metavar="[ADDRESS:]PORT:HOST:PORT")] = (),
    remote: Annotated[tuple[str, ...], Opt("-R", metavar="[ADDRESS:]PORT:HOST:PORT")] = (),
    dynamic: Annotated[tuple[str, ...], Opt("-D", metavar="[ADDRESS:]PORT")] = (),
    option: Annotated[tuple[str, ...], Opt("-o", metavar="KEY=VALUE")] = (),
    copy_id: Annotated[bool, Opt(excludes=("tty", "agent", "local", "remote", "dynamic", "option"))] = False,
    timeout: Annotated[float | None, Opt(is_python=True)] = None,
    input: Annotated[str | bytes | None, Opt(is_python=True)] = None,  # as in `subprocess`
    check: Annotated[bool, Opt(is_python=True)] = True,
) -> Result:
    """Run a command in the guest over ssh, or a login shell.

    All calls share cached connections. As with ssh, the words are joined by spaces and read by the
    guest's shell. The exit status is that of the guest's command; 125 if the guest cannot be
    reached, or the command's status is unknown. In the background the terminal is not read.
    A call with -A, -L, -R, -D or -o has a connection to itself; `forward` keeps ports open.
    In Python the result is returned as by `exec`: a string with `stderr`, `status` and more; a failing
    command raises.

    Args:
        words: the command; none opens a login shell. With --copy-id: a file with the key.
        tty: give the command a terminal, even if it is not a login shell.
        agent: let the guest use your ssh agent.
        local: a port of this host that leads to HOST:PORT as the guest sees it.
        remote: a port of the guest that leads to HOST:PORT as this host sees it.
        dynamic: a port of this host for programs that speak SOCKS.
        option: an option as in ssh_config.
        copy_id: let a public key log in (default: that of VM_SSH_IDENTITY, else yours): over ssh, perhaps
            with a password; else by the guest agent; else on the serial console.
        timeout: (Python) seconds that it may take; it may still run in the guest afterwards.
        input: (Python) the command's standard input; nothing by default.
        check: (Python) raise if the exit status is not 0.

    Raises:
        StateError: the machine is not running.
        UsageError: ssh does not take these options; the key's file holds none.
        GuestUnreachableError: ssh cannot log in, or the exit status is unknown; the text says why.
        CommandError: (Python) the command failed, with its status and its standard error.
        DeadlineError: (Python) `timeout` passed.
    """
    if copy_id:
        from qvmsh.machine.guest import copy_id as keys

        return keys.copy(vm, words)
    from qvmsh.machine.guest.transports import ssh as remote_shell

    options = [
        *(["-A"] if agent else []),
        *(word for each in local for word in ("-L", _here(each))),
        *(word for each in remote for word in ("-R", each)),
        *(word for each in dynamic for word in ("-D", _here(each))),
        *(word for each in option for word in ("-o", each)),
    ]
    return remote_shell.shell(
        vm, words, wants_tty=tty, timeout_s=timeout, data=input, is_checked=check, options=options
    )


def _here(forward: str) -> str:
    """A forward with its address; ssh would be content with ::1 where another program has the port."""
    return f"127.0.0.1:{forward}" if forward.partition(":")[0].isdecimal() else forward
