"""Commands in the guest by a shell on its serial console: without a network and without an agent.

    run(vm, note, wish)             # Result(...)

It logs in where the console asks for a name, as VM_CONSOLE_USER, and out again. The kernel may write to the
console at any time, so nothing is read from what the command itself writes there: its output goes to files
in the guest, which are then sent as lines of base64 with a checksum, again if it differs.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import select
import time

from qvmsh.errors import DeadlineError, GuestUnreachableError, QvmError
from qvmsh.host import files as host_files
from qvmsh.machine.guest import console_lock, serial
from qvmsh.machine.guest import wish as wishes
from qvmsh.machine.guest.result import Result
from qvmsh.machine.guest.wish import Unusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Self

    from qvmsh.machine.guest.wish import Wish
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

PROMPT_S = 30.0
"""How long the console may take to show a prompt, and each step of the login."""
SILENT_S = 2.0
"""How long it must show nothing to be taken for a shell that an earlier command has left silent."""
QUIET_S = 0.3
"""How long it must have been silent for its last line to be a prompt."""
STEP_S = 30.0
"""How long the guest's shell may take for one step."""
INTERRUPTED_S = 5.0
"""The same after Ctrl-C."""
PATIENCE_S = (2.0, 4.0, 8.0, 16.0)
"""How long the shell may take to be there again after each Ctrl-C."""
_INTERRUPT, _SUSPEND = "\x03", "\x1a"
CHUNK = 600
"""How much of a script is sent on a line: busybox reads lines of up to 1024 bytes."""
BLOCK = 40
"""Lines of base64, 77 bytes each, that are sent at once: a terminal's driver keeps 4095 bytes."""
MOST_BYTES = 1 << 20
"""The longest input."""
TRIES = 5
_LOGIN = re.compile(rb"(?i)login: *$")
_PASSWORD = re.compile(rb"(?i)password[^\n]*: *$")
_SHELL = re.compile(rb"[#$%>] *(\x1b\[[\d;?]*\w)*$")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")


def run(vm: BaseMachine, pid: int, note: LaunchRecord, wish: Wish) -> Result:
    """Run a command and wait for its end.

    Raises:
        Unusable: there is no console, it is in use, or nothing there lets us in.
        GuestUnreachableError: the console was lost while the command ran.
        DeadlineError: the command has not ended in time; it was interrupted.
    """
    began = time.monotonic()
    if wish.data is not None and len(wish.data) > MOST_BYTES:
        raise Unusable(f"its input is larger than {MOST_BYTES >> 20} MiB")
    try:
        with console_lock.Hold(vm, note, is_taking=False), _Line(vm, pid, note) as line:
            shell = _Shell(line, vm, wish, began, note.socket("console.shell"))
            shell.enter()
            try:
                done = shell.run()
            except BaseException as error:
                shell.leave(is_interrupted=not isinstance(error, Exception))
                raise
            shell.leave()
            return done
    except _Silent as error:
        raise Unusable(str(error)) from None
    except QvmError as error:
        if isinstance(error, (DeadlineError, GuestUnreachableError)):
            raise
        raise Unusable(error.what) from None


class _Silent(Exception):
    """The console does not show what is waited for; nothing has been run."""


