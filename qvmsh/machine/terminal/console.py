"""The guest's serial console on this terminal, or in a pipe: one writes, any number watch.

    attach(vm, Options())      # until Ctrl-], the end of QEMU, or a takeover

The output is read from the serial log, which `guest.serial` keeps: so old and new output meet without a gap,
a watcher sees what the writer sees, and a slow or stopped terminal never blocks the guest. The input goes to
the keeper's socket `serial`. One console may write: the holder of `console.lock` in the runtime folder, which
listens on the socket `console` beside it for a request to take over.
"""

from __future__ import annotations

import os
import re
import select
import socket
import time
from dataclasses import dataclass

from qvmsh.errors import DeadlineError, LockedError, StateError, UsageError, printable
from qvmsh.host import inotify, process, tty_mode
from qvmsh.io import isatty, tell, unwritable
from qvmsh.machine import crash, state
from qvmsh.machine.guest import serial
from qvmsh.machine.guest.console_lock import Hold
from qvmsh.machine.power.logs import Follower
from qvmsh.machine.terminal.pace import PIECE_BYTES, STUCK_S, Pace
from qvmsh.machine.work import cleanup
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

LINES = 24
CTRL_C = b"\x03"
_WAITING_BYTES = 65536
_DARK_S = 1.0
"""How long bytes may come from the socket without the log growing, before the log counts as dead."""
LINGERS = 60
"""How many times --linger a guest may keep sending output after the end of the input."""
_QUERIES = re.compile(rb"\x1b\[[\d;>=?]*[cn]|\x1bZ|\x05")
"""What a terminal answers by itself: from the history, the answers would be typed into the guest."""
_END_S = 1.0
"""How long a QEMU whose console was closed may take to end."""


@dataclass(frozen=True)
class Options:
    """How `console` was called; see its help."""

    is_watching: bool = False
    is_taking: bool = False
    escape: str = "^]"
    linger_s: float = 1.0


def key_of(name: str) -> bytes:
    """The byte of a key written as `^]`.

    Raises:
        UsageError: it is not a control key.
    """
    if len(name) == 2 and name[0] == "^" and "@" <= name[1].upper() <= "_":
        return bytes([ord(name[1].upper()) & 0x1F])
    raise UsageError(f"console: --escape {name}: must be a control key such as ^] or ^A")


def attach(vm: BaseMachine, options: Options) -> None:
    """Be the console until it ends; see `commands.console`.

    Raises:
        StateError: the machine is not running, or has no serial console.
        LockedError: the console is in use, or was taken over.
        DeadlineError: the guest did not read all of standard input.
    """
    escape = key_of(options.escape)
    if vm.io.json:
        raise UsageError("console: --json does not apply to a console", machine=vm.name)
    pid, note = state.require_live(vm, "open the console")
    if options.is_watching:
        with _Session(vm, pid, note, options, escape) as session:
            session.run()
        return
    _require_ours(vm, note)
    with (
        Hold(vm, note, is_taking=options.is_taking) as hold,
        _Session(vm, pid, note, options, escape, hold) as session,
    ):
        session.run()


def _require_ours(vm: BaseMachine, note: LaunchRecord) -> None:
    """Refuse a machine without a console, or with one on a terminal."""
    with state.Answering(vm):
        devices = qmp.ask(note.socket("qmp"), "query-chardev", timeout_s=state.GREETING_S)
    found = {each["label"]: each["filename"] for each in devices}.get("serial")
    if found is None:
        raise StateError("the machine has no serial console", machine=vm.name, hint=serial.HINT)
    if found != "pipe" and "unix:" not in found:  # a socket: of a QEMU that an older qvm began
        raise StateError(
            "the serial console is on the terminal of `qvm run`",
            machine=vm.name,
            hint="`qvm console --watch` shows its output here",
        )


