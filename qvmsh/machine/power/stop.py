"""Powering off: the ladder of `stop`, and `stop --savevm`.

Each rung asks the guest in another way and has its share of the time; waiting is on the end of
QEMU's process. Only `force` ends QEMU itself: an unreachable monitor is not a reason to pull
the plug on a guest that may be writing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time

from qvmsh.errors import DeadlineError, QmpError, QvmError, StateError
from qvmsh.host import process, ssh_connection, sshd
from qvmsh.machine import crash, journal, log, ready_sign, snapshot_names, state
from qvmsh.machine.guest import frozen, sleep
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest.shares import aside as shares
from qvmsh.machine.guest.shares import listing
from qvmsh.machine.monitor import conversation
from qvmsh.machine.snapshot import managed_save
from qvmsh.machine.snapshot import save as snapshot_save
from qvmsh.machine.snapshot.prune import Keep
from qvmsh.machine.work import cleanup, kill
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import qga, qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

AGENT_S = 1.5
LEAST_S = 0.5  # for each rung, even when the time is up
BANNER_S = 4.0
BUTTON_AGAIN_S = 10.0
LOOK_S = 1.0
"""How often a wait checks for a guest that is off while QEMU stays (`-no-shutdown`)."""

POLITE = ("guest agent", "ssh", "console", "ACPI power button", kill.BY_ITSELF)
"""What powers a guest off cleanly: it has written out its file systems."""

POWEROFF = (
    "if command -v systemctl >/dev/null; then sudo -n systemctl poweroff; "
    "elif command -v loginctl >/dev/null; then sudo -n loginctl poweroff; "
    "else sudo -n poweroff || poweroff; fi"
)
"""What the ssh rung runs in the guest; without a terminal, and never asking for a password."""
CONSOLE_S = 30.0
POWEROFF_ON_CONSOLE = (
    'PATH=$PATH:/sbin:/usr/sbin; s=; [ "$(id -u)" = 0 ] || s="sudo -n"; $s true || exit; '
    '(trap "" HUP; sleep 1; $s poweroff) </dev/null >/dev/null 2>&1 &'
)
"""What the console rung runs: once it has logged out again, since the console ends with the guest."""


class Ladder:
    """The rungs by which `stop` reaches a guest, tried in order until QEMU has ended.

    Args:
        timeout_s: for all polite rungs together.
    """

    def __init__(self, vm: BaseMachine, pid: int, note: LaunchRecord, timeout_s: float) -> None:
        self.vm = vm
        self.note = note
        self.timeout_s = timeout_s
        self.handle = process.Process(pid)
        self.tried: list[str] = []

    def climb(self, *, force: bool) -> str:
        """Power the machine off and return the name of the rung that worked.

        Raises:
            DeadlineError: no polite rung worked and `force` is false; the machine is still running.
        """
        deadline = time.monotonic() + self.timeout_s
        rungs: list[tuple[str, Callable[[float], str], float]] = [
            ("guest agent", self._ask_agent, 0.34),
            ("ssh", self.ask_ssh, 0.5),
            ("console", self.ask_console, 0.5),
            ("ACPI power button", self._press_button, 1.0),
        ]
        sign = ready_sign.of(self.vm, self.note)
        missing = {name for name in ("ssh", "console") if not sign.startswith(name)}
        if os.path.isdir(self.note.runtime) and not os.path.lexists(self.note.socket("qga")):
            missing.add("guest agent")
        with self.handle, self.vm.io.stage("powering off") as stage:
            for name, ask, share in (rung for rung in rungs if rung[0] not in missing):
                if self.tried and not force:
                    self._require_no_io_error()
                stage.progress(f"{name} ...")
                began = time.monotonic()
                window_s = max(LEAST_S, (deadline - began) * share)
                answer = ask(window_s)
                if answer:
                    if self.handle.wait(0):
                        return kill.BY_ITSELF
                    self.tried.append(f"{name}: {answer}")
                    continue
                left_s = max(LEAST_S, began + window_s - time.monotonic())
                if self._gone_within(left_s, again=ask if "button" in name else None):
                    return name
                self.tried.append(f"{name}: asked, still on after {time.monotonic() - began:.0f} s")
            if self.handle.wait(LEAST_S):
                return kill.BY_ITSELF
            if force:
                return kill.end_qemu(self.handle, self.note)
        raise DeadlineError(
            f"the guest did not power off within {self.timeout_s:.0f} s; it is still running",
            machine=self.vm.name,
            details=[*self.tried, *listing.lost(self.note)],
            hint="`qvm stop --force` then ends QEMU (the guest loses unwritten data), "
            "VM_SHUTDOWN_TIMEOUT gives it more time",
        )

    def _require_no_io_error(self) -> None:
        """Do not wait for a guest that QEMU has paused again."""
        try:
            with conversation.begin(self.note) as exchange:
                status = exchange.ask("query-status")["status"]
        except (OSError, QmpError):
            return
        if status == "io-error":
            raise StateError(
                "cannot power off: QEMU has paused the guest after an I/O error",
                machine=self.vm.name,
                details=self.tried,
                hint="`df .` shows whether the host's disk is full; free some, then `qvm resume`, `qvm stop`",
                actual=status,
            )

    def _ask_agent(self, window_s: float) -> str:
        try:
            asked = qga.shutdown(self.note.socket("qga"), timeout_s=min(AGENT_S, window_s))
        except QmpError as error:
            return error.what
        return "" if asked else "no answer"

    def ask_ssh(self, window_s: float, script: str = POWEROFF) -> str:
        try:
            found = guest.link(self.vm, self.note)
            if (
                not found.is_open()
                and sshd.banner(found.host, found.port, -1, min(BANNER_S, window_s)) != "ssh"
            ):
                return "does not answer"
            found.open(interactive=False, timeout_s=min(10.0, window_s))
            done = found.run(script, timeout_s=min(15.0, window_s))
        except QvmError as error:
            return error.what
        except ssh_connection.Refused as refused:
            return {"key": "the key is refused"}.get(refused.kind, "cannot log in")
        except subprocess.TimeoutExpired:
            return ""  # asked; a guest that goes down may not close the connection
        if done.returncode not in (0, 255):  # 255: the connection went down with the guest
            words = done.stderr.strip().splitlines()
            return words[-1] if words else f"poweroff failed ({done.returncode})"
        return ""

    def ask_console(self, window_s: float, script: str = POWEROFF_ON_CONSOLE) -> str:
        """Ask by a login on the serial console; why it cannot be asked, or ""."""
        from qvmsh.machine.guest.transports import serial  # late: it is rarely needed
        from qvmsh.machine.guest.wish import Unusable, Wish

        wish = Wish(line=script, timeout_s=min(CONSOLE_S, window_s), tag=secrets.token_hex(8))
        try:
            done = serial.run(self.vm, self.handle.pid, self.note, wish)
        except Unusable as error:
            return str(error)
        except QvmError as error:
            return error.what
        return "" if done else (done.stderr.strip().splitlines() or [f"poweroff failed ({done.status})"])[-1]

    def _press_button(self, _window_s: float) -> str:
        try:
            qmp.ask(self.note.socket("qmp"), "system_powerdown", timeout_s=state.GREETING_S)
        except (OSError, QmpError) as error:
            return f"the monitor does not answer ({error})"
        return ""

    def _gone_within(self, window_s: float, again: Callable[[float], str] | None) -> bool:
        """Wait for QEMU's end; press the button again now and then."""
        deadline = time.monotonic() + window_s
        press_at = time.monotonic() + BUTTON_AGAIN_S
        while (left := deadline - time.monotonic()) > 0:
            if self.handle.wait(min(LOOK_S, left), self.vm.io.checkpoint):
                return True
            if self._is_shut_down():
                self._quit()
                return self.handle.wait(kill.QUIT_S)
            if again and time.monotonic() >= press_at:
                again(1.0)
                press_at = time.monotonic() + BUTTON_AGAIN_S
        return False

    def _is_shut_down(self) -> bool:
        try:
            status = qmp.ask(self.note.socket("qmp"), "query-status", timeout_s=0.5)
        except (OSError, QmpError):
            return False
        return bool(status["status"] == "shutdown")

    def _quit(self) -> None:
        try:
            qmp.ask(self.note.socket("qmp"), "quit")
        except (OSError, QmpError):
            pass


