"""`qvm exec`: run a command in the guest, over whatever way leads there."""

from __future__ import annotations

from qvmsh.commands import Opt, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.machine.guest.result import Result
    from qvmsh.machine.machine import BaseMachine


@command(group="guest", words="rest", terminal=True, name="exec")
def execute(
    vm: BaseMachine,
    *words: str,
    shell: Annotated[str | None, Opt("-s", metavar="LINE")] = None,
    via: Annotated[str | None, Opt(metavar="WAY,...")] = None,
    timeout: Annotated[float | None, Opt(metavar="SECONDS")] = None,
    user: Annotated[str | None, Opt("-u", metavar="ACCOUNT")] = None,
    env: Annotated[tuple[str, ...], Opt("-e", metavar="NAME=VALUE")] = (),
    cwd: Annotated[str | None, Opt(metavar="DIR")] = None,
    interactive: Annotated[bool, Opt("-i")] = False,
    input: Annotated[str | bytes | None, Opt(is_python=True)] = None,  # as in `subprocess`
    check: Annotated[bool, Opt(is_python=True)] = False,
) -> Result:
    """Run a command in the guest, over the first way that leads there.

    The ways are ssh, the guest agent, and the serial console. The words arrive as they are, byte by
    byte: no shell of the guest reads them, so blanks, quotes and `*` mean themselves. The exit status
    is the command's own; 125 if no way leads into the guest, or the status is unknown. In Python the
    result is returned: a string, true if the command succeeded, with `status`, `stderr`, `lines`,
    `json()`, `check()` and `via`, the way that was used.

    Args:
        words: the program and its arguments.
        shell: a line for the guest's shell instead of words.
        via: the ways that may be used, in this order: `ssh`, `agent`, `serial`.
        timeout: seconds that it may take, with the way to the guest.
        user: the account in the guest (default: that of ssh; the agent's is mostly root).
        env: a variable for the command; may be given several times.
        cwd: the directory in the guest.
        interactive: it reads standard input, and gets a terminal where that is one.
        input: (Python) the command's standard input; nothing by default.
        check: (Python) raise if the exit status is not 0.

    Raises:
        StateError: the machine is not running, or its guest is held.
        GuestUnreachableError: no way leads into the guest, or the exit status is unknown.
        CommandError: (Python, `check`) the command failed.
        DeadlineError: `timeout` passed.
    """
    from qvmsh.machine.guest import execute as remote
    from qvmsh.machine.guest import wish as wishes

    data = input.encode(errors="surrogateescape") if isinstance(input, str) else input
    ways = wishes.WAYS if via is None else tuple(via.split(","))
    done = remote.execute(
        vm,
        wishes.Wish(words, shell, ways, timeout, user, env, cwd, data, is_interactive=interactive),
    )
    return done.check() if check else done
