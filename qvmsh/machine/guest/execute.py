"""A command in the guest, over the first way that leads there.

    execute(vm, Wish(("uname", "-r")))              # Result: "6.1.0-amd64\n", via "ssh"

A way that does not lead into the guest is left for the next one, as long as nothing has been run. Once the
command may have begun, what goes wrong is an error: it is never run twice.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from qvmsh.errors import GuestUnreachableError
from qvmsh.io import Io, unwritable
from qvmsh.machine import programs, state
from qvmsh.machine.guest import frozen, given
from qvmsh.machine.guest import wish as wishes
from qvmsh.machine.guest.transports import agent, serial, ssh
from qvmsh.machine.guest.wish import Unusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.guest.result import Result
    from qvmsh.machine.guest.wish import Wish
    from qvmsh.machine.machine import BaseMachine

_RUN = {"ssh": ssh.run, "agent": agent.run, "serial": serial.run}


def execute(vm: BaseMachine, wish: Wish) -> Result:
    """Run a command in the guest; its status is not checked.

    Raises:
        UsageError: it cannot be run in any guest.
        StateError: the machine is not running, or its guest is held.
        GuestUnreachableError: no way leads into the guest, or the status is unknown.
        DeadlineError: it has not ended in time.
    """
    wishes.require_sound(wish)
    programs.require_accepted(vm)
    awake = (state.RUNNING, state.STARTING, state.SHUT_DOWN, state.CRASHED, state.BROKEN)
    pid, note = state.require(vm, state.observe(vm), "run a command in the guest", *awake)
    frozen.require_thawed(vm, "cannot run a command in the guest")
    began, refused = time.monotonic(), dict[str, str]()
    is_captured = vm.io.capture or vm.io.json
    if wish.timeout_s is not None:
        wish = replace(wish, tag=secrets.token_hex(8))
    for way in wish.ways:
        if way != "ssh" and wish.is_interactive and wish.data is None:
            wish = replace(wish, data=_input(vm, wish, began))
        try:
            done = _RUN[way](vm, pid, note, wish)
        except Unusable as error:
            refused[way] = str(error)
            continue
        done.refused, done.duration_s = refused, time.monotonic() - began
        if not (is_captured or done.is_streamed):
            _write(vm, done)
        return done
    why = [f"{way}: {reason}" for way, reason in refused.items()]
    raise GuestUnreachableError(
        "no way leads into the guest, so nothing was run", machine=vm.name, details=why,
        hint="`qvm status` shows the machine's state; `qvm console` is the guest's serial console",
    )  # fmt: skip


def _input(vm: BaseMachine, wish: Wish, began: float) -> bytes:
    """All of standard input, for a way that sends it at the beginning; of too much, one byte too much."""
    until = None if wish.timeout_s is None else began + wish.timeout_s
    found = bytearray()
    for data in given.pieces(vm, until=until, what="nothing was run"):
        found += data
        if len(found) > agent.MOST_BYTES:
            break
    return bytes(found[: agent.MOST_BYTES + 1])


def captured(vm: BaseMachine, wish: Wish) -> Result:
    """As `execute`; the output is in the result alone, on the command line too."""
    return execute(vm.with_io(_Capturing(vm.io)), wish)


class _Capturing(Io):
    """The caller's side of a command whose output is not for the caller."""

    def __init__(self, io: Io) -> None:
        super().__init__(capture=True, level=0, debug=io.debug)
        self._io = io

    def checkpoint(self) -> None:
        self._io.checkpoint()


def _write(vm: BaseMachine, done: Result) -> None:
    """Write what the command wrote, byte by byte."""
    try:
        for stream, data in (
            (vm.io.stderr, done.stderr.encode(errors="surrogateescape")),
            (vm.io.stdout, bytes(done)),
        ):
            stream.flush()
            stream.buffer.write(data)
            stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(error, vm.name) from None
    done.is_streamed = True
