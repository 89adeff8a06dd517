"""`qvm ssh-config`: guests for plain ssh, scp, rsync and other programs."""

from __future__ import annotations

from qvmsh.commands import Opt, command
from qvmsh.io import QUIET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.io import Io
    from qvmsh.machine.guest.ssh_config import Blocks
    from qvmsh.machine.guest.ssh_install import Installed
    from qvmsh.machine.machine import BaseMachine


@command(group="guest", name="ssh-config")
def ssh_config(
    vm: BaseMachine | None,
    *machines: Annotated[str, Opt(complete="machine")],
    install: bool = False,
    yes: Annotated[bool, Opt("-y")] = False,
    connect: Annotated[bool, Opt(excludes=("install", "yes"))] = False,
    io: Io = QUIET,
) -> Blocks | Installed | None:
    """Print Host blocks of ssh_config for machines.

    In a file they serve `ssh -F FILE NAME`, scp, rsync, Ansible, editors. The machines may be off, and get
    other ports later: a block asks qvm for the connection. Only the machine's own host key is accepted.

    Args:
        machines: names of known machines, or directories (default: the one here).
        install: write the blocks to a file of qvm's instead, and one line that includes it into
            ~/.ssh/config, after asking.
        yes: do not ask.
        connect: connect the program that calls this with the guest: what the blocks use.

    Raises:
        UsageError: there is no such machine; two have one name; there is no terminal to ask on.
        ConfigError: a machine's files were not accepted.
        StateError: (connect) the machine is not running.
    """
    import os

    from qvmsh.config import locate
    from qvmsh.machine import registry
    from qvmsh.machine.guest import ssh_config as blocks
    from qvmsh.machine.machine import BaseMachine

    environ = os.environ if vm is None else vm.environ
    found = [BaseMachine(registry.resolve(word, environ), environ=environ, io=io) for word in machines]
    if not found:  # which says why there is none
        found = [vm or BaseMachine(locate.find(None, os.environ, os.getcwd()), io=io)]
    if connect:
        blocks.connect(found[0])
        return None
    made = blocks.blocks(found)
    if not install:
        return made
    from qvmsh.machine.guest import ssh_install

    return ssh_install.install(made.hosts, io, environ, is_sure=yes)
