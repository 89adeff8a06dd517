"""Scripts with streams by ssh: one session for each, all on one connection.

with opened(vm, note, limit) as way:
    way.ask("uname", [])                # Result
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import select
import subprocess
import threading
import time

from qvmsh.errors import GuestUnreachableError, QvmError
from qvmsh.host import files as host_files
from qvmsh.host import ssh_connection, transfer
from qvmsh.machine import state
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest import wish as wishes
from qvmsh.machine.guest.files.ways import Incoming
from qvmsh.machine.guest.result import Result
from qvmsh.machine.guest.wish import Unusable, Wish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qvmsh.machine.guest.files.limits import Limit
    from qvmsh.machine.guest.files.ways import Produce
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

LOOK_S = 3.0
"""How long ssh is waited for where another way could be used instead."""
KEPT_BYTES = 1 << 16
"""How much of a script's messages is kept."""
PIPE_BYTES = 1 << 20


@contextlib.contextmanager
def opened(vm: BaseMachine, note: LaunchRecord, limit: Limit, *, is_last: bool) -> Iterator[Ssh]:
    """A connection that nothing else uses until the block ends.

    Raises:
        Unusable: ssh does not lead into the guest.
    """
    if not note.ssh_port:
        raise Unusable("the machine has no network for ssh")
    with contextlib.ExitStack() as stack:
        try:
            found = guest.link(vm, note)
            if not (is_last or found.is_open() or guest.speaks(found, timeout_s=LOOK_S)):
                raise Unusable(f"ssh does not answer at {found.host}:{found.port}")
            limit_s = min(guest.LOG_IN_S, limit.left_s)
            try:
                own = stack.enter_context(found.taken(interactive=False, timeout_s=limit_s))
            except ssh_connection.Refused as refused:
                raise guest.refusal(vm, found, refused) from None  # or what is wrong with the key
        except QvmError as error:
            raise Unusable(error.what) from None
        yield Ssh(vm, own, limit)


class Ssh:
    """The way by ssh, see `ways.Way`."""

    name = "ssh"
    piece_bytes = 1 << 62

    def __init__(self, vm: BaseMachine, own: ssh_connection.Link, limit: Limit) -> None:
        self._vm = vm
        self._own = own
        self._limit = limit

    def ask(self, script: str, words: Sequence[str], data: bytes = b"") -> Result:
        """Run a script that reads `data`."""
        return self.send(script, words, lambda write: write(data))

    def send(self, script: str, words: Sequence[str], produce: Produce) -> Result:
        """Run a script that reads what `produce` writes; one that ends early is not an error here."""
        with self.session(_line(script, words)) as session:
            with contextlib.suppress(BrokenPipeError):
                produce(session.write)
            return session.finished()

    @contextlib.contextmanager
    def received(self, script: str, words: Sequence[str]) -> Iterator[Incoming]:
        """What a script writes, while the block reads it."""
        mark = secrets.token_hex(16)
        with self.session(_line(f"printf %s {mark}; {script}", words)) as session:
            session.close_input()
            session.skip_to(mark.encode())
            stream = Incoming(session.read)
            yield stream
            stream.done = session.finished()

    @contextlib.contextmanager
    def session(self, words: Sequence[str], *options: str) -> Iterator[Session]:
        """A session in the guest, ended with the block."""
        log = host_files.unique(f"{self._own.log}-")
        with host_files.Removed(log), self._own.ended_by_failure():
            argv = self._own.command(words, tty=False, log=log)
            at = argv.index("--")
            child = subprocess.Popen(
                [*argv[:at], *options, *argv[at:]],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            session = Session(child, self._vm, self._own, log, self._limit)
            try:
                yield session
            finally:
                session.end()


def _line(script: str, words: Sequence[str]) -> list[str]:
    return [wishes.script(Wish(("sh", "-c", script, "sh", *words)))]


class Session:
    """One session of ssh with deadlines; its standard error is read by a thread."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        vm: BaseMachine,
        own: ssh_connection.Link,
        log: str,
        limit: Limit,
    ) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._child, self._vm, self._own, self._log, self._limit = child, vm, own, log, limit
        self._input, self._output = child.stdin, child.stdout
        os.set_blocking(self._input.fileno(), False)
        for pipe in (self._input, self._output):
            transfer.widen_pipe(pipe.fileno(), PIPE_BYTES)
        self._buffer = io.BufferedReader(_Raw(self._output.fileno(), limit), PIPE_BYTES)
        self._errors = b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()
        self._began = time.monotonic()

    def _drain(self) -> None:
        assert self._child.stderr is not None
        with self._child.stderr as errors:
            while data := os.read(errors.fileno(), KEPT_BYTES):
                self._errors = (self._errors + data)[:KEPT_BYTES]

    def write(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            BrokenPipeError: the script has ended.
            DeadlineError: it does not read.
        """
        view, fd = memoryview(data), self._input.fileno()
        since = time.monotonic()
        self._limit.require_time(since)
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while view:
            try:
                view = view[os.write(fd, view) :]
                since = time.monotonic()
            except BlockingIOError:
                if not poll.poll(self._limit.step_ms()):
                    self._limit.require_time(since)

    def read(self, count: int) -> bytes:
        """The next bytes; fewer than asked for only at the end."""
        return self._buffer.read(count)

    def read_some(self, count: int) -> bytes:
        """What has come, at least one byte; none at the end."""
        return self._buffer.read1(count)

    def skip_to(self, mark: bytes) -> None:
        """Leave out what a shell writes when it begins."""
        found = b""
        while not found.endswith(mark):
            data = self.read(1)
            found += data
            if not data or len(found) > KEPT_BYTES:
                return  # its end says why

    def close_input(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._input.close()

    def finished(self) -> Result:
        """The end of the script, with the rest of what it writes.

        Raises:
            GuestUnreachableError: the guest was lost, so its status is not known.
        """
        self.close_input()
        output = self.read(KEPT_BYTES)
        while self.read_some(KEPT_BYTES):
            pass
        since = time.monotonic()
        while True:
            try:
                status = self._child.wait(self._limit.step_ms() / 1000)
                break
            except subprocess.TimeoutExpired:
                self._limit.require_time(since)
        self._thread.join(self._limit.left_s)
        known, said = self._own.outcome(self._log, status)
        if known is None or status < 0:
            raise self.lost(said)
        took_s = time.monotonic() - self._began
        return Result.of_bytes(output, self._errors, status=status, machine=self._vm.name, duration_s=took_s)

    def lost(self, said: str = "") -> GuestUnreachableError:
        """The error where the connection has gone."""
        seen = state.observe(self._vm)
        why = f": the machine is {seen}" if seen.kind != state.RUNNING else ""
        return GuestUnreachableError(
            f"the connection to the guest was lost while files were copied{why}", machine=self._vm.name,
            details=said.splitlines()[-1:], hint="`qvm status` shows the machine's state",
        )  # fmt: skip

    def end(self) -> None:
        """End the session, whatever has happened."""
        if self._child.poll() is None:
            self._child.kill()  # the connection's process has its streams too: the thread ends with it
        self._child.wait()
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):
                pipe.close()


class _Raw(io.RawIOBase):
    """A pipe that is read with deadlines."""

    def __init__(self, fd: int, limit: Limit) -> None:
        super().__init__()
        self._fd = fd
        self._limit = limit
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # a buffer of any kind
        since = time.monotonic()
        self._limit.require_time(since)
        while not self._poll.poll(self._limit.step_ms()):
            self._limit.require_time(since)
        return os.readv(self._fd, [buffer])
