"""`qvm dryrun`: show QEMU's command line without running it."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.reports import CommandLine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="configuration", words="qemu")
def dryrun(
    vm: BaseMachine, *arguments: str, foreground: bool = False, base_only: Annotated[bool, Opt("-b")] = False
) -> CommandLine:
    """Show QEMU's command line, one option per line, ready to paste.

    Args:
        arguments: additional arguments for QEMU, as for `run`.
        foreground: the command line of `run` instead of `start`.
        base_only: with the base image, without the overlay.
    """
    from qvmsh.machine.power import start
    from qvmsh.machine.power.request import Request

    return start.dry_run(vm, Request(base_only=base_only, extra=arguments), is_foreground=foreground)
