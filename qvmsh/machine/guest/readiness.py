"""Waiting until a guest is ready: its ssh answers. On a time-out, reports what was already true.

wait(vm, qemu_pid, note, timeout_s=60.0)
"""

from __future__ import annotations

import contextlib
import re
import time

from qvmsh.config.variables import VARIABLES
from qvmsh.errors import DeadlineError, LaunchError, QmpError, QvmError
from qvmsh.host import locks, process, ssh_connection, sshd
from qvmsh.machine import crash, launch_record, paths, state
from qvmsh.machine.guest import serial
from qvmsh.machine.guest import ssh as guest
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

STEP_S = 0.1
"""How long one look at the guest's ssh port, and at the caller's wish to stop, takes at most."""

EARLY_SHARE = 0.3
"""Looks at the port are this rare (as a part of the time so far) until the guest has a network."""

REFUSED_S = 10.0
"""How long refused keys are tried again: a guest may install them after its sshd is up."""


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


def wait(vm: BaseMachine, pid: int, note: LaunchRecord, *, timeout_s: float) -> float:
    """Wait until ssh answers and return the seconds it took; its connection stays cached.

    Raises:
        LaunchError: QEMU ended meanwhile.
        GuestUnreachableError: it answers, but will never let us in.
        DeadlineError: `timeout_s` passed; the machine is left as it is.
    """
    began = time.monotonic()
    waiting = _Waiting(vm, note, began + timeout_s)
    try:
        handle = process.Process(pid)
    except ProcessLookupError:
        raise ended(vm) from None
    with handle, waiting.knocking:
        while time.monotonic() < waiting.deadline:
            if process.wait_readable([handle.fd], 0.0) is not None:
                raise ended(vm)
            vm.io.checkpoint()
            if waiting.step(handle.fd):
                return time.monotonic() - began
    raise waiting.report(pid, timeout_s)


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


class _Waiting:
    """What is known so far about a guest that is waited for."""

    def __init__(self, vm: BaseMachine, note: LaunchRecord, deadline: float) -> None:
        self.vm = vm
        self.note = note
        self.link = guest.link(vm, note)
        self.knocking = sshd.Knocking(self.link.host, self.link.port)
        self.deadline = deadline
        self.has_network = False
        self.has_port = False
        self.has_banner = False
        self.refused: ssh_connection.Refused | None = None
        self.refused_since = 0.0

    def step(self, pidfd: int) -> bool:
        """One try; True if the guest let us in."""
        self.has_network = self.has_network or _has_network(self.note)
        share = self.knocking.SHARE if self.has_network else EARLY_SHARE
        answer = self.knocking.step(pidfd, STEP_S, share=share)
        self.has_port = self.has_port or answer != "closed"
        if answer != "ssh":
            return False
        self.has_banner = True
        left = max(1.0, self.deadline - time.monotonic())
        try:
            self.link.open(interactive=False, timeout_s=left)
        except ssh_connection.Refused as refused:
            self._note_refusal(refused)
            process.wait_readable([pidfd], STEP_S)
            return False
        return True

    def _note_refusal(self, refused: ssh_connection.Refused) -> None:
        now = time.monotonic()
        if self.refused is None or self.refused.kind != refused.kind:
            self.refused_since = now
        self.refused = refused
        final = refused.kind in ("host key", "client")
        if final or (refused.kind == "key" and now - self.refused_since > REFUSED_S):
            raise guest.refusal(self.vm, self.link, refused)

    def report(self, pid: int, timeout_s: float) -> DeadlineError:
        """All that is true about a guest that did not become ready."""
        seen = state.observe(self.vm)
        words = self.refused.words.splitlines()[-1:] if self.refused else []
        facts = [
            f"process: QEMU runs, pid {pid}",
            f"state: {seen.kind}" + (f" ({seen.detail})" if seen.detail else ""),
            f"ssh port: {self.link.host}:{self.link.port} " + ("open" if self.has_port else "closed"),
            "ssh banner: " + ("came" if self.has_banner else "none yet"),
            "login: " + (words[0] if words else "not tried" if not self.has_banner else "not done"),
        ]
        console = paths.tail(self.vm.files.serial_log, 5)
        facts += [f"console: {line}" for line in console] or ["console: silent (no output on ttyS0)"]
        facts += [f"QEMU: {line}" for line in paths.tail(self.vm.files.qemu_stderr, 3)]
        return DeadlineError(
            f"the guest did not answer ssh within {timeout_s:.0f} s; it is still running",
            machine=self.vm.name,
            details=facts,
            hint="`qvm status` shows when it answers; `qvm config VM_SSH_ATTEMPTS="
            f"{max(1, round(timeout_s))}` doubles the time from now on; `qvm kill` ends it",
        )


def _has_network(note: LaunchRecord) -> bool:
    """False while the guest's driver has not brought its network device up, so that nothing can answer.

    A virtio device receives everything until the driver sets the addresses to receive.
    Other models do not report this; then a look is as good now as later.
    """
    try:
        filters = qmp.ask(note.socket("qmp"), "query-rx-filter", timeout_s=0.5)
    except (OSError, QmpError):
        return True
    return not filters or not all(each["promiscuous"] for each in filters)
