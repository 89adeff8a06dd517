"""The guest's clock, which stops with the guest: compared with the host's, and set.

put_clock_right(vm, record)         # "clock was 12 s behind, set by the guest agent"
"""

from __future__ import annotations

import subprocess
import time

from qvmsh.errors import QmpError, QvmError
from qvmsh.machine.guest import ssh as guest
from qvmsh.qemu import qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

CLOCK_S = 0.5
"""How long the agent of a guest that answers ssh may take: the same can be done by ssh at once."""

PATIENT_S = 3.0
"""How long it may take where ssh does not answer either: a busy guest, or one without ssh."""

TRIES = 3
"""How often a clock is set: a busy guest may do it so late that the time is wrong again."""

NOTICED_S, MUCH_S = 0.5, 2.0
"""How long a guest may stand still before its clock is checked: by the agent, by ssh."""


def put_clock_right_after(vm: BaseMachine, note: LaunchRecord, held_s: float) -> str:
    """The same for a guest that was paused for so long; says so if nothing in it could be asked."""
    if held_s <= NOTICED_S or not _follows_host(vm):
        return ""
    found = put_clock_right(vm, note, has_ssh=held_s > MUCH_S)
    if found or held_s <= MUCH_S:
        return found
    return "its clock may be behind: neither the guest agent nor ssh could set it"


def _follows_host(vm: BaseMachine) -> bool:
    """False where the user wants another time in the guest (VM_RTC_BASE with a date)."""
    return vm.settings.text("VM_RTC_BASE") in ("utc", "localtime")


def put_clock_right(vm: BaseMachine, note: LaunchRecord, *, has_ssh: bool = True) -> str:
    """Compare the guest's clock with the host's and set it if it is off; returns what was done.

    By the guest agent, else (`has_ssh`) by ssh, else by a slow agent; "" if none
    answers, or the user wants another time.
    """
    if not _follows_host(vm):
        return ""
    found = _clock_by_agent(vm, note, CLOCK_S, has_ssh=has_ssh)
    if found is None and has_ssh:
        found = _clock_by_ssh(vm, note) or _clock_by_agent(vm, note, PATIENT_S, has_ssh=False)
    return found or ""


def _clock_by_agent(vm: BaseMachine, note: LaunchRecord, timeout_s: float, *, has_ssh: bool) -> str | None:
    """What was done; None if no agent reports the time."""
    path = note.socket("qga")
    try:
        behind, by = _behind(lambda: qga.ask(path, "guest-get-time", timeout_s=timeout_s) / 1e9), ""
    except (OSError, QmpError):
        return None
    try:
        for _ in range(TRIES if behind else 0):
            with qga.Conversation(path, 10.0) as talk:  # the agent is listening: now is the time
                talk.ask("guest-set-time", {"time": time.time_ns()})
            by = "the guest agent"
            if not _behind(lambda: qga.ask(path, "guest-get-time", timeout_s=10.0) / 1e9):
                break
    except (OSError, QmpError):
        if not by and has_ssh and (found := _clock_by_ssh(vm, note)):
            return found
    return _outcome(behind, by)


def _behind(ask: Callable[[], float], tolerated_s: float = 1.0) -> float:
    """How far the guest's clock is behind at least, however late it answers; 0.0 for up to `tolerated_s`."""
    before, guests, after = time.time(), ask(), time.time()
    found = max(0.0, before - guests) + min(0.0, after - guests)
    return found if abs(found) >= tolerated_s else 0.0


def difference(ask: Callable[[], float]) -> tuple[float, float]:
    """How far the guest's clock is behind the host's, and how exactly that is known, in seconds."""
    before, guests, after = time.time(), ask(), time.time()
    return (before + after) / 2 - guests, (after - before) / 2


def _outcome(behind: float, by: str) -> str:
    if not behind:
        return "clock is right"
    end = f", set by {by}" if by else " and could not be set"
    return f"clock {'was' if by else 'is'} {behind:.0f} s behind{end}"


def _clock_by_ssh(vm: BaseMachine, note: LaunchRecord) -> str:
    if not guest.answers(vm, note, timeout_s=3.0)[0]:  # a login that nobody answers takes much longer
        return ""
    first, is_set = 0.0, True
    try:
        found = guest.connect(vm, "set the clock", interactive=False)
        for _ in range(TRIES):
            behind = _behind(lambda: int(found.run("date +%s", timeout_s=30.0).stdout[:15]) + 0.5, 2.5)
            if not behind:
                break
            first = first or behind
            script = f"sudo -n date -s @$(( $(date +%s) + {round(behind)} ))"  # right, however late it runs
            is_set = found.run(script, timeout_s=30.0).returncode == 0
    except (QvmError, subprocess.TimeoutExpired, ValueError):
        return ""
    return _outcome(first, "ssh" if is_set else "")
