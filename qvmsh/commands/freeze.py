"""`qvm freeze` and `qvm thaw`: the guest's file systems stand still for a moment."""

from __future__ import annotations

from qvmsh.commands import Opt, command
from qvmsh.machine.power.reports import Froze, Thawed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.machine.machine import BaseMachine


@command(group="guest", words="machines")
def freeze(vm: BaseMachine, *, timeout: Annotated[float, Opt("-t", metavar="SECONDS")] = 60.0) -> Froze:
    """Freeze the guest's file systems for a limited time.

    The guest agent writes out what the guest holds back, and lets no program write until `qvm thaw`,
    or until the time is over: then they are thawed even if qvm was killed. `qvm freeze 120` is short
    for `qvm freeze --timeout 120`. It is for copies that something else makes; `archive` and
    `snapshot save` freeze the guest themselves. What needs the guest is refused meanwhile; `stop`
    thaws it first.

    Args:
        timeout: seconds after which they are thawed (60).

    Raises:
        StateError: the machine is not running, or its guest is frozen already.
        GuestUnreachableError: there is no guest agent. Nothing is frozen.
        QmpError: the agent refused. Nothing is frozen.
    """
    from qvmsh.machine.power import freeze

    return freeze.freeze(vm, seconds=timeout)


@command(group="guest", words="machines")
def thaw(vm: BaseMachine) -> Thawed:
    """Thaw the guest's file systems that `freeze` has frozen.

    Raises:
        StateError: the machine is not running.
        GuestUnreachableError: there is no guest agent.
        QmpError: the agent refused.
    """
    from qvmsh.machine.power import freeze

    return freeze.thaw(vm)
