"""A machine's logs: the guest's console, QEMU's output, what qvm did.

    show(vm, "serial", lines=10)       # Lines: the last ten
    follow(vm, "serial", lines=10)     # ... and all that comes, until Ctrl-C

Each start begins new logs of the run (`serial.log`, `qemu.stdout`, `qemu.stderr`); the five before are
kept as `serial.log.1` and so on; of a long one the first 4 and the last 8 MiB. `qvm.log` spans all runs and
is rotated at 1 MiB. `serial.log` is shortened in the same way while the guest runs (`host.console_keeper`).
"""

from __future__ import annotations

import os
import select

from qvmsh.errors import QvmError, StateError, UsageError
from qvmsh.host import console_keeper as keeper
from qvmsh.host import inotify, logfiles, tty_mode
from qvmsh.machine.reports import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.paths import Files

NAMES = ("serial", "stdout", "stderr", "qvm")
OF_A_RUN = ("serial", "stdout", "stderr")
SHELL_SLICE_MS = 200
_PIECE = 65536


def path_of(files: Files, name: str) -> str:
    """The file of the log `name`."""
    paths = {"serial": files.serial_log, "stdout": files.qemu_stdout, "stderr": files.qemu_stderr}
    return paths.get(name) or files.qvm_log


def begin(vm: BaseMachine) -> None:
    """Begin the logs of a new run; those of the last one are kept."""
    for name in OF_A_RUN:
        logfiles.rotate(path_of(vm.files, name))


class Lines(Report):
    """Result of `logs`: the last lines of one log.

    Args:
        machine: its name.
        log: `serial`, `stdout`, `stderr` or `qvm`.
        file: the file's path.
        data: the bytes of the file.
        is_cleaned: they are printed on a terminal, so only colours of them may act.
    """

    __slots__ = ("_data", "file", "is_harmless", "lines", "log", "machine")

    def __init__(self, machine: str, log: str, file: str, data: bytes, *, is_cleaned: bool) -> None:
        self.machine = machine
        self.log = log
        self.file = file
        self.lines = [line.rstrip("\r") for line in data.decode(errors="replace").splitlines()]
        self._data = data
        self.is_harmless = is_cleaned

    def __str__(self) -> str:
        if self.is_harmless:
            return tty_mode.Cleaner().text(self._data, is_last=True)
        return self._data.decode(errors="surrogateescape")

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("machine", "log", "file", "lines")}


def show(vm: BaseMachine, name: str, *, lines: int, is_previous: bool = False) -> Lines:
    """The last lines of a log.

    Raises:
        StateError: there is no such log yet.
        QvmError: it cannot be read.
    """
    path = path_of(vm.files, name) + (".1" if is_previous else "")
    try:
        with logfiles.opened(path) as file:
            data = logfiles.last_lines(file.fileno(), lines)
    except FileNotFoundError:
        raise _missing(vm, name, is_previous) from None
    except OSError as error:
        raise _unreadable(vm, path, error) from None
    return Lines(vm.name, name, path, data, is_cleaned=vm.io.is_on_terminal)


def _missing(vm: BaseMachine, name: str, is_previous: bool) -> QvmError:
    if is_previous:
        hint = "each start begins a new one and keeps the last five"
        return StateError(f"there is no {name} log of an earlier run", machine=vm.name, hint=hint)
    hint = "`qvm start` creates it; `--follow` waits for it"
    return StateError(f"there is no {name} log: it was never started here", machine=vm.name, hint=hint)


def _unreadable(vm: BaseMachine, path: str, error: OSError) -> QvmError:
    what = "is a link, which is not followed" if os.path.islink(path) else error.strerror
    return QvmError(
        f"cannot read the log {path}: {what}",
        machine=vm.name,
        hint="remove it; the next start creates a new one" if os.path.lexists(path) else None,
    )


def follow(vm: BaseMachine, name: str, *, lines: int) -> None:
    """Print the last lines of a log and all that is added, also over restarts; ends by Ctrl-C.

    Raises:
        UsageError: `--json`, which has one answer.
        QvmError: the log cannot be read; the machine's folder went away.
    """
    if vm.io.json:
        raise UsageError("logs: --json and --follow exclude each other", machine=vm.name)
    vm.state_folder()
    out = Out(vm)
    with inotify.Watch(vm.files.logs) as changes:
        follower = Follower(vm, name, lines)
        try:
            while True:
                while data := follower.read():
                    out.write(data)
                if follower.renew():
                    vm.io.say(f"-- {vm.name}: a new {name} log begins --")
                    continue
                out.wait(changes.fileno())
                if not changes.drain():
                    raise QvmError("the log folder was removed", machine=vm.name)
        finally:
            follower.close()


