"""Beginning the keeper of a freeze: a process that freezes the guest, and thaws it when its time is over.

    count = begin(vm, pid, note, 60.0)      # 2 file systems are frozen now

It is a process of its own, so that the guest is thawed even if qvm, or the shell it runs in, is killed. It
freezes the guest itself: there is no moment at which a guest is frozen and nothing would thaw it. If qvm is
killed before it has heard of the freeze, the keeper thaws at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from subprocess import DEVNULL, PIPE

from qvmsh import errors
from qvmsh.errors import DeadlineError, QvmError
from qvmsh.host import process
from qvmsh.machine.guest import agent
from qvmsh.machine.guest.frozen import KEEPER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

FREEZE_S = 30.0
"""How long the guest may take to write out what it holds back."""
BEGIN_S = 90.0
"""How long the keeper may take to freeze the guest, with its own start on a busy host."""
_MOST_BYTES = 65536


def begin(vm: BaseMachine, pid: int, note: LaunchRecord, seconds: float) -> int:
    """Freeze the guest; return how many file systems are frozen now.

    Raises:
        QvmError: it is not frozen; the keeper's own error, or that there is no keeper.
    """
    order = {
        "directory": vm.directory, "pid": pid, "socket": note.socket("qga"), "seconds": seconds,
        "present_s": agent.PRESENT_S, "freeze_s": FREEZE_S,
    }  # fmt: skip
    words = [sys.executable, "-X", "utf8", "-P", "-m", KEEPER, json.dumps(order)]
    package = os.path.dirname(os.path.dirname(os.path.abspath(errors.__file__)))
    paths = [package, os.environ.get("PYTHONPATH", "")]
    child = process.begin(
        # a child of nobody here, so that nobody here has to wait for its end
        ["/bin/sh", "-c", 'exec 3<&0; "$@" <&3 3<&- &', "qvm-freeze", *words],
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        cwd="/",
        env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        start_new_session=True,  # what is meant for our group does not end it
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError), child:  # without our `keep` it thaws
        found = _report(vm, child.stdout.fileno())
        if "error" in found:
            raise _of_keeper(vm, found["error"])
        child.stdin.write(b"keep\n")
        child.stdin.flush()
        return int(found["count"])
    raise _ended(vm)


def _report(vm: BaseMachine, fd: int) -> dict[str, Any]:
    """What the keeper says, once it has."""
    deadline = time.monotonic() + BEGIN_S
    data = b""
    while not data.endswith(b"\n"):
        if process.wait_readable([fd], deadline - time.monotonic(), vm.io.checkpoint) is None:
            raise DeadlineError(
                f"the guest was not frozen within {BEGIN_S:.0f} s, and will not be", machine=vm.name,
                hint="the host is very busy",
            )  # fmt: skip
        piece = os.read(fd, _MOST_BYTES)
        if not piece:
            raise _ended(vm)
        data += piece
    found: dict[str, Any] = json.loads(data)
    return found


def _ended(vm: BaseMachine) -> QvmError:
    return QvmError(
        "the process that freezes the guest ended unexpectedly", machine=vm.name,
        hint="`qvm thaw` makes sure that the guest is not frozen",
    )  # fmt: skip


def _of_keeper(vm: BaseMachine, found: dict[str, Any]) -> QvmError:
    """The error that the keeper met."""
    kind: type[QvmError] = getattr(errors, found["kind"])
    return kind(found["message"], machine=vm.name, hint=found["hint"], details=found["details"])