def patience_s(vm: BaseMachine, timeout_s: float | None) -> float:
    """How long a guest may take: the caller's value, else VM_SHUTDOWN_TIMEOUT."""
    return float(vm.settings.integer("VM_SHUTDOWN_TIMEOUT")) if timeout_s is None else timeout_s


@log.failures
def stop(vm: BaseMachine, *, force: bool, timeout_s: float) -> tuple[str, float, str | None]:
    """Power a machine off; return the rung that worked, the seconds it took, and the snapshot of the disks.

    Raises:
        StateError: it is not running, or in a state that cannot power off.
        DeadlineError: it would not, and `force` is false.
    """
    began = time.monotonic()
    with work_lock(vm, "stop"):
        seen, pid, note = require_live(vm, "stop", needs_note=not force)
        is_clean = seen.kind == state.SHUT_DOWN
        is_lost = bool(note and note.loading) and seen.kind == state.BROKEN
        if seen.kind == state.SHUT_DOWN or note is None or is_lost or (force and seen.is_spoilt):
            with process.Process(pid) as handle:
                rung = kill.end_qemu(handle, note)
        else:
            _wake(vm, seen)
            frozen.thaw_first(vm, note)
            try:
                rung = Ladder(vm, pid, note, timeout_s).climb(force=force)
                is_clean = rung in POLITE
            except ProcessLookupError:
                rung = kill.BY_ITSELF
        if note is not None:
            guest.close(vm, note)
        is_crash = rung != "SIGKILL" and crash.has_crashed(vm)
        cleanup.clear(vm, keeps_crash=is_crash)
        if is_crash:
            raise crash.error(vm, "while the guest was powering off")
        took_s = time.monotonic() - began
        log.note(vm, f"powered off by {rung} in {took_s:.1f} s")
        is_whole = is_clean and note is not None and not note.disposable and not note.base_only
        return rung, took_s, _save_disks(vm) if is_whole else None


