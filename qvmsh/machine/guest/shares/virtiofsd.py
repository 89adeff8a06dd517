"""virtiofsd, the program that serves a directory to the guest as virtiofs: starts and ends with QEMU.

    companion = Companion(vm, runtime, line)     # before QEMU; companion.words for host/lock_and_exec.py
    fd = begin(vm, runtime, line)                # for a QEMU that runs: its end of the connection

It serves one connection and ends when that is closed. The connection is made before the program starts, by
a socket whose name is removed at once: so nobody else reaches the directory, and whatever is killed, and
when, the connection is closed with it.

There are two programs of that name: QEMU's own (up to 7.2; it needs root), and its successor (1.0 and newer,
which runs for any account). Source: QEMU docs/tools/virtiofsd; virtiofsd README, "Non-privileged use".
"""

from __future__ import annotations

import os
import shutil
import subprocess

from qvmsh.errors import MissingProgramError
from qvmsh.host import files as host_files
from qvmsh.machine import paths
from qvmsh.qemu import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from qvmsh.config.shares import ShareLine
    from qvmsh.machine.machine import BaseMachine

NAME = "virtiofsd"
SOCKET = "fs"
FOLDERS = ("/usr/libexec", "/usr/lib/qemu", "/usr/lib")
"""Where it is, if not on PATH: Fedora and Debian 13, Debian 12, Arch."""
_OF_QEMU = 5
"""The version of the first that came with QEMU; its successor began again with 1."""
_HAS_READ_ONLY = (1, 13)
LOG = os.path.join(".qvm", "log", "virtiofsd.log")
_LOGGED = ["/bin/sh", "-c", 'exec "$@" 2>>"$0"', LOG]
"""Its errors are not QEMU's. It runs in the machine's directory."""
_READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
"""Makes the directory read-only for a program that cannot; only there, and only as root."""


class Program:
    """A virtiofsd of this host.

    Args:
        path: where it is.
        version: its numbers; () if it does not say: QEMU's own answers only root.
    """

    __slots__ = ("path", "version")

    def __init__(self, path: str, version: tuple[int, ...]) -> None:
        self.path = path
        self.version = version

    @property
    def is_of_qemu(self) -> bool:
        return not self.version or self.version >= (_OF_QEMU,)

    @property
    def needs_root(self) -> bool:
        return self.is_of_qemu

    @property
    def has_read_only(self) -> bool:
        return not self.is_of_qemu and self.version >= _HAS_READ_ONLY

    def words(self, line: ShareLine, connection: str) -> list[str]:
        """The argument list.

        Args:
            connection: how QEMU reaches it: `--fd=N`, or `--socket-path=PATH`.
        """
        path = os.path.realpath(line.path)  # QEMU's own takes no link for a directory
        if self.is_of_qemu:
            source = path.replace("\\", "\\\\").replace(",", "\\,")
            words = [self.path, connection, "-o", f"source={source}", "-o", "log_level=err"]
        else:
            words = [self.path, connection, f"--shared-dir={path}", "--log-level=error"]
        if not line.is_read_only:
            return words
        if self.has_read_only:
            return [*words, "--readonly"]
        unshare = shutil.which("unshare") or "/usr/bin/unshare"
        return [unshare, "--mount", "/bin/sh", "-c", _READ_ONLY, "sh", path, *words]


def program(environ: Mapping[str, str]) -> Program:
    """The virtiofsd to run.

    Raises:
        MissingProgramError: it is not installed.
    """
    try:
        path = programs.find(NAME, environ=environ)
    except MissingProgramError:
        places = (os.path.join(folder, NAME) for folder in FOLDERS)
        path = next(filter(programs.is_executable, places), "")
        if not path:
            raise
    version = programs.version(path)
    return Program(path, version.numbers if version else ())


def _pair(runtime: str) -> tuple[socket.socket, socket.socket]:
    """A socket on which one connection waits, for virtiofsd, and QEMU's end of that connection."""
    from socket import AF_UNIX, socket

    path = os.path.join(runtime, SOCKET)
    host_files.remove(path)
    door, own = socket(AF_UNIX), socket(AF_UNIX)
    try:
        door.bind(path)
        door.listen(1)
        own.connect(path)
    finally:
        host_files.remove(path)
    return door, own


def last_words(vm: BaseMachine) -> list[str]:
    """What it complained of, for the report of a launch that failed; the cause comes first."""
    return paths.tail(os.path.join(vm.directory, LOG), 100)[:5] if vm.settings.text("VM_SHARE") else []


def begin_log(vm: BaseMachine) -> None:
    """Forget what an earlier one complained of."""
    host_files.remove(os.path.join(vm.directory, LOG))


class Companion:
    """The virtiofsd of a QEMU to be.

    Args:
        runtime: the machine's folder for sockets.
    """

    def __init__(self, vm: BaseMachine, runtime: str, line: ShareLine) -> None:
        found = program(vm.environ)
        self._door, self._own = _pair(runtime)
        words = [*_LOGGED, *found.words(line, f"--fd={self._door.fileno()}")]
        self.words = ["--with", str(self._door.fileno()), str(len(words)), *words]
        self.chardev = f"fd={self._own.fileno()}"

    @property
    def fds(self) -> list[int]:
        """What the launched process inherits."""
        return [self._door.fileno(), self._own.fileno()]

    def close(self) -> None:
        """Close our copies: when QEMU's end is closed too, virtiofsd ends."""
        self._door.close()
        self._own.close()


def begin(vm: BaseMachine, runtime: str, line: ShareLine) -> socket.socket:
    """Start one for a QEMU that runs; QEMU's end of its connection."""
    found = program(vm.environ)
    door, own = _pair(runtime)
    with door:
        words = [*_LOGGED, *found.words(line, f"--fd={door.fileno()}")]
        # in the background of a shell that ends: this process need not wait for it, however long it lives
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *words],
            pass_fds=[door.fileno()],
            cwd=vm.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            umask=0o077,
            check=True,
        )
    return own
