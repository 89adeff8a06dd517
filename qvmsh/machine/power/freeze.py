"""Freeze and thaw: the guest's file systems stand still, whole on the disk, for a limited time.

For a copy that something else makes: a snapshot of the storage below, a backup of another tool. What qvm
copies (`archive`, `snapshot save`) it freezes itself.
"""

from __future__ import annotations

import time

from qvmsh.errors import DeadlineError, GuestUnreachableError, UsageError
from qvmsh.machine import log, state
from qvmsh.machine.guest import agent, freeze_keeper, frozen
from qvmsh.machine.power.reports import Froze, Thawed
from qvmsh.machine.reports import plural
from qvmsh.machine.work.lock import work_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine

LONGEST_S = 24 * 3600.0


def freeze(vm: BaseMachine, *, seconds: float) -> Froze:
    """Freeze the guest's file systems until `seconds` have passed.

    Raises:
        UsageError: nobody would wait so long.
        StateError: it is not running, or frozen already.
        GuestUnreachableError, DeadlineError, QmpError: its agent cannot do it; nothing is frozen.
    """
    if not 0 < seconds <= LONGEST_S:  # not a number is neither
        raise UsageError(
            f"freeze: --timeout {seconds:g}: must be more than 0, at most {LONGEST_S:.0f} seconds"
        )
    with work_lock(vm, "freeze"):
        pid, note = state.require(vm, state.observe(vm), "freeze", state.RUNNING)
        frozen.require_thawed(vm, "cannot freeze")
        with vm.io.stage("freezing the guest's file systems"):
            count = freeze_keeper.begin(vm, pid, note, seconds)
        found = frozen.of(vm)
        until = found.until if found and found.until else time.time() + seconds
    log.note(vm, f"froze {plural(count, 'file system')} for {seconds:g} s")
    return Froze(vm.name, count, seconds, until)


def thaw(vm: BaseMachine) -> Thawed:
    """Thaw the guest's file systems.

    Raises:
        StateError: it is not running.
        GuestUnreachableError, DeadlineError, QmpError: its agent cannot do it.
    """
    with work_lock(vm, "thaw"):
        _, note = state.require(vm, state.observe(vm), "thaw", state.RUNNING)
        try:
            count = agent.ask(vm, note, "guest-fsfreeze-thaw", timeout_s=frozen.THAW_S)
        except (GuestUnreachableError, DeadlineError) as error:
            if frozen.of(vm) is not None:  # then other ways into the guest are refused
                error.hint = frozen.LOST
            raise
        frozen.end_keeper(vm)
    if count:
        log.note(vm, f"thawed {plural(count, 'file system')}")
    return Thawed(vm.name, count)
