"""Scripts with streams by the guest agent: each stream is a file in the guest, in a folder of its own.

    with opened(vm, pid, note, limit) as way:
        way.send("cat >/tmp/x", [], lambda write: write(b"..."))

The agent reads and writes files in pieces of some hundred KiB, as text; programs run as its account, mostly
root. Source: QEMU docs/interop/qemu-ga-ref, `guest-file-open`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import secrets
import time

from qvmsh.errors import DeadlineError, GuestUnreachableError, QmpError
from qvmsh.machine.guest.files.ways import Incoming, Pieces
from qvmsh.machine.guest.transports import agent
from qvmsh.machine.guest.wish import Unusable, Wish
from qvmsh.qemu import qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from qvmsh.machine.guest.files.limits import Limit
    from qvmsh.machine.guest.files.ways import Produce
    from qvmsh.machine.guest.result import Result
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

SLICE_BYTES = 384 << 10
"""How much one call reads or writes."""
PIECE_BYTES = 64 << 20
ANSWER_S = 10.0
END_S = 10.0
"""How long removing the folder may take, after a failure too."""

_MADE = "umask 077; mktemp -d /var/tmp/.qvm-XXXXXXXXXX || mktemp -d"
_HOME = 'cd "${HOME:-$(eval echo ~"$(id -un)")}" || cd /; '
"""The agent has no home, and relative paths begin there."""


@contextlib.contextmanager
def opened(vm: BaseMachine, pid: int, note: LaunchRecord, limit: Limit) -> Iterator[Agent]:
    """The agent, with a folder for the streams until the block ends.

    Raises:
        Unusable: there is no agent, or it may not be used for this.
    """
    way = Agent(vm, pid, note, limit)
    made = way.ask(_MADE, [])
    if not made or not made.lines:
        raise Unusable(f"it cannot make a folder: {made.stderr.strip()[:200] or 'no answer'}")
    way.folder = made.lines[0]
    try:
        yield way
    finally:
        with contextlib.suppress(Unusable, QmpError, OSError, GuestUnreachableError):
            way.remove()


class Agent:
    """The way by the agent, see `ways.Way`."""

    name = "agent"
    piece_bytes = PIECE_BYTES

    def __init__(self, vm: BaseMachine, pid: int, note: LaunchRecord, limit: Limit) -> None:
        self._vm, self._pid, self._note, self._limit = vm, pid, note, limit
        self.folder = ""

    def ask(self, script: str, words: Sequence[str], data: bytes = b"") -> Result:
        """Run a script that reads `data`."""
        argv = ("sh", "-c", _HOME + script, "sh", *words)
        wish = Wish(argv, data=data or None, timeout_s=self._limit.total_s, tag=secrets.token_hex(8))
        try:
            return agent.run(self._vm, self._pid, self._note, wish)
        except DeadlineError:
            self._limit.require_time(0.0)
            raise

    def remove(self) -> None:
        """Remove the folder; the agent may be gone."""
        wish = Wish(("rm", "-rf", self.folder), timeout_s=END_S)
        agent.run(self._vm, self._pid, self._note, wish)

    def send(self, script: str, words: Sequence[str], produce: Produce) -> Result:
        """Run a script that reads what `produce` writes."""
        path = f"{self.folder}/stream"
        with self._file(path, "w") as handle:

            def write(data: bytes) -> None:
                for at in range(0, len(data), SLICE_BYTES):
                    self._write(handle, data[at : at + SLICE_BYTES])

            produce(write)
        return self.ask(f"exec <{path}; rm {path}; {script}", words)

    @contextlib.contextmanager
    def received(self, script: str, words: Sequence[str]) -> Iterator[Incoming]:
        """What a script has written."""
        path = f"{self.folder}/stream"
        done = self.ask(f"exec >{path}; {script}", words)
        with self._file(path, "r") as handle:
            yield Incoming(Pieces(lambda: self._read(handle)).read, done)

    @contextlib.contextmanager
    def _file(self, path: str, mode: str) -> Iterator[int]:
        handle = self._call("guest-file-open", {"path": path, "mode": mode})
        try:
            yield handle
        finally:
            with contextlib.suppress(GuestUnreachableError):
                self._call("guest-file-close", {"handle": handle})

    def _write(self, handle: int, data: bytes) -> None:
        text = base64.b64encode(data).decode()
        done = self._call("guest-file-write", {"handle": handle, "buf-b64": text})
        if done["count"] != len(data):
            raise GuestUnreachableError("the guest agent has not written all data", machine=self._vm.name)

    def _read(self, handle: int) -> bytes:
        done = self._call("guest-file-read", {"handle": handle, "count": SLICE_BYTES})
        try:
            data = base64.b64decode(done["buf-b64"], validate=True)
        except binascii.Error:
            data = b""
        if len(data) != done["count"] or (not data and not done["eof"]):
            raise GuestUnreachableError(
                "what answers is not a guest agent: its data is not what it says", machine=self._vm.name
            )
        return data

    def _call(self, command: str, arguments: dict[str, Any]) -> Any:
        """One call; an agent that is silent may be busy, as long as the limit is not reached."""
        since = time.monotonic()
        while True:
            self._limit.step_ms()
            self._limit.require_time(since)
            try:
                return qga.ask(
                    self._note.socket("qga"), command, arguments,
                    timeout_s=min(ANSWER_S, max(0.1, self._limit.left_s)), most_bytes=4 * SLICE_BYTES,
                )  # fmt: skip
            except QmpError as error:
                raise GuestUnreachableError(error.what, machine=self._vm.name) from None
            except qga.NoAgent:  # it was not asked yet
                self._limit.require_time(since)
            except OSError as error:
                raise GuestUnreachableError(
                    f"the guest agent was lost while files were copied: {error.strerror or error}",
                    machine=self._vm.name, hint="`qvm status` shows the machine's state",
                ) from None  # fmt: skip