class _Session:
    """One conversation: standard input to the guest, the serial log to standard output.

    Args:
        hold: the right to write; None where only watched.

    Raises:
        UsageError: standard input or output is not a file.
    """

    def __init__(
        self,
        vm: BaseMachine,
        pid: int,
        note: LaunchRecord,
        options: Options,
        escape: bytes,
        hold: Hold | None = None,
    ) -> None:
        self.vm = vm
        self.pid = pid
        self.note = note
        self.options = options
        self.escape = escape
        self.hold = hold
        self.line: socket.socket | None = None
        try:
            self.stdin, self.stdout = vm.io.stdin.fileno(), vm.io.stdout.fileno()
        except (OSError, ValueError):
            raise UsageError("console: needs a terminal, or files", machine=vm.name) from None
        self.is_interactive = isatty(vm.io.stdin) and isatty(vm.io.stdout)
        self.pending = b""
        self.has_input = hold is not None or self.is_interactive
        self.moved_at = self.input_ended_at = time.monotonic()
        self.pace: Pace | None = None

    def __enter__(self) -> _Session:
        self.raw = tty_mode.Raw(self.stdin if self.is_interactive else -1)
        self.qemu = process.Process(self.pid)
        self.changes = inotify.Watch(self.vm.files.logs)
        # the log before the socket: whatever the socket brings, the log then has too
        lines = LINES if self.is_interactive or self.hold is None else 0
        self.output = _Output(self.vm, lines, is_terminal=self.is_interactive)
        if self.hold is not None and not self.is_interactive:
            self.pace = Pace(self.output.before, self.options.linger_s)
        self.line = serial.connect(self.vm, self.note, self.pid)
        if self.is_interactive:
            verb = "watching" if self.hold is None else "connected to"
            tell(self.vm.io.stderr, f"{verb} the console of {self.vm.name}; {self.options.escape} detaches")
        return self

    def __exit__(self, *_: object) -> None:
        if self.line is not None:
            self.line.close()
        self.output.close()
        self.changes.close()
        self.qemu.close()

    def run(self) -> None:
        """Talk until it ends; then restore the terminal and say why."""
        try:
            with self.raw:
                why = self._talk()
        finally:
            if self.is_interactive:
                try:
                    os.write(self.stdout, tty_mode.TIDY + b"\r\n")
                except OSError:  # the terminal has gone
                    pass
        if why:
            if self.is_interactive:
                tell(self.vm.io.stderr, f"[{self.vm.name}: {printable(why)}]")
            elif crash.has_crashed(self.vm):
                self.vm.io.warn(f"{self.vm.name}: {why}")
            else:
                self.vm.io.say(f"{self.vm.name}: {why}")

    def _talk(self) -> str:
        """Until something ends it; return what did, as a remark."""
        while True:
            ready = self._wait()
            if self.stdin in ready and not self._type():
                return f"detached; `qvm console -C {self.vm.directory}` reattaches"
            if self.line is not None and self.line.fileno() in ready:
                self._exchange()
            if self.hold and self.hold.door and self.hold.door.fileno() in ready:
                self._taken()
            if self.changes.fileno() in ready:
                self.changes.drain()
            self._print(is_all=False)
            if self.qemu.fd in ready or (self.line is None and not self._come_back()):
                return self._ended()
            if self._is_drained():
                return ""

    def _wait(self) -> set[int]:
        """The descriptors that something can be done with."""
        poll = select.poll()
        if self.has_input and len(self.pending) < _WAITING_BYTES:
            poll.register(self.stdin, select.POLLIN)
        if self.line is not None:
            poll.register(self.line.fileno(), select.POLLIN | (select.POLLOUT if self._due else 0))
        if self.hold and self.hold.door:
            poll.register(self.hold.door.fileno(), select.POLLIN)
        poll.register(self.changes.fileno(), select.POLLIN)
        poll.register(self.qemu.fd, select.POLLIN)
        poll.register(self.stdout, select.POLLOUT if self.output.has_more else 0)
        found = dict(poll.poll(self._patience_ms()))
        if found.get(self.stdout, 0) & (select.POLLERR | select.POLLHUP):
            raise BrokenPipeError
        return set(found)

    def _patience_ms(self) -> float | None:
        """How long nothing may happen; None = for ever."""
        waits = [] if self._silence_s is None else [self.moved_at + self._silence_s]
        if self.output.dark_at:
            waits.append(self.output.dark_at)
        if self.pending and self.pace and self.pace.is_waiting:
            waits.append(self.pace.opens_at())
        return max(0.0, min(waits) - time.monotonic()) * 1000 + 1 if waits else None

    @property
    def _silence_s(self) -> float | None:
        """How long nothing may move in a pipe before that means something."""
        if self.is_interactive or self.hold is None:
            return None
        if self.pending:
            return max(self.options.linger_s, STUCK_S) if self._due else None
        return None if self.has_input else self.options.linger_s

    def _type(self) -> bool:
        """Take what was typed; False if it was the key that detaches."""
        try:
            data = os.read(self.stdin, PIECE_BYTES)
        except OSError:  # the terminal has gone
            data = b""
        if not data:
            if self.is_interactive:
                raise tty_mode.HungUp
            self.has_input = False
            self.moved_at = self.input_ended_at = time.monotonic()
            return True
        is_detaching = False
        if self.is_interactive and self.escape in data:
            data, is_detaching = data.partition(self.escape)[0], True
        if self.hold is None:
            is_detaching = is_detaching or CTRL_C in data
        else:
            self.pending += data
            if self.line is not None:
                self._exchange()
        return not is_detaching

    @property
    def _due(self) -> bytes:
        """What of the input may go to the guest now."""
        return self.pace.take(self.pending, is_all=not self.has_input) if self.pace else self.pending

    def _exchange(self) -> None:
        """Send the input to the guest; receive its output, which the log has too."""
        assert self.line is not None
        try:
            if due := self._due:
                sent = self.line.send(due)
                self.pending = self.pending[sent:]
                self.moved_at = self.input_ended_at = time.monotonic()
                if self.pace:
                    self.pace.sent(due[:sent])
        except BlockingIOError:
            pass
        except OSError:
            self.line = None
            return
        try:
            while data := self.line.recv(65536):
                self.output.heard(data)
                if self.pace:
                    self.pace.heard(data)
                self.moved_at = time.monotonic()
        except BlockingIOError:
            return
        except OSError:
            pass
        self.line = None

    def _print(self, *, is_all: bool) -> None:
        """Show what the log has, as far as it is taken."""
        while is_all or select.select([], [self.stdout], [], 0)[1]:
            data = self.output.read()
            if not data:
                return
            self.moved_at = time.monotonic()
            while data:
                try:
                    data = data[os.write(self.stdout, data) :]
                except BrokenPipeError:
                    raise
                except OSError as error:
                    raise unwritable(error, self.vm.name) from None

    def _taken(self) -> None:
        assert self.hold is not None
        if self.line is not None:
            self.line.close()
            self.line = None
        by = self.hold.asked_by()
        raise LockedError(
            f"the console was taken over by {by}",
            machine=self.vm.name,
            hint="`qvm console --watch` watches it, `qvm console --take` takes it back",
        )

    def _is_drained(self) -> bool:
        """True once standard input is at its end and the guest has been silent for long enough.

        DeadlineError: the guest reads no more of it, or does not stop its output.
        """
        if self.pending and not self._due:
            self.moved_at = self.input_ended_at = time.monotonic()
        if self._silence_s is None:
            return False
        most_s = max(STUCK_S, LINGERS * self.options.linger_s)
        if not self.has_input and time.monotonic() - self.input_ended_at > most_s:
            raise DeadlineError(
                f"the guest is still sending output {most_s:.0f} s after the end of the input",
                machine=self.vm.name,
                hint="a longer --linger waits longer; `qvm logs --follow serial` shows all its output",
            )
        if time.monotonic() - self.moved_at < self._silence_s:
            return False
        if self.pending:
            raise DeadlineError(
                f"the guest did not read all of standard input: for {self._silence_s:.0f} s it read nothing",
                machine=self.vm.name,
                hint="`qvm status` shows whether it is paused",
            )
        return True

    def _come_back(self) -> bool:
        """The line was closed: False as QEMU has ended; else its keeper was killed, and has a successor."""
        if self.qemu.wait(_END_S):
            return False
        self.line = serial.connect(self.vm, self.note, self.pid)
        return True

    def _ended(self) -> str:
        """QEMU has ended; the log is whole once its keeper has."""
        serial.wait_end(self.note.runtime)
        self._print(is_all=True)
        cleanup.tidy(self.vm)
        return crash.last_words(self.vm)