class _Line:
    """The console: what is typed there, and what it shows."""

    def __init__(self, vm: BaseMachine, pid: int, note: LaunchRecord) -> None:
        self._vm = vm
        self._line: socket.socket = serial.connect(vm, note, pid)
        self.text = b""
        """What it has shown since the last `forget`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def type(self, text: str) -> None:
        """Type a text.

        Raises:
            _Silent: the guest takes nothing.
        """
        data, deadline = text.encode("ascii"), time.monotonic() + STEP_S
        while data:
            self.read(0.0)
            if select.select([], [self._line], [], 0.1)[1]:
                data = data[self._line.send(data) :]
            elif time.monotonic() > deadline:
                raise _Silent("the guest reads nothing from its console")

    def read(self, timeout_s: float) -> bool:
        """Take what comes within `timeout_s`; False if nothing came."""
        self._vm.io.checkpoint()
        if not select.select([self._line], [], [], timeout_s)[0]:
            return False
        data = self._line.recv(65536)
        if not data:
            raise GuestUnreachableError("QEMU has closed the serial console", machine=self._vm.name)
        self.text += data
        return True

    def wait(self, pattern: re.Pattern[bytes], deadline: float) -> re.Match[bytes] | None:
        """Wait until it shows a pattern; None if it does not in time.

        Raises:
            _Silent: it asks for a name again: the shell has ended.
        """
        while not (found := pattern.search(self.text)):
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if not self.read(min(left, 0.5)) and _LOGIN.search(self._unfinished()):
                raise _Silent("the shell on the console has ended")
        return found

    def last_line(self, deadline: float) -> bytes:
        """The unfinished line that it shows, once nothing more comes; b"" if there is none."""
        while time.monotonic() < deadline and self.read(QUIET_S):
            pass
        return self._unfinished()

    def _unfinished(self) -> bytes:
        return self.text.rpartition(b"\n")[2].strip(b"\r\0")


class _Shell:
    """A POSIX shell on the console."""

    def __init__(self, line: _Line, vm: BaseMachine, wish: Wish, began: float, note: str) -> None:
        self._line = line
        self._vm = vm
        self._wish = wish
        self._began = began
        self._until = float("inf") if wish.timeout_s is None else began + wish.timeout_s
        self._user = vm.settings.text("VM_CONSOLE_USER")
        self._mark = f"qvm{secrets.token_hex(8)}"
        self._count = 0
        self._is_ours = False
        """We have logged in."""
        self._note = note
        """A file that says whose shell there was made silent, until it was left."""

    def enter(self) -> None:
        """Get a shell there, and let it be silent.

        Raises:
            _Silent: there is none.
        """
        deadline = min(self._until, time.monotonic() + PROMPT_S)
        self._line.type("\n")
        names, passwords, is_left = 0, 0, True
        while time.monotonic() < deadline:
            shown = self._line.last_line(deadline)
            if _LOGIN.search(shown):
                if names or passwords:
                    raise _Silent(f"the console refuses {self._user} (VM_CONSOLE_USER)")
                names, self._is_ours = 1, True
                self._say(f"{self._user}\n")
            elif _PASSWORD.search(shown):
                if passwords:
                    raise _Silent(f"the console refuses the password of {self._user}")
                passwords = 1
                self._say(f"{self._password()}\n")
            elif _SHELL.search(shown):
                self._begin()
                return
            elif not self._line.read(SILENT_S) and not shown and is_left:
                is_left = self._is_left()
                if is_left:
                    return
                deadline = min(self._until, time.monotonic() + PROMPT_S)
                self._line.type("\n")
        last = self._line.text.strip().rpartition(b"\n")[2].decode(errors="replace").strip()
        raise _Silent(f"the console shows no prompt: {last or 'it is silent'}")

    def _is_left(self) -> bool:
        """Take the silent shell of a command that was killed, or whose guest was too slow, if it is there."""
        try:
            whose = host_files.read(self._note).text
        except OSError:
            return False
        try:
            is_there = self._interrupt()
        except _Silent:  # it has ended meanwhile
            is_there = False
        self._is_ours = is_there and whose == "ours"
        if not is_there:
            host_files.remove(self._note)
        return is_there

    def _say(self, text: str) -> None:
        self._line.text = b""
        self._line.type(text)

    def _password(self) -> str:
        name = self._vm.settings.text("VM_CONSOLE_PASSWORD_FILE")
        if not name:
            raise _Silent("the console asks for a password (VM_CONSOLE_PASSWORD_FILE names its file)")
        path = self._vm.settings.path("VM_CONSOLE_PASSWORD_FILE")
        try:
            if os.stat(path).st_mode & 0o077:
                raise _Silent(f"{name} can be read by others (`chmod 600 {name}`)")
            return host_files.read(path).text.rstrip("\n")
        except OSError as error:
            raise _Silent(f"{name}: {error.strerror}") from None

    def _begin(self) -> None:
        """Switch the echo off; what is typed from now on is not shown."""
        host_files.write_atomic(self._note, "ours" if self._is_ours else "the user's", mode=0o600)
        self._say("stty -echo; PS1= PS2= HISTFILE=\n")
        if not self._step("", STEP_S):
            raise _Silent("what the console shows as a prompt is not a shell's")

    def _step(self, line: str, timeout_s: float, last: str = "") -> re.Match[bytes] | None:
        """Let the shell read a line; its status in the group `status`. None if it has not ended in time.

        Args:
            last: what the shell does once it has shown the status.
        """
        self._count += 1
        mark = f"{self._mark}-{self._count}"
        shown = f"{line}; printf '\\n%s=%s=\\n' {mark} $?" if line else f"printf '\\n%s=0=\\n' {mark}"
        self._say(f"{shown}; {last}\n" if last else f"{shown}\n")
        pattern = re.compile(re.escape(mark.encode()) + rb"=(?P<status>\d+)=")
        return self._line.wait(pattern, time.monotonic() + timeout_s)

    def _must(self, line: str) -> None:
        """As `_step`, of a line that must succeed before anything is run."""
        found = self._step(line, STEP_S)
        if not found or found["status"] != b"0":
            raise _Silent("the shell on the console does not do what a POSIX shell does")

    def run(self) -> Result:
        """Run the command, and fetch what it has written."""
        self._must("qvm_d=$(mktemp -d)")
        script = wishes.script(self._wish, is_ascii=True)
        if self._wish.user is not None and self._wish.user != self._user:
            script = f"su -s /bin/sh -c {_single(script)} -- {_single(self._wish.user)}"
        self._store("qvm_q", script.encode())
        source = "/dev/null"
        if self._wish.data is not None:
            source = "$qvm_d/i"
            self._write("i", self._wish.data)
        line = f'(exec sh -c "$qvm_q") <{source} >$qvm_d/o 2>$qvm_d/e'
        left = self._until - time.monotonic()
        if left <= 0:
            raise DeadlineError(
                f"`{self._wish.shown}` was not begun in {self._wish.timeout_s:g} s: the guest is slow",
                machine=self._vm.name, hint="`--timeout` is the limit in seconds, the login included",
            )  # fmt: skip
        try:
            return self._ended(self._step(line, left))
        except _Silent as error:  # from here on no other way may be tried
            raise GuestUnreachableError(
                f"{error}: how the command ended is unknown",
                machine=self._vm.name,
                hint="`qvm console` is the guest's serial console",
            ) from None

    def _ended(self, found: re.Match[bytes] | None) -> Result:
        """The result of a command that has ended; one that has not in time is ended."""
        if found is None:
            is_ours_again = self._interrupt(patience_s=(2.0, 4.0)) or self._interrupt(_SUSPEND)
            is_ended = is_ours_again and self._step(wishes.ending(self._wish.tag), STEP_S)
            raise DeadlineError(
                f"in the guest, `{self._wish.shown}` had not ended after {self._wish.timeout_s:g} s",
                machine=self._vm.name,
                hint=f"it {'was ended' if is_ended else 'may still be running'}; "
                "`--timeout` is the limit in seconds",
            )
        return Result.of_bytes(
            self._fetch("o"), self._fetch("e"), argv=self._wish.argv, status=int(found["status"]),
            via="serial", machine=self._vm.name,
        )  # fmt: skip

    def _store(self, name: str, data: bytes) -> None:
        """Set a variable of the shell, piece by piece."""
        self._must(f"{name}=")
        for piece in _pieces(data):
            self._must(f"qvm_p=$(printf '{piece}x') && {name}=${name}${{qvm_p%x}}")

    def _write(self, name: str, data: bytes) -> None:
        """Write a file in the guest, as lines of base64 that no shell reads.

        Each block is asked for: what comes faster than it is read is lost in the guest's driver.

        Raises:
            _Silent: it does not arrive.
        """
        lines = base64.encodebytes(data).decode().split("\n")
        blocks = ["\n".join(lines[at : at + BLOCK]) for at in range(0, len(lines), BLOCK)]
        for _ in range(TRIES):
            if self._send(name, blocks) and self._sum() == _sha256(data):
                return
            self._interrupt()
        raise _Silent("its input does not arrive whole; the guest needs `base64` and `sha256sum`")

    def _send(self, name: str, blocks: list[str]) -> bool:
        """Send lines to `base64` in the guest, and let it show the checksum; False if it stopped asking."""
        self._count += 1
        mark = f"{self._mark}-{self._count}"
        self._say(
            f"qvm_n=0; while [ $qvm_n -lt {len(blocks)} ]; do qvm_n=$((qvm_n+1)); "
            f"printf '\\n%s.%s.\\n' {mark} $qvm_n >&2; head -n {BLOCK}; done | base64 -d >$qvm_d/{name}\n"
        )
        for at, block in enumerate(blocks, 1):
            asked = re.compile(re.escape(f"{mark}.{at}.".encode()))
            if not self._line.wait(asked, time.monotonic() + STEP_S):
                return False
            self._say(block + "\n" * (BLOCK - block.count("\n")))
        return self._step(f"sha256sum <$qvm_d/{name}", STEP_S) is not None

    def _sum(self) -> str:
        """The checksum that the guest has just shown."""
        found = re.search(rb"^([0-9a-f]{64})  -\r*$", self._line.text, re.MULTILINE)
        return found[1].decode() if found else ""

    def _fetch(self, name: str) -> bytes:
        """What the command has written to one of its streams.

        Raises:
            GuestUnreachableError: it does not arrive.
        """
        for _ in range(TRIES):
            found = self._step(f"sha256sum <$qvm_d/{name}; base64 $qvm_d/{name}", 10 * STEP_S)
            if not found:
                continue
            rows = self._line.text.replace(b"\r", b"").split(b"\n")
            data = b"".join(row for row in rows if _BASE64.fullmatch(row))
            try:
                plain = base64.b64decode(data, validate=True)
            except binascii.Error:
                continue
            if _sha256(plain) == self._sum():
                return plain
        raise GuestUnreachableError(
            "the output of the command does not arrive whole over the serial console",
            machine=self._vm.name, hint="the guest needs `base64` and `sha256sum`",
        )  # fmt: skip

    def _interrupt(self, key: str = _INTERRUPT, patience_s: tuple[float, ...] = PATIENCE_S) -> bool:
        """Press Ctrl-C, or Ctrl-Z for a command that ignores that, until the shell answers; False if not.

        The guest's driver drops what it has received and not read yet. So nothing more is typed before that
        has happened: half a line, with an open quote, would swallow the next ones.
        """
        for each_s in patience_s:
            self._say(key)
            self._line.last_line(time.monotonic() + each_s)
            self._say("\n")
            if self._step("", each_s):
                return True
        return False

    def leave(self, *, is_interrupted: bool = False) -> None:
        """Remove what was made in the guest, and log out if it was us who logged in.

        Args:
            is_interrupted: the caller has no time, and the command may still run.
        """
        try:
            if is_interrupted:
                self._say(f"{_INTERRUPT}\n")
            limit_s = INTERRUPTED_S if is_interrupted else STEP_S
            last = "exit" if self._is_ours else "stty echo; exec $SHELL"
            if self._step('rm -rf "$qvm_d"; unset qvm_d qvm_q qvm_p', limit_s, last):  # one line, read as one
                host_files.remove(self._note)
        except (_Silent, QvmError, OSError):
            pass


def _pieces(data: bytes) -> list[str]:
    """`data` as texts for `printf` in single quotes."""
    texts = [chr(b) if 32 <= b < 127 and chr(b) not in "\\%'" else f"\\{b:03o}" for b in data]
    return ["".join(texts[at : at + CHUNK // 4]) for at in range(0, len(texts), CHUNK // 4)]


def _single(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _sha256(data: bytes) -> str:
    from hashlib import sha256

    return sha256(data).hexdigest()
