"""`qvm env`: the machine's values as `export` lines."""

from __future__ import annotations

from qvmsh.commands import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.settings.config import Environment


@command(group="configuration")
def env(vm: BaseMachine) -> Environment:
    """Print the machine's values as `export` lines for a shell.

    `eval "$(qvm env)"` exports them in the shell and unsets values of another machine. They are
    marked with their machine, so that commands for another machine ignore them.

    Raises:
        ConfigError: the configuration has problems.
    """
    from qvmsh.machine.settings import config as configuration

    return configuration.environment(vm)