class Follower:
    """Reads a log piece by piece, and the next one when a new run begins.

    A log that grows too long is shortened: a file without the middle takes its place. The old one is
    read to its end, then the new one from the same byte on, or from the first that it has.

    Args:
        name: which log.
        lines: how many lines of what is there already are read first.
    """

    def __init__(self, vm: BaseMachine, name: str, lines: int) -> None:
        self.vm = vm
        self.path = path_of(vm.files, name)
        self.file: IO[bytes] | None = None
        if self._open() and self.file:
            end = os.fstat(self.file.fileno()).st_size
            self.file.seek(end - len(logfiles.last_lines(self.file.fileno(), lines, end)))

    def last_lines(self, count: int) -> bytes:
        """The last lines of what is there now."""
        return logfiles.last_lines(self.file.fileno(), count) if self.file else b""

    def _open(self) -> bool:
        try:
            self.file = logfiles.opened(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unreadable(self.vm, self.path, error) from None
        return True

    def read(self) -> bytes:
        """What was added since; b"" if nothing was."""
        if self.file is None:
            return b""
        data = self.file.read(_PIECE)
        if not data:
            status = os.fstat(self.file.fileno())
            if status.st_nlink == 0:
                return self._read_shortened()
            if self.file.tell() > status.st_size:
                self.file.seek(0)  # somebody emptied it
                data = self.file.read(_PIECE)
        return data

    def _read_shortened(self) -> bytes:
        """Switch to the file that took the log's place when it was shortened; b"" if it is gone."""
        assert self.file is not None
        old, done = self.file, self.end
        if not self._open():
            return b""
        missing = keeper.left_out(self.file.fileno())
        if missing <= keeper.left_out(old.fileno()):
            self.file.close()
            self.file = old
            return b""
        old.close()
        begin = keeper.HEAD_BYTES + missing
        self.file.seek(keeper.HEAD_BYTES + keeper.MARK_BYTES + max(0, done - begin))
        note = keeper.MISSED % (begin - done) if done < begin else b""
        return note + self.file.read(_PIECE)

    @property
    def end(self) -> int:
        """How many bytes were ever written to the log."""
        if self.file is None:
            return 0
        missing = keeper.left_out(self.file.fileno())
        size = os.fstat(self.file.fileno()).st_size
        return size + missing - keeper.MARK_BYTES if missing else size

    @property
    def has_more(self) -> bool:
        """True if something can be read now."""
        return self.file is not None and os.fstat(self.file.fileno()).st_size != self.file.tell()

    def renew(self) -> bool:
        """Switch to the log of a new run, once the old one is read to its end; True if there is one."""
        if self.file is None:
            return self._open()
        try:
            status, mine = os.lstat(self.path), os.fstat(self.file.fileno())
        except FileNotFoundError:  # in the middle of a rotation, or removed: the next one will come
            return False
        if (status.st_dev, status.st_ino) == (mine.st_dev, mine.st_ino) or self.has_more:
            return False
        self.file.close()
        self.file = None
        return self._open()

    def close(self) -> None:
        if self.file:
            self.file.close()


class Out:
    """The caller's standard output for bytes of a log: as they are, or cleaned for a terminal."""

    def __init__(self, vm: BaseMachine) -> None:
        self.vm = vm
        self.stream = vm.io.stdout
        self.cleaner = tty_mode.Cleaner() if vm.io.is_on_terminal else None
        self.poll = select.poll()
        try:
            self.poll.register(self.stream.fileno(), 0)  # reports a reader that has gone
        except (OSError, ValueError):  # a stream of Python's own
            pass

    def write(self, data: bytes) -> None:
        text = self.cleaner.text(data) if self.cleaner else data.decode(errors="surrogateescape")
        self.vm.io.write(text)

    def wait(self, fd: int, checkpoint: Callable[[], None] | None = None) -> None:
        """Wait until `fd` is readable.

        Raises:
            BrokenPipeError: nobody reads what is written.
        """
        self.poll.register(fd, select.POLLIN)
        checkpoint = checkpoint or self.vm.io.checkpoint
        while True:
            ready = self.poll.poll(SHELL_SLICE_MS)  # a word of the shell is interrupted in between
            if any(number == fd for number, _ in ready):
                return
            if ready:
                raise BrokenPipeError
            checkpoint()
