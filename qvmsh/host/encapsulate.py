"""A program with a terminal of its own in the background: in a session of tmux or screen.

    child = begin(argv, [3, 4], cwd="/vm/demo", folder="/run/user/1000/qvm/3f2a", name="demo", stderr=5)
    child.attach        # 'TMUX= tmux -S /run/user/1000/qvm/3f2a/tmux attach'

The session's server is a private one, its socket is in the machine's runtime folder; session and
server end with the program. The process is the program's own: its descriptors go through `pane`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import struct
import subprocess
import sys

from qvmsh.errors import MissingProgramError, QvmError
from qvmsh.host import files, pane, process, sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BEGIN_S = 30.0
TERMINAL = (80, 30)
"""Columns and lines before a terminal is attached: a text screen has 80 x 25."""


class Encapsulated:
    """A process that is not qvm's child.

    Args:
        pid: its number.
        attach: the command that shows its terminal.
    """

    def __init__(self, pid: int, attach: str) -> None:
        self.pid = pid
        self.attach = attach
        self._handle = process.Process(pid)

    def poll(self) -> int | None:
        """None while it runs, else 1: its real status is unknown."""
        return 1 if self._handle.wait(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its real status is unknown."""
        if not self._handle.wait(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return 1


def begin(
    argv: list[str],
    fds: list[int],
    *,
    cwd: str,
    folder: str,
    name: str,
    stderr: int,
    environ: Mapping[str, str],
    checkpoint: Callable[[], None] | None = None,
) -> Encapsulated:
    """Begin `argv` in a session of its own.

    Args:
        fds: what it inherits under the same numbers.
        folder: private; for the sockets.
        name: of the session.
        stderr: its standard error, since its terminal is drawn on.

    Raises:
        MissingProgramError: neither tmux nor screen is installed.
        QvmError: the session did not start; nothing is left of it.
    """
    tool = _tool(environ)
    path = os.path.join(folder, "pane")
    listener = sockets.listening(folder, ["pane"])["pane"]
    inside = [sys.executable, "-X", "utf8", "-I", "-S", pane.__file__, path]
    try:
        with listener:
            _run(_beginning(tool, folder, name, inside), folder, environ)
            if process.wait_readable([listener.fileno()], BEGIN_S, checkpoint) is None:
                raise QvmError(f"{tool} did not open a session within {BEGIN_S:.0f} s", machine=name)
            caller = listener.accept()[0]
        with caller:
            pid = _hand_over(caller, argv, [*fds, stderr], [*fds, 2], cwd)
        return Encapsulated(pid, _attaching(tool, folder))
    except BaseException:
        _run(_ending(tool, folder), folder, environ, is_checked=False)
        raise
    finally:
        files.remove(path)


def _hand_over(caller: socket.socket, argv: list[str], fds: list[int], numbers: list[int], cwd: str) -> int:
    """Send the program inside all that it needs; return its pid."""
    data = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", data)[0]
    document = json.dumps({"argv": argv, "numbers": numbers, "cwd": [cwd]}).encode()
    sent = socket.send_fds(caller, [document], fds)
    caller.sendall(document[sent:])
    return pid


def _tool(environ: Mapping[str, str]) -> str:
    for name in ("tmux", "screen"):
        if shutil.which(name, path=environ.get("PATH")):
            return name
    raise MissingProgramError(
        "--encapsulate needs tmux or screen; neither is installed",
        hint="install one of them, or `qvm run` in a terminal of your own",
    )


def _beginning(tool: str, folder: str, name: str, inside: list[str]) -> list[str]:
    if tool == "tmux":
        columns, lines = map(str, TERMINAL)
        options = [";", "set-option", "-g", "status", "off", ";", "set-option", "-g", "escape-time", "20"]
        session = ["new-session", "-d", "-s", f"qvm-{name}", "-x", columns, "-y", lines, "--"]
        return [*_tmux(folder), *session, *inside, *options]
    files.private_folder(os.path.join(folder, "screen"))
    return ["screen", "-c", "/dev/null", "-d", "-m", "-S", "qvm", *inside]


def _ending(tool: str, folder: str) -> list[str]:
    return [*_tmux(folder), "kill-server"] if tool == "tmux" else ["screen", "-S", "qvm", "-X", "quit"]


def _attaching(tool: str, folder: str) -> str:
    if tool == "tmux":  # TMUX= : also from inside another tmux
        return f"TMUX= tmux -S {shlex.quote(os.path.join(folder, 'tmux'))} attach"
    return f"SCREENDIR={shlex.quote(os.path.join(folder, 'screen'))} screen -r qvm"


def _tmux(folder: str) -> list[str]:
    return ["tmux", "-f", "/dev/null", "-S", os.path.join(folder, "tmux")]


def _run(argv: list[str], folder: str, environ: Mapping[str, str], *, is_checked: bool = True) -> None:
    """Run the multiplexer's own command; its server keeps running."""
    own = {"SCREENDIR": os.path.join(folder, "screen"), "TERM": environ.get("TERM") or "xterm"}
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-I", "-S", pane.__file__, "exec", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={key: value for key, value in environ.items() if key not in ("TMUX", "STY")} | own,
        text=True,
        errors="replace",
        timeout=BEGIN_S,
    )
    if is_checked and done.returncode:
        raise QvmError(f"{argv[0]} did not open a session", details=done.stdout.splitlines()[-3:])
