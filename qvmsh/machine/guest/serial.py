"""The process that keeps the serial console of a running machine: starts and ends with QEMU.

    keeper = Keeper(vm, runtime, door)       # before QEMU
    keeper.fds, keeper.words                 # for host/lock_and_exec.py, which begins it
    connect(vm, note, pid)                   # a socket: what the guest writes and what it reads

QEMU's console is two FIFOs, `serial.in` and `serial.out` in the runtime folder. `host/console_keeper.py`
reads and writes them, as the only one, keeps the log, and serves the clients of the socket `serial`. If
both of its processes are killed, a running machine has a new one by `connect` or `revive`: meanwhile what
the guest writes waits in the FIFO, which holds 1 MiB; then the guest waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import subprocess
import sys
import time

from qvmsh.errors import QvmError, StateError
from qvmsh.host import console_keeper as keeper
from qvmsh.host import files, process, sockets
from qvmsh.machine.paths import SERIAL_LOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

END_S = 3.0
"""How long a keeper may take to end after QEMU."""
CONNECT_S = 5.0
HINT = "`qvm config VM_SERIAL=yes` adds one at the next start"
_F_SETPIPE_SZ = 1031
_ROOM_BYTES = 1 << 20


def fifos(runtime: str) -> str:
    """What the names of the two FIFOs begin with."""
    return os.path.join(runtime, "serial")


class Keeper:
    """The keeper of a QEMU to be.

    Args:
        runtime: the machine's folder for sockets.
        door: the listening socket `serial` in it, which is now ours.
    """

    def __init__(self, vm: BaseMachine, runtime: str, door: socket.socket) -> None:
        for end in ("in", "out"):
            path = f"{fifos(runtime)}.{end}"
            files.remove(path)
            os.mkfifo(path, 0o600)
        own = _opened(vm, runtime)
        assert own is not None  # the FIFO is new
        life, qemus_end = os.pipe()
        out, into, folder = own
        given = [life, out, into, door.detach(), folder]
        self._open = [*given, qemus_end]
        self._path = f"{fifos(runtime)}.out"
        words = _words(*given)
        self.words = ["--with", ",".join(map(str, given)), str(len(words)), *words]

    @property
    def fds(self) -> list[int]:
        """What the launched process inherits."""
        return list(self._open)

    def output(self) -> IO[bytes]:
        """The guest's end of the console, for a QEMU that has it as standard output."""
        return open(self._path, "wb", buffering=0)

    def close(self) -> None:
        """Close our copies: when QEMU's end of LIFE is closed too, the keeper ends."""
        while self._open:
            os.close(self._open.pop())


def _words(life: int, out: int, into: int, door: int, folder: int) -> list[str]:
    numbers = [str(fd) for fd in (life, out, into, door, folder)]
    return [sys.executable, "-I", "-S", keeper.__file__, *numbers, os.path.basename(SERIAL_LOG)]


def _opened(vm: BaseMachine, runtime: str) -> list[int] | None:
    """Both FIFOs and the folder of the log; None if another process keeps the console.

    FileNotFoundError: this machine has no such FIFOs.
    """
    found = [os.open(f"{fifos(runtime)}.out", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)]
    try:
        fcntl.flock(found[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(OSError):  # a user may have only so much of it
            fcntl.fcntl(found[0], _F_SETPIPE_SZ, _ROOM_BYTES)
        found.append(os.open(f"{fifos(runtime)}.in", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        found.append(os.open(vm.files.logs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except BlockingIOError:
        os.close(found[0])
        return None
    except OSError:
        for fd in found:
            os.close(fd)
        raise
    return found


def is_kept(note: LaunchRecord) -> bool:
    """False if the machine has a console, but the process that keeps it has ended."""
    try:
        fd = os.open(f"{fifos(note.runtime)}.out", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def revive(vm: BaseMachine, note: LaunchRecord, pid: int) -> bool:
    """Start a new keeper if that of a running QEMU was killed; False if it was not.

    Raises:
        OSError: there are no FIFOs, or no process can be started.
    """
    own = _opened(vm, note.runtime)
    if own is None:
        return False
    try:
        door = sockets.listening(note.runtime, ["serial"])["serial"]
        with door, process.Process(pid) as qemu:
            fds = [qemu.fd, own[0], own[1], door.fileno(), own[2]]
            subprocess.run(
                [*_words(*fds), "gap"],
                pass_fds=fds,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                check=True,
            )
    finally:
        for fd in own:
            os.close(fd)
    return True


def connect(vm: BaseMachine, note: LaunchRecord, pid: int) -> socket.socket:
    """A connection to the console; starts a new keeper if necessary.

    Raises:
        StateError: the machine has no serial console.
        QvmError: it cannot be reached.
    """
    line = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + CONNECT_S
    while True:
        try:
            line.connect(note.socket("serial"))
            line.setblocking(False)
            return line
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        except OSError as error:
            line.close()
            raise QvmError(f"no serial console: {error.strerror}", machine=vm.name) from None
        try:
            if not revive(vm, note, pid):
                if time.monotonic() > deadline:
                    raise TimeoutError(0, "its keeper does not answer")
                time.sleep(0.02)  # another command is about to begin one
        except FileNotFoundError:
            line.close()
            raise StateError("the machine has no serial console", machine=vm.name, hint=HINT) from None
        except (OSError, subprocess.SubprocessError) as error:
            line.close()
            raise QvmError(f"no serial console: {error}", machine=vm.name) from None


class Shown:
    """A console that is shown on our standard output: of a QEMU in the foreground, which reads the terminal.

    Args:
        runtime: the folder of the socket `serial`; of a QEMU to be, so that not a byte is missed.
    """

    def __init__(self, runtime: str) -> None:
        self._line: socket.socket | None = socket.socket(socket.AF_UNIX)
        self._line.connect(os.path.join(runtime, "serial"))

    def fileno(self) -> int:
        """-1 once all is shown."""
        return -1 if self._line is None else self._line.fileno()

    def show(self) -> bool:
        """Pass on new output, or wait for it; False at its end."""
        data = b"" if self._line is None else self._line.recv(65536)
        try:
            while data:
                try:
                    data = data[os.write(1, data) :]
                except BlockingIOError:  # QEMU puts the terminal in that mode, by its input
                    poll = select.poll()
                    poll.register(1, select.POLLOUT)
                    poll.poll()
                if not data:
                    return True
        except OSError:  # nobody reads it
            pass
        self.close()
        return False

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


def wait_end(runtime: str) -> None:
    """Wait until the keeper of a QEMU that has ended has written all of the log."""
    deadline = time.monotonic() + END_S
    with socket.socket(socket.AF_UNIX) as line, contextlib.suppress(OSError):
        line.settimeout(END_S)
        line.connect(os.path.join(runtime, "serial"))
        while line.recv(65536) and time.monotonic() < deadline:
            pass
