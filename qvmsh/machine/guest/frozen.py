"""Is the guest frozen by `qvm freeze`? Its keeper holds a lock as long as it is, and thaws it.

    found = of(vm)              # Frozen(until=1795...), None if it is not
    require_thawed(vm, "cannot archive")
    end_keeper(vm)

The lock's file names the keeper and the time (`host.locks`). The keeper empties it at its end; a file that
names a keeper without a lock is that of one that was killed, so the guest may still be frozen.
"""

from __future__ import annotations

import contextlib
import os
import time

from qvmsh.errors import QmpError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process
from qvmsh.qemu import qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

KEEPER = "qvmsh.machine.guest.freeze_keeper_main"
"""The program that thaws the guest at its time."""
END_S = 15.0
"""How long a keeper that is to end may take: it thaws the guest first."""
THAW_S = 20.0
LOST = "`qvm stop` powers the machine off, `qvm kill` ends it: only the guest agent can thaw the guest"
"""What to do about a frozen guest whose agent does not answer."""


class Frozen:
    """A guest that is frozen.

    Args:
        until: seconds since the epoch; None if nothing thaws it.
        pid: the keeper's; 0 without one.
    """

    __slots__ = ("pid", "until")

    def __init__(self, until: float | None, pid: int) -> None:
        self.until = until
        self.pid = pid

    def __str__(self) -> str:
        if self.until is None:
            return "the guest's file systems may be frozen: what was to thaw them was killed"
        if self.until < time.time():
            return "the guest's file systems are frozen; thawing them in time has not worked yet"
        clock = time.strftime("%T", time.localtime(self.until))
        return f"the guest's file systems are frozen until {clock} (`qvm freeze`)"


def of(vm: BaseMachine) -> Frozen | None:
    """How the guest is frozen; None if it is not, as far as is known without asking it."""
    path = vm.files.freeze_lock
    if not os.path.lexists(path):
        return None
    by = locks.working(path)
    if by is not None:
        seconds = by.what.partition(" ")[2]
        try:
            return Frozen(by.since + float(seconds), by.pid)
        except ValueError:  # it begins, or ends
            return None
    try:
        is_left = bool(host_files.read(path).text) and locks.holder(vm.files.pid_file) is not None
    except OSError:
        return None
    return Frozen(None, 0) if is_left else None


def require_thawed(vm: BaseMachine, cannot: str) -> None:
    """Refuse what needs the guest while its file systems are frozen.

    Args:
        cannot: how the error begins.

    Raises:
        StateError: they are.
    """
    found = of(vm)
    if found is not None:
        raise StateError(
            f"{cannot}: {found}", machine=vm.name, hint="`qvm thaw` thaws them now", actual="frozen"
        )


def end_keeper(vm: BaseMachine) -> None:
    """End the keeper, if there is one; it makes sure that the guest is thawed."""
    path = vm.files.freeze_lock
    by = locks.working(path)
    if by is not None and by.pid and KEEPER in process.arguments(by.pid):
        with contextlib.suppress(OSError), process.Process(by.pid) as handle:
            handle.signal(process.SIGTERM)
            if not handle.wait(END_S):
                return
    with contextlib.suppress(OSError):
        host_files.remove(path)


def forget(vm: BaseMachine) -> None:
    """Remove what is known of a freeze whose QEMU has ended."""
    if os.path.lexists(vm.files.freeze_lock):
        end_keeper(vm)


def thaw_first(vm: BaseMachine, note: LaunchRecord) -> None:
    """Thaw a frozen guest that is to power off, which it could not do frozen; with a warning."""
    if of(vm) is None:
        return
    vm.io.warn(f"{vm.name}: its file systems are frozen: thawing them, so that it can power off")
    with contextlib.suppress(OSError, QmpError):
        qga.ask(note.socket("qga"), "guest-fsfreeze-thaw", timeout_s=THAW_S)
    end_keeper(vm)
