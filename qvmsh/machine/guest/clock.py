"""The guest's clock, which stops with the guest: compared with the host's, and set.

put_clock_right(vm, record)         # "clock was 12 s behind, set by the guest agent"
"""

from __future__ import annotations

import re
import subprocess
import time

from qvmsh.errors import QmpError, QvmError
from qvmsh.machine.guest import ssh as guest
from qvmsh.qemu import qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

CLOCK_S = 0.5
"""How long the agent of a guest that answers ssh may take: the same can be done by ssh at once."""

PATIENT_S = 3.0
"""How long it may take where ssh does not answer either: a busy guest, or one without ssh."""

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
    try:
        behind = time.time() - qga.ask(note.socket("qga"), "guest-get-time", timeout_s=timeout_s) / 1e9
    except (OSError, QmpError):
        return None
    if abs(behind) < 1.0:
        return "clock is right"
    try:
        qga.ask(note.socket("qga"), "guest-set-time", {"time": time.time_ns()}, timeout_s=10.0)
    except (OSError, QmpError):
        found = _clock_by_ssh(vm, note) if has_ssh else ""
        return found or f"clock is {behind:.0f} s behind and could not be set"
    return f"clock was {behind:.0f} s behind, set by the guest agent"


def _clock_by_ssh(vm: BaseMachine, note: LaunchRecord) -> str:
    if not guest.answers(vm, note, timeout_s=3.0)[0]:  # a login that nobody answers takes much longer
        return ""
    try:
        found = guest.connect(vm, "set the clock", interactive=False)
        now = time.time()
        script = (
            f"d=$(( {int(now)} - $(date +%s) )); echo $d; [ ${{d#-}} -lt 3 ] || sudo -n date -s @{int(now)}"
        )
        done = found.run(script, timeout_s=30.0)
    except (QvmError, subprocess.TimeoutExpired):
        return ""
    words = done.stdout.split()
    if not words or not re.fullmatch(r"-?[0-9]{1,15}", words[0]):
        return ""
    if abs(int(words[0])) < 3:
        return "clock is right"
    if done.returncode:
        return f"clock is {words[0]} s behind and could not be set"
    return f"clock was {words[0]} s behind, set by ssh"