def _save_disks(vm: BaseMachine) -> str | None:
    """Save the disks of a machine that was just powered off, if VM_SNAPSHOT_ON_STOP asks for it.

    Returns:
        The snapshot's name; None without one. A failure is a warning: the machine is off, as was asked for.
    """
    try:
        count = vm.settings.integer("VM_SNAPSHOT_ON_STOP")
        if not count:
            return None
        wish = snapshot_save.Request(
            "after a stop (VM_SNAPSHOT_ON_STOP)", has_stamp=True, disk_only=True, keep=Keep(count)
        )
        return snapshot_save.save_and_prune(vm, snapshot_names.AUTO, wish).snapshot
    except QvmError as error:
        vm.io.warn(f"{vm.name}: it is powered off, but VM_SNAPSHOT_ON_STOP failed: {error.what}")
        return None


@log.failures
def save(
    vm: BaseMachine, name: str, *, has_suspend: bool, timeout_s: float | None, unmounts: bool = False
) -> tuple[float, float]:
    """Save the state as the snapshot `name` and end QEMU.

    Args:
        unmounts: put the shares aside first.
        timeout_s: for the guest to suspend; None = `sleep.SUSPEND_S`.

    Returns:
        The seconds that the guest took to suspend, and those of the whole.

    Raises:
        StateError, DeadlineError, QmpError: see `managed_save.save`; the machine is still running.
    """
    began = time.monotonic()
    if vm.settings.is_set("VM_SAVE_DELAY"):
        vm.io.warn(f"{vm.name}: VM_SAVE_DELAY is ignored: qvm waits until the state is on the disk")
    with work_lock(vm, "stop"):
        journal.require_none(vm)
        frozen.require_thawed(vm, "cannot save the state")
        seen, pid, note = require_live(vm, "save the state")
        assert note is not None
        state.require_sound(vm, seen, "save the state")
        state.require(vm, seen, "save the state", state.RUNNING, state.SUSPENDED, state.PAUSED)
        if note.disposable:
            raise StateError(
                "cannot save the state: the machine is disposable, its disk is discarded", machine=vm.name
            )
        if seen.kind == state.PAUSED:
            has_suspend = False
        is_aside = unmounts and seen.kind == state.RUNNING
        away = shares.put_aside(vm, note, is_last=True) if is_aside else contextlib.nullcontext()
        with process.Process(pid) as handle, vm.io.stage(f"saving the state as {name}"):
            files = managed_save.written_files(note)
            with away:
                suspended_s = managed_save.save(vm, note, name, has_suspend=has_suspend, timeout_s=timeout_s)
            guest.close(vm, note)
            kill.end_qemu(handle, note)
        managed_save.sync_images(vm, files)
        cleanup.clear(vm)
    log.note(vm, f"state saved as {name}, QEMU ended")
    return suspended_s, time.monotonic() - began


def require_live(
    vm: BaseMachine, what: str, *, needs_note: bool = True
) -> tuple[state.Observation, int, LaunchRecord | None]:
    """What is observed of a machine that has a QEMU; it must be reachable."""
    seen = state.observe(vm)
    if seen.pid is None or (needs_note and seen.note is None) or not state.is_qemu(seen.pid):
        raise state.not_in_state(vm, seen, what, state.RUNNING)
    cleanup.keep_record(vm, seen)
    return seen, seen.pid, seen.note


def _wake(vm: BaseMachine, seen: state.Observation) -> None:
    """Resume or wake a guest that cannot power off otherwise, with a warning."""
    assert seen.note is not None
    if seen.kind not in (state.PAUSED, state.SUSPENDED):
        return
    state.require_sound(vm, seen, "power off")
    vm.io.warn(f"{vm.name} is {seen.kind}: resuming it, so that it can power off")
    with conversation.begin(seen.note) as qemu:
        if seen.kind == state.PAUSED:
            sleep.resume(qemu)
        else:
            sleep.wake(qemu)
