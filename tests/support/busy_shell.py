"""A shell that is busy while it is asked to end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable
from typing import Any

import pexpect
import pytest

from tests.support.world import DEADLINE_S, Vm

BUSY = {
    "idle": "",
    "word": "start",
    "function": "start()",
    "program": "sleep 60",
    "python": "import time; time.sleep(60)",
}

ENDS = {"terminal closed": 129, "SIGTERM": 143}
"""How a session is ended, and its exit status then."""


def by_default(rows: Iterable[tuple[Any, ...]], kept: Collection[tuple[Any, ...]]) -> list[Any]:
    """Parameters of a test: those in `kept` run by default, the others with `--all`."""
    return [row if row in kept else pytest.param(*row, marks=pytest.mark.long) for row in rows]


def end(child: pexpect.spawn, how: str) -> None:
    """End a session in one of the ways of ENDS."""
    if how == "SIGTERM":
        child.kill(signal.SIGTERM)
    else:
        child.ptyproc.fileobj.close()


def until_busy(vm: Vm, busy: str) -> None:
    """Wait until the line runs: its process is there, or (plain Python) for a moment."""
    what = {"program": "sleep 60", "word": "qemu-system", "function": "qemu-system"}.get(busy, "")
    deadline = time.monotonic() + DEADLINE_S
    while what and not any(what in line for line in vm.world.processes().values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)


def end_of(child: pexpect.spawn) -> int:
    """Exit status of a child whose terminal may be gone; it must end in time."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(child.pid, signal.SIGKILL)
            raise AssertionError("the session goes on")
        if not child.ptyproc.fileobj.closed:
            _drain(child.child_fd)
        time.sleep(0.02)
    child.terminated = child.closed = child.ptyproc.terminated = child.ptyproc.closed = True
    if not child.ptyproc.fileobj.closed:
        child.ptyproc.fileobj.close()
    return os.waitstatus_to_exitcode(status)


def _drain(fd: int) -> None:
    """Read what a session says on leaving, so that it need not wait for a reader."""
    import select

    if select.select([fd], [], [], 0)[0]:
        try:
            os.read(fd, 65536)
        except OSError:
            pass
