"""`qvm cmd`: send one command to QEMU's monitor (one-shot path)."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.machine.monitor import hmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.machine.machine import BaseMachine


@command(group="monitor", words="rest")
def cmd(vm: BaseMachine, *line: Annotated[str, Opt(complete="hmp")]) -> str:
    """Send one line to QEMU's human monitor (HMP) and print the answer.

    All words after the verb are one command: `qvm cmd info block -v`. `qvm cmd help` lists the commands.

    Args:
        line: the monitor command.

    Raises:
        QmpError: the command failed in QEMU.
    """
    return hmp.human_command(vm, " ".join(line))