class _Output:
    """The guest's output, from the serial log; from the socket if the log does not grow.

    Args:
        lines: how many lines of what came before are shown.
        is_terminal: it is shown on a terminal, which must not answer what came before.
    """

    def __init__(self, vm: BaseMachine, lines: int, *, is_terminal: bool = False) -> None:
        self.follower = Follower(vm, "serial", lines)
        self._old_bytes = len(self.follower.last_lines(lines)) if is_terminal else 0
        self.before = self.follower.last_lines(3)
        self._end_at_first = self.follower.end
        self._heard = 0
        self._tail = b""
        self.dark_at = 0.0
        self.is_dark = False

    def heard(self, data: bytes) -> None:
        """Note what came from the socket, in case that the log (a full disk) does not get it."""
        self._heard += len(data)
        self._tail = (self._tail + data)[-_WAITING_BYTES:]

    @property
    def _missing(self) -> int:
        """How many bytes the socket brought that the log does not have."""
        return self._heard - max(0, self.follower.end - self._end_at_first)

    @property
    def has_more(self) -> bool:
        return self.follower.has_more or (self.is_dark and bool(self._tail))

    def read(self) -> bytes:
        """The next piece; b"" if there is none now."""
        data = self.follower.read()
        if data:
            self.is_dark = False
            old, new = data[: self._old_bytes], data[self._old_bytes :]
            self._old_bytes -= len(old)
            return _QUERIES.sub(b"", old) + new
        missing = self._missing
        if missing <= 0:
            self.dark_at = 0.0
            return b""
        if not self.is_dark:
            self.dark_at = self.dark_at or time.monotonic() + _DARK_S
            if time.monotonic() < self.dark_at:
                return b""
            self.is_dark = True
        data, self._tail = self._tail[-missing:], b""
        self._heard -= missing
        self.dark_at = 0.0
        return data

    def close(self) -> None:
        self.follower.close()
