"""Waiting until a guest is ready, by the sign of VM_READY. On a time-out, reports what was already true.

await_guest(vm, "reboot", pid, note)        # shows it; for `status` in another terminal too
wait(vm, pid, note, timeout_s=60.0)         # the seconds it took
"""

from __future__ import annotations

import contextlib
import re
import time

from qvmsh.config.variables import VARIABLES
from qvmsh.errors import DeadlineError, LaunchError, QvmError
from qvmsh.host import locks, process
from qvmsh.machine import crash, launch_record, paths, ready_sign, state
from qvmsh.machine.guest import serial, signs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

EMULATED = 5
"""How much longer a guest without hardware acceleration may take, where VM_SSH_ATTEMPTS is the default."""


def attempt_seconds(vm: BaseMachine, pid: int, attempts: int | None = None) -> float:
    """The deadline that VM_SSH_ATTEMPTS means: one attempt every 2 s. Source: `vm` (bash)."""
    if attempts is None:
        attempts = vm.settings.integer("VM_SSH_ATTEMPTS")
        if attempts == int(VARIABLES["VM_SSH_ATTEMPTS"].default) and _is_emulated(pid):
            attempts *= EMULATED
    return 2.0 * attempts


def _is_emulated(pid: int) -> bool:
    words = process.arguments(pid)
    return "-enable-kvm" not in words and not any(re.match("kvm|.*accel=kvm", word) for word in words)


@contextlib.contextmanager
def waiting(vm: BaseMachine, verb: str) -> Iterator[None]:
    """Hold a lock while the guest is waited for, so that `status` can say "starting" and what waits."""
    lock = locks.WorkLock(vm.files.wait_lock, verb)
    try:
        lock.acquire()
    except (locks.Held, OSError):
        pass  # another still waits, perhaps for a guest that has ended: it will notice
    try:
        yield
    finally:
        lock.release()


def await_guest(
    vm: BaseMachine,
    verb: str,
    pid: int,
    note: LaunchRecord,
    timeout_s: float | None = None,
    *,
    is_boot: bool = False,
) -> bool:
    """Wait until the guest is ready, and show that; False if nothing in it says when it is.

    Args:
        verb: what waits, for `status` in another terminal.
        timeout_s: None: that of VM_SSH_ATTEMPTS.
        is_boot: the guest boots: its console will show what VM_READY names.

    Raises:
        as `wait`.
    """
    if not is_awaited(vm, note, is_boot=is_boot):
        return False
    limit_s = attempt_seconds(vm, pid) if timeout_s is None else timeout_s
    with waiting(vm, verb), vm.io.stage(f"waiting for {_sign(vm, note).waited_for}"):
        wait(vm, pid, note, timeout_s=limit_s)
    return True


def is_awaited(vm: BaseMachine, note: LaunchRecord, *, is_boot: bool = True) -> bool:
    """True if something in the guest says when it is ready; a console does so only when the guest boots."""
    kind = ready_sign.of(vm, note).partition(":")[0]
    return kind in ("ssh", "agent") or (kind == "console" and is_boot)


def _sign(vm: BaseMachine, note: LaunchRecord) -> signs.Ssh | signs.Agent | signs.Console:
    return signs.KINDS[ready_sign.of(vm, note).partition(":")[0]](vm, note)


def wait(vm: BaseMachine, pid: int, note: LaunchRecord, *, timeout_s: float) -> float:
    """Wait until the guest is ready, by the sign of VM_READY, and return the seconds it took.

    Raises:
        LaunchError: QEMU ended meanwhile.
        GuestUnreachableError: its ssh answers, but will never let us in.
        DeadlineError: `timeout_s` passed; the machine is left as it is.
    """
    began = time.monotonic()
    deadline = began + timeout_s
    try:
        handle = process.Process(pid)
    except ProcessLookupError:
        raise ended(vm) from None
    with handle, _sign(vm, note) as sign:
        while time.monotonic() < deadline:
            if process.wait_readable([handle.fd], 0.0) is not None:
                raise ended(vm)
            vm.io.checkpoint()
            if sign.step(handle.fd, deadline):
                return time.monotonic() - began
        raise _late(vm, pid, timeout_s, sign)


def ended(vm: BaseMachine) -> QvmError:
    """The error for a QEMU that ended while its guest was waited for."""
    note = launch_record.read(vm.files)
    if note:
        serial.wait_end(note.runtime)
    if crash.has_crashed(vm):
        return crash.error(vm, "while the guest was starting")
    words = paths.tail(vm.files.qemu_stderr, 5)
    console = paths.tail(vm.files.serial_log, 5)
    return LaunchError(
        "QEMU ended while the guest was starting: the guest powered off, or QEMU was asked to quit",
        machine=vm.name,
        details=[*words, *(f"console: {line}" for line in console)],
        hint=".qvm/log/ has the output of QEMU and of the guest's console",
    )


def _late(
    vm: BaseMachine, pid: int, timeout_s: float, sign: signs.Ssh | signs.Agent | signs.Console
) -> DeadlineError:
    """All that is true about a guest that did not become ready."""
    seen = state.observe(vm)
    facts = [
        f"process: QEMU runs, pid {pid}",
        f"state: {seen.kind}" + (f" ({seen.detail})" if seen.detail else ""),
        *sign.facts(),
    ]
    console = paths.tail(vm.files.serial_log, 5)
    facts += [f"console: {line}" for line in console] or ["console: silent (no output on ttyS0)"]
    facts += [f"QEMU: {line}" for line in paths.tail(vm.files.qemu_stderr, 3)]
    return DeadlineError(
        f"{sign.late} within {timeout_s:.0f} s; it is still running",
        machine=vm.name,
        details=facts,
        hint="`qvm status` shows when it answers; `qvm config VM_SSH_ATTEMPTS="
        f"{max(1, round(timeout_s))}` doubles the time from now on; `qvm kill` ends it",
    )
