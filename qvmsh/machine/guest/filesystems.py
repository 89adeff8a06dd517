"""The guest's file systems: written out, and frozen by the guest agent for a moment.

    guest = Freezing(vm, note)
    guest.write_out()               # by the agent, else by ssh; now freezing takes no time
    try:
        is_frozen = guest.freeze()
        ...the moment...
    finally:
        guest.thaw()

One conversation with the agent serves for both: to begin another takes a busy guest longer than to freeze.
The journal records it before, so that a killed qvm leaves no frozen guest (`thaw`).
Source: QEMU docs/interop/qemu-ga-ref, guest-fsfreeze-freeze.
"""

from __future__ import annotations

import contextlib
import time

from qvmsh.errors import QmpError, QvmError
from qvmsh.machine.guest import ssh as guest
from qvmsh.qemu import qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

AGENT_S = 1.0
FREEZE_S = 20.0
SYNC_S = 60.0


class Freezing:
    """What can be done in the guest of a running machine.

    Args:
        is_trying: False = the file systems are not to be frozen.
    """

    def __init__(self, vm: BaseMachine, note: LaunchRecord, *, is_trying: bool = True) -> None:
        self.vm = vm
        self.note = note
        self._agent: qga.Conversation | None = None
        if is_trying:
            with contextlib.suppress(OSError, QmpError):
                self._agent = qga.Conversation(note.socket("qga"), AGENT_S)

    @property
    def has_agent(self) -> bool:
        """True if the guest agent answers, so that there is something to freeze."""
        return self._agent is not None

    def write_out(self) -> None:
        """Let the guest write what it holds back (`sync`); one that nobody reaches is taken as it is."""
        if self._agent is None:
            self._sync_by_ssh()
            return
        try:
            self._agent.timeout_s = AGENT_S
            started = {"pid": self._agent.ask("guest-exec", {"path": "sync"})["pid"]}
            deadline = time.monotonic() + SYNC_S
            while time.monotonic() < deadline:
                if self._agent.ask("guest-exec-status", started)["exited"]:
                    return
                self.vm.io.checkpoint()
                time.sleep(0.02)  # the agent does not report its end
        except QmpError:  # it may run no programs
            self._sync_by_ssh()
        except OSError:
            self._agent.close()
            self._agent = None
            self._sync_by_ssh()

    def _sync_by_ssh(self) -> None:
        import subprocess

        try:
            is_there, _ = guest.answers(self.vm, self.note, timeout_s=5.0)
            if is_there:
                guest.link(self.vm, self.note).run("sync", timeout_s=SYNC_S)
        except (QvmError, OSError, subprocess.TimeoutExpired):
            pass

    def freeze(self) -> bool:
        """True if the guest's file systems are frozen now."""
        if self._agent is None:
            return False
        self._agent.timeout_s = FREEZE_S
        try:
            return bool(self._agent.ask("guest-fsfreeze-freeze"))
        except (OSError, QmpError) as error:
            self.vm.io.warn(f"{self.vm.name}: the guest could not be frozen ({error})")
            return False

    def thaw(self) -> None:
        """Thaw the guest's file systems and release the agent."""
        if self._agent is None:
            return
        agent, self._agent = self._agent, None
        try:
            agent.ask("guest-fsfreeze-thaw")
        except (OSError, QmpError):
            agent.close()
            thaw(self.note)
        finally:
            agent.close()


def thaw(note: LaunchRecord) -> None:
    """Thaw the guest's file systems; without an agent none are frozen."""
    with contextlib.suppress(OSError, QmpError):
        qga.ask(note.socket("qga"), "guest-fsfreeze-thaw", timeout_s=FREEZE_S)
