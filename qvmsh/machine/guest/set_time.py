"""Setting the guest's clock to the host's time, by the agent, else by `date` over ssh or the serial console.

set_time(vm)            # ClockSet(via="agent", was_behind_s=12.3, behind_s=0.001, within_s=0.002)
"""

from __future__ import annotations

import time
from typing import NamedTuple

from qvmsh.errors import GuestUnreachableError, QmpError, QvmError
from qvmsh.machine import log, state
from qvmsh.machine.guest import agent, clock, execute, frozen
from qvmsh.machine.guest.reports import ClockSet, off
from qvmsh.machine.guest.wish import Wish
from qvmsh.qemu import qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

ASK_S = 20.0
"""How long the agent may take: it runs `hwclock` too."""
SCRIPT_S = 40.0
TOLERATED_S = 1.0
"""How far the clock may be off afterwards: a busy guest may set it late."""
LEAST_S = 1.0
"""How far it must be off at least to be set by a script, which reads whole seconds."""
CHANGE = (
    "if [ $(id -u) = 0 ]; then sudo=; else sudo='sudo -n'; fi; "
    "$sudo date -s @$(( $(date +%s) + {} )) >/dev/null"
)
"""busybox's `date -s` ends with 0 although it may not set the clock."""


def set_time(vm: BaseMachine) -> ClockSet:
    """Set the guest's clock.

    Raises:
        StateError: it is not running, held or frozen.
        GuestUnreachableError: nothing in it could be asked.
        QvmError: nothing in it may set the clock.
    """
    _, note = state.require(vm, state.observe(vm), "set the clock", state.RUNNING, state.STARTING)
    frozen.require_thawed(vm, "cannot set the clock")
    refused: dict[str, str] = {}
    with vm.io.stage("setting the guest's clock"):
        found = _by_agent(vm, note, refused) or _by_script(vm, refused)
    if abs(found.was_behind_s) > found.within_s:
        log.note(vm, f"clock was {off(found.was_behind_s, found.within_s)}, set by {found.via}")
    return found


def _by_agent(vm: BaseMachine, note: LaunchRecord, refused: dict[str, str]) -> ClockSet | None:
    """Set it by the agent; None, with the reason in `refused`, if that cannot be done."""

    def ask() -> float:
        return float(talk.ask("guest-get-time", tick=vm.io.checkpoint) / 1e9)

    reason = "the clock did not change"
    try:
        with qga.Conversation(note.socket("qga"), agent.PRESENT_S) as talk:
            talk.timeout_s = ASK_S
            was, _ = clock.difference(ask)
            for _ in range(clock.TRIES):
                try:
                    talk.ask("guest-set-time", {"time": time.time_ns()}, tick=vm.io.checkpoint)
                except QmpError as error:  # it may have set the clock, but not the hardware's
                    reason = agent.reason(error, ASK_S)
                now, within = clock.difference(ask)
                if abs(now) <= TOLERATED_S + within:
                    return ClockSet(vm.name, "agent", was_behind_s=was, behind_s=now, within_s=within)
    except (OSError, QmpError) as error:
        reason = agent.reason(error, ASK_S)
    refused["agent"] = reason
    return None


def _by_script(vm: BaseMachine, refused: dict[str, str]) -> ClockSet:
    """Set it by `date`, relative to the guest's own clock: right, however late it runs.

    Raises:
        GuestUnreachableError, QvmError: it could not be.
    """
    was = _look(vm, "true", refused)
    if was.via == "ssh":  # the connection is open now, so that the time is known better
        was = _look(vm, "true", refused)
    now = was
    if abs(was.behind_s) > LEAST_S + was.within_s:
        now = _look(vm, CHANGE.format(round(was.behind_s)), refused)
    if abs(now.behind_s) > LEAST_S + now.within_s:
        raise QvmError(
            f"the guest's clock could not be set; it is {off(now.behind_s, now.within_s)}", machine=vm.name,
            details=[*(f"{way}: {why}" for way, why in refused.items()), *now.errors.splitlines()[-3:]],
            hint="the account must be root or be allowed `sudo -n date`, or the guest agent must run",
        )  # fmt: skip
    within_s = max(was.within_s, now.within_s)
    return ClockSet(vm.name, was.via, was_behind_s=was.behind_s, behind_s=now.behind_s, within_s=within_s)


class _Look(NamedTuple):
    """The guest's clock, as a script read it."""

    behind_s: float
    within_s: float
    via: str
    errors: str


def _look(vm: BaseMachine, line: str, refused: dict[str, str]) -> _Look:
    """Run a line in the guest, then read its clock."""
    wish = Wish(line=f"{line}; date +%s", ways=("ssh", "serial"), timeout_s=SCRIPT_S)
    try:
        done = execute.captured(vm, wish)
        guests = int(str(done).split()[-1][:15])
    except GuestUnreachableError as error:
        error.what = "the guest's clock cannot be set: nothing in the guest could be asked"
        error.details = (*(f"{way}: {why}" for way, why in refused.items()), *error.details)
        raise
    except (IndexError, ValueError):
        raise QvmError("the guest's `date +%s` printed no time", machine=vm.name) from None
    within_s = done.duration_s / 2 + 0.5
    return _Look(time.time() - done.duration_s / 2 - guests - 0.5, within_s, done.via, done.stderr)
