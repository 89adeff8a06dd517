"""The keeper of a freeze: freezes the guest by its agent, waits, thaws it. Begun by `freeze_keeper`.

Standard output gets one line of JSON, `{"count": 2}` or `{"error": ...}`; then a line on standard input
says that it was read. Without one, the guest is thawed at once. So it is at SIGTERM, and after its time.

The agent serves one client at a time, so nothing is connected to it meanwhile. To thaw is tried until it
works or QEMU has ended: a paused guest, or one whose agent is busy, is thawed later.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import time

from qvmsh.errors import QmpError, QvmError, StateError
from qvmsh.host import locks, process
from qvmsh.machine import log
from qvmsh.machine.guest import agent
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.reports import plural
from qvmsh.qemu import qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

THAW_S = 10.0
READ_S = 20.0
"""How long qvm may take to read that the guest is frozen."""
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 10.0
"""The time between two attempts to thaw."""
GIVE_UP_S = 300.0
"""How long a guest is tried to be thawed that may not be frozen."""


class _Keeper:
    """One freeze.

    Args:
        order: the machine's directory, QEMU's pid, the agent's socket, the seconds; how long the agent may
            take to show that it is there, and to freeze the guest.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        self.vm = BaseMachine(order["directory"])
        self.seconds = float(order["seconds"])
        self.began = time.monotonic()
        """When the guest was frozen."""
        self.path: str = order["socket"]
        self.present_s, self.freeze_s = float(order["present_s"]), float(order["freeze_s"])
        self.is_uncertain = False
        """It is not known whether the guest is frozen."""
        self.qemu = process.Process(order["pid"])
        self.asked, self._ask = os.pipe()
        """Readable after SIGTERM."""
        os.set_blocking(self._ask, False)

    def catch(self) -> None:
        """Let SIGTERM end the wait, and nothing else."""

        def note_it(_number: int, _frame: object) -> None:
            with contextlib.suppress(BlockingIOError):
                os.write(self._ask, b"x")

        signal.signal(signal.SIGTERM, note_it)
        for each in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(each, signal.SIG_IGN)

    def freeze(self) -> int:
        """Freeze the guest; return the number of its frozen file systems.

        Raises:
            QvmError: it is not frozen, or that `is_uncertain`.
        """
        try:
            with qga.Conversation(self.path, self.present_s) as talk:
                talk.timeout_s = self.freeze_s
                if talk.ask("guest-fsfreeze-status") == "frozen":
                    raise StateError(
                        "the guest's file systems are frozen already", hint="`qvm thaw` thaws them"
                    )
                self.is_uncertain = True
                count: int = talk.ask("guest-fsfreeze-freeze")
                self.is_uncertain = False
        except (OSError, QmpError) as error:
            self.is_uncertain = self.is_uncertain and not isinstance(error, QmpError)
            failure = agent.failure(self.vm, "guest-fsfreeze-freeze", error, self.freeze_s)
            if self.is_uncertain:
                failure.hint = "if it freezes late it is thawed; `qvm status` shows the machine's state"
            raise failure from None
        if count < 1:
            self.is_uncertain = count < 0
            raise QvmError(
                "no file system of the guest could be frozen",
                hint="`qvm info` lists the guest's file systems",
            )
        return count

    def is_heard(self) -> bool:
        """True if qvm has read that the guest is frozen."""
        if process.wait_readable([0, self.qemu.fd, self.asked], READ_S) != 0:
            return False
        return bool(os.read(0, 100))

    def wait(self) -> None:
        """Wait for the end of the time, of QEMU, or for SIGTERM."""
        process.wait_readable([self.qemu.fd, self.asked], self.seconds)

    def thaw(self, limit_s: float = math.inf) -> str:
        """Thaw the guest, however long that takes; return what became of it."""
        pause_s, until = FIRST_PAUSE_S, time.monotonic() + limit_s
        while time.monotonic() < until and not self.qemu.wait(0):
            try:
                count = qga.ask(self.path, "guest-fsfreeze-thaw", timeout_s=THAW_S)
            except QmpError as error:
                return f"could not be thawed: {error.what}"
            except OSError:
                self.qemu.wait(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
            else:
                took_s = time.monotonic() - self.began
                return f"thawed {plural(count, 'file system')} after {took_s:.0f} s" if count else ""
        return ""


def _say(found: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more
        os.write(1, json.dumps(found).encode() + b"\n")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def main() -> None:
    order = json.loads(sys.argv[1])
    try:
        keeper = _Keeper(order)
        vm = keeper.vm
        keeper.catch()
        lock = locks.WorkLock(vm.files.freeze_lock, f"freeze {keeper.seconds:g}").acquire()
    except (OSError, QvmError, locks.Held) as error:
        _say({"error": QvmError(f"the guest cannot be frozen: {error}").as_json()})
        return
    with lock:
        try:
            count = keeper.freeze()
        except QvmError as error:
            if not keeper.is_uncertain:
                os.ftruncate(lock.fd, 0)
            _say({"error": error.as_json()})
            if keeper.is_uncertain:
                keeper.thaw(GIVE_UP_S)
                os.ftruncate(lock.fd, 0)
            return
        lock.begin_again()
        keeper.began = time.monotonic()
        _say({"count": count})
        if keeper.is_heard():
            keeper.wait()
        done = keeper.thaw()
        if done:
            log.note(vm, done, is_error=done.startswith("could not"))
        os.ftruncate(lock.fd, 0)


if __name__ == "__main__":
    main()
