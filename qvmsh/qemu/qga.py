"""The guest agent: one synchronised exchange over its Unix socket.

May import: `qemu.qmp` (for JSON), `_socket`.

    ask("/run/user/1000/qvm/3f2a/qga", "guest-ping", timeout_s=1.0)

Source: QEMU docs/interop/qemu-ga-ref. A stale partial line of an earlier client is flushed by the
0xFF byte of guest-sync-delimited.
"""

from __future__ import annotations

import time
from _socket import AF_UNIX, socket

from qvmsh.errors import QmpError
from qvmsh.qemu.qmp import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class NoAgent(ConnectionError):
    """Nothing in the guest listens; apart from TimeoutError, which means no answer to a command."""


def ask(path: str, command: str, arguments: dict[str, Any] | None = None, *, timeout_s: float) -> Any:
    """Synchronise with the agent, execute `command`, return its value.

    Raises:
        NoAgent: no agent answers within `timeout_s`.
        TimeoutError: the agent is there, but gives no answer to the command.
        OSError: its socket is gone or busy.
        QmpError: the agent refused the command.
    """
    talk = Conversation(path, timeout_s)
    try:
        return talk.ask(command, arguments)
    finally:
        talk.close()


def shutdown(path: str, *, mode: str = "powerdown", timeout_s: float) -> bool:
    """Ask the agent to power the guest off (`reboot`: to reboot it); False if no agent answers.

    `guest-shutdown` gives no answer when it works: silence after a good synchronisation is success.

    Raises:
        QmpError: the agent refused.
    """
    try:
        talk = Conversation(path, timeout_s)
    except OSError:
        return False
    try:
        talk.timeout_s = 0.3  # only a refusal is answered, and that at once
        try:
            talk.ask("guest-shutdown", {"mode": mode})
        except OSError:
            pass
    finally:
        talk.close()
    return True


class Conversation:
    """Several questions in a row; while it lasts nobody else can ask.

    Args:
        path: the agent's socket.
        timeout_s: for the synchronisation, and for each answer until it is set anew.

    Raises:
        NoAgent, OSError: as `ask`.
    """

    def __init__(self, path: str, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._rest = b""
        self._socket = socket(AF_UNIX)
        try:
            self._synchronise(path)
        except BaseException:
            self._socket.close()
            raise

    def _synchronise(self, path: str) -> None:
        token = time.monotonic_ns() & 0x7FFFFFFF
        self._socket.settimeout(self.timeout_s)
        self._socket.connect(path)
        deadline = time.monotonic() + self.timeout_s
        self._socket.sendall(b"\xff")
        self._send("guest-sync-delimited", {"id": token})
        try:
            while True:
                self._socket.settimeout(max(0.01, deadline - time.monotonic()))
                if self._read().get("return") == token:
                    break
        except TimeoutError:
            raise NoAgent(f"no guest agent answers within {self.timeout_s:.0f} s") from None

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Execute `command`, return its value; errors as the function `ask`."""
        self._socket.settimeout(self.timeout_s)
        self._send(command, arguments)
        return self._reply(command)

    def close(self) -> None:
        self._socket.close()

    def _send(self, command: str, arguments: dict[str, Any] | None) -> None:
        request = {"execute": command} | ({"arguments": arguments} if arguments else {})
        self._socket.sendall((dumps(request) + "\n").encode())

    def _reply(self, command: str) -> Any:
        reply = self._read()
        if "error" in reply:
            raise QmpError(
                f"guest agent: {command}: {reply['error']['desc']}", error_class=reply["error"]["class"]
            )
        return reply.get("return")

    def _read(self) -> Any:
        while True:
            while b"\n" not in self._rest:
                data = self._socket.recv(65536)
                if not data:
                    raise ConnectionResetError("the agent's socket was closed")
                self._rest += data
            line, _, self._rest = self._rest.partition(b"\n")
            line = line.rpartition(b"\xff")[2].strip()
            if line:
                try:
                    return loads(line.decode(errors="replace"))
                except (StopIteration, ValueError):
                    continue  # the rest of somebody's broken line
