"""Rebooting the guest: asked by its agent, else by ssh; with `force` QEMU's reset."""

from __future__ import annotations

import time

from qvmsh.errors import DeadlineError, QmpError, StateError
from qvmsh.machine import crash, log, ready_sign, state
from qvmsh.machine.guest import readiness, signs
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest.shares import aside
from qvmsh.machine.monitor import conversation
from qvmsh.machine.power.stop import AGENT_S, POWEROFF, POWEROFF_ON_CONSOLE, Ladder, require_live
from qvmsh.machine.work import cleanup
from qvmsh.machine.work.kill import QUIT_S
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.session import Listening, Session

RESET_S = 30.0
REBOOT = POWEROFF.replace("poweroff", "reboot")
REBOOT_ON_CONSOLE = POWEROFF_ON_CONSOLE.replace("poweroff", "reboot")

RESET_HELPS = (state.PAUSED, state.SUSPENDED, state.CRASHED, state.SHUT_DOWN)
"""States in which no guest can be asked to reboot, but a reset boots it."""


@log.failures
def reboot(vm: BaseMachine, *, force: bool, timeout_s: float) -> tuple[str, float]:
    """Reboot the guest, wait until it answers again; return how, and the seconds it took.

    Raises:
        StateError: it is not running, or nothing in the guest can be asked and `force` is false.
        DeadlineError: it was asked but did not reset, or did not come back.
    """
    began = time.monotonic()
    with work_lock(vm, "reboot"):
        seen, pid, note = require_live(vm, "reboot")
        assert note is not None
        if seen.kind not in ((state.RUNNING, *RESET_HELPS) if force else (state.RUNNING,)):
            error = state.not_in_state(vm, seen, "reboot", state.RUNNING)
            if seen.kind in RESET_HELPS:
                error.hint = f"{error.hint}; `--force` resets it" if error.hint else "`--force` resets it"
            raise error
        ladder = Ladder(vm, pid, note, timeout_s)
        with ladder.handle, conversation.session(vm, note) as qemu, qemu.listen("RESET") as events:
            try:
                how = _ask_for_reset(ladder, qemu, events, is_running=seen.kind == state.RUNNING, force=force)
                signs.begin_anew(vm, note)
            except _Ended:
                is_crash = crash.has_crashed(vm)
                cleanup.clear(vm, keeps_crash=is_crash)
                if is_crash:
                    raise crash.error(vm, "while the guest was rebooting") from None
                raise StateError(
                    "the guest powered off instead of rebooting; QEMU has ended",
                    machine=vm.name,
                    hint="`qvm start`",
                ) from None
    if readiness.await_guest(vm, "reboot", pid, note, is_boot=True):
        aside.mount_wanted(vm, note)
    log.note(vm, f"rebooted by {how}")
    return how, time.monotonic() - began


class _Ended(Exception):
    """QEMU ended while its guest was to reboot."""


def _ask_for_reset(ladder: Ladder, qemu: Session, events: Listening, *, is_running: bool, force: bool) -> str:
    """Reboot the guest; return what did it: guest agent, ssh, or (`force`) QEMU's reset.

    Raises:
        StateError, DeadlineError: see `reboot`.
        _Ended: QEMU is gone.
    """
    vm = ladder.vm
    how = _ask(ladder) if is_running else ""
    if not how and ladder.handle.wait(0):
        raise _Ended
    if not how and not force:
        raise StateError(
            "nothing in the guest could be asked to reboot; it is still running",
            machine=vm.name,
            details=ladder.tried,
            hint="`--force` resets it, as a reset button would",
        )
    guest.close(vm, ladder.note)
    try:
        if how:
            try:
                events.wait(timeout_s=ladder.timeout_s)
                return how
            except DeadlineError:
                if not force:
                    raise DeadlineError(
                        f"the guest did not reboot within {ladder.timeout_s:.0f} s "
                        f"(asked by {how}); it is still running",
                        machine=vm.name,
                        hint="`--force` then resets it",
                    ) from None
        qemu.execute("system_reset")
        events.wait(timeout_s=RESET_S)
        if not is_running and qemu.execute("query-status")["status"] != "running":
            qemu.execute("cont")  # a paused or panicked guest was reset, and waits
        return "reset"
    except QmpError:
        if ladder.handle.wait(QUIT_S):
            raise _Ended from None
        raise


def _ask(ladder: Ladder) -> str:
    """Ask the guest to reboot, by the agent, else by ssh; "" if neither can."""
    try:
        if qga.shutdown(ladder.note.socket("qga"), mode="reboot", timeout_s=AGENT_S):
            return "guest agent"
        ladder.tried.append("guest agent: no answer")
    except QmpError as error:
        ladder.tried.append(f"guest agent: {error.what}")
    sign = ready_sign.of(ladder.vm, ladder.note).partition(":")[0]
    if sign not in ("ssh", "console"):
        return ""
    ask, script = (ladder.ask_ssh, REBOOT) if sign == "ssh" else (ladder.ask_console, REBOOT_ON_CONSOLE)
    answer = ask(ladder.timeout_s, script)
    if answer:
        ladder.tried.append(f"{sign}: {answer}")
    return "" if answer else sign
