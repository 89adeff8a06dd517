"""Which of several consoles may write: the lock, and the request to release it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from qvmsh.errors import LockedError
from qvmsh.host import locks, process, sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

TAKE_S = 20.0


class Hold:
    """The right to write to the console, from the moment it is free.

    Args:
        is_taking: ask the current holder to leave.
    """

    def __init__(self, vm: BaseMachine, note: LaunchRecord, *, is_taking: bool) -> None:
        self.vm = vm
        self.note = note
        self.is_taking = is_taking
        self.lock = locks.WorkLock(note.socket("console.lock"), "console")
        self.door: socket.socket | None = None

    def __enter__(self) -> Hold:
        try:
            self._acquire()
        except PermissionError:
            raise LockedError("the console is in use by somebody else", machine=self.vm.name) from None
        try:
            with process.Shielded():  # a socket that is made is removed too
                self.door = sockets.listening(self.note.runtime, ["console"])["console"]
        except BaseException:
            self.leave()
            raise
        return self

    def _acquire(self) -> None:
        try:
            self.lock.acquire()
            return
        except locks.Held as held:
            by = held.by
        who = f"{process.user(by.pid)}, pid {by.pid}" if by.pid else "another qvm"
        if not self.is_taking:
            since = f", since {time.strftime('%T', time.localtime(by.since))}" if by.since else ""
            raise LockedError(
                f"the console is in use ({who}{since})",
                machine=self.vm.name,
                hint="`qvm console --take` takes it over, `qvm console --watch` only watches",
            )
        _ask_to_leave(self.note.socket("console"))
        try:
            self.lock.acquire()
        except locks.Held as held:
            frozen = held.by.pid and process.is_stopped(held.by.pid)
            raise LockedError(
                f"the console's user does not release it ({who}" + (", stopped)" if frozen else ")"),
                machine=self.vm.name,
                hint=f"`kill {held.by.pid}` ends it" if held.by.pid else None,
            ) from None

    def asked_by(self) -> str:
        """The caller that asks to take over."""
        assert self.door is not None
        with self.door.accept()[0] as caller:
            data = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, uid, _ = struct.unpack("3i", data)
            self.leave()  # before the caller continues
        return f"{process.user_name(uid)}, pid {pid}"

    def leave(self) -> None:
        """Release the console; a caller that waits for it continues."""
        if self.door is not None:
            path = self.note.socket("console")
            self.door.close()
            self.door = None
            with contextlib.suppress(OSError):  # the machine has gone, and its folder with it
                os.unlink(path)
        self.lock.release()

    def __exit__(self, *_: object) -> None:
        self.leave()


def _ask_to_leave(path: str) -> None:
    """Knock at the holder's door and wait until it has left."""
    with socket.socket(socket.AF_UNIX) as door:
        door.settimeout(TAKE_S)
        with contextlib.suppress(OSError):  # it leaves by itself just now, or is stopped: the lock will show
            door.connect(path)
            door.recv(1)
