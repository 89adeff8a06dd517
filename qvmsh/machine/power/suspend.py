"""Suspend and wakeup: the guest sends itself to sleep (ACPI S3), and is woken."""

from __future__ import annotations

import time

from qvmsh.config.shares import VIRTIOFS
from qvmsh.errors import DeadlineError, QmpError, StateError
from qvmsh.machine import log, ready_sign, state
from qvmsh.machine.guest import readiness, sleep
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest.shares import devices
from qvmsh.machine.monitor import conversation
from qvmsh.machine.power.reports import Suspended, Woken
from qvmsh.machine.work.lock import work_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine


def suspend(vm: BaseMachine, *, timeout_s: float | None) -> Suspended:
    """Let the guest send itself to sleep, and wait until it does.

    Raises:
        StateError: it does not run, or nothing in it can be asked. Nothing changed.
        DeadlineError: it was asked but does not sleep; it is still running.
    """
    with work_lock(vm, "suspend"):
        _, note = state.require(vm, state.observe(vm), "suspend", state.RUNNING)
        with conversation.session(vm, note) as qemu, vm.io.stage("suspending the guest"):
            try:
                how, seconds = sleep.fall_asleep(
                    vm, qemu, note, timeout_s=sleep.SUSPEND_S if timeout_s is None else timeout_s
                )
            except DeadlineError as error:
                error.hint = _hint_of_shares(note) or error.hint
                raise
    log.note(vm, f"suspended by {how}")
    return Suspended(vm.name, how, seconds)


def _hint_of_shares(note: LaunchRecord) -> str:
    """What to do about a virtiofs share, with which Linux does not suspend; "" without one."""
    try:
        with conversation.begin(note) as exchange:
            tags = devices.own_tags(exchange, VIRTIOFS)
    except (OSError, QmpError):
        return ""
    return f"Linux does not suspend with a virtiofs share: `qvm share remove {tags[0]}`" if tags else ""


def wakeup(vm: BaseMachine, *, is_waiting: bool, timeout_s: float | None) -> Woken:
    """Wake the guest, and wait until its ssh answers.

    Raises:
        StateError: it does not sleep. Nothing changed.
        DeadlineError: it is awake but does not answer; it is still running.
    """
    began = time.monotonic()
    with work_lock(vm, "wakeup"):
        pid, note = state.require(vm, state.observe(vm), "wake up", state.SUSPENDED)
        with state.Answering(vm), conversation.begin(note) as qemu:
            try:
                sleep.wake(qemu)
            except QmpError as error:  # a key, the clock, or somebody else was faster
                what = f"cannot wake it up: {error.what.partition(': ')[2]}"
                raise StateError(what, machine=vm.name, hint="`qvm status` shows its state") from None
    is_ready = is_waiting and _answers_again(vm, pid, note, timeout_s)
    log.note(vm, "woken up")
    return Woken(vm.name, is_ready, time.monotonic() - began)


def _answers_again(vm: BaseMachine, pid: int, note: LaunchRecord, timeout_s: float | None) -> bool:
    """Wait for the guest; False if nothing in it says when it answers."""
    try:
        is_ready = readiness.await_guest(vm, "wakeup", pid, note, timeout_s)
        if is_ready and ready_sign.is_ssh(vm, note):
            sleep.refresh(guest.link(vm, note))
    except DeadlineError as error:
        error.what = "the guest is awake, but " + error.what.replace("the guest did", "did")
        error.hint = "`qvm status` shows its state; `qvm stop` or `qvm kill` ends it"
        raise
    return is_ready
