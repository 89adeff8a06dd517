"""An ssh connection for one command, with options of its own: `qvm ssh -A -L -R -D -o`.

    with opened(vm, link, ["-L8080:localhost:80"], interactive=False, timeout_s=15.0) as own:
        own.command(["uname"], tty=False)           # ports stay open until the block ends

A cached connection was made with other options; and ports, or the agent, that are for one command must not be
there for the next. What is tried for the host key is the same.
"""

from __future__ import annotations

import contextlib
import itertools
import os

from qvmsh.config import ssh_options
from qvmsh.errors import QvmError, UsageError
from qvmsh.host import files, locks, ssh_check
from qvmsh.io import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qvmsh.host.ssh_connection import Link
    from qvmsh.machine.machine import BaseMachine

FIRST_BYTE = 1000
"""Of the locks on the connections; those before it are of the cached ones."""
STOP = ("-o", "ExitOnForwardFailure=yes")


@contextlib.contextmanager
def opened(
    vm: BaseMachine, link: Link, options: Sequence[str], *, interactive: bool, timeout_s: float
) -> Iterator[Link]:
    """A connection with these options, until the block ends.

    Raises:
        UsageError: ssh does not take them.
        QvmError: there is no agent to forward.
        Refused: ssh could not log in, or could not open a port.
    """
    _require_sound(vm, options)
    twin = link.twin()
    twin.options = (*options, *STOP, *link.options)
    twin.is_own = True
    fd = files.opened(os.path.join(link.folder, "taken"), os.O_RDWR | os.O_CREAT)
    try:
        number = next(each for each in itertools.count() if locks.take_byte(fd, FIRST_BYTE + each))
        twin.private = f"p{number}"  # the name of a socket must be short
        twin.end()  # of a call that was killed
        try:
            twin.log_in(interactive=interactive, timeout_s=timeout_s)
        finally:
            if twin.is_verbose:
                tell(vm.io.stderr, twin.words_in(twin.log))
        yield twin
    finally:
        if twin.private:
            twin.end()
            files.remove(twin.log)
        os.close(fd)


def _require_sound(vm: BaseMachine, options: Sequence[str]) -> None:
    """Refuse what ssh does not take, before anything is sent."""
    try:
        ssh_options.require_allowed(options)
    except ValueError as error:
        raise UsageError(f"ssh: -o {error}", machine=vm.name) from None
    wrong = ssh_check.complaint(options)
    if wrong:
        raise UsageError(f"ssh: {wrong}", machine=vm.name, hint="`man ssh`, `man ssh_config` describe them")
    if "-A" in options and not os.environ.get("SSH_AUTH_SOCK"):
        raise QvmError(
            "there is no ssh agent to forward: SSH_AUTH_SOCK is not set",
            machine=vm.name,
            hint='`eval "$(ssh-agent)"; ssh-add` starts one',
        )
