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
    with_socket = socket(AF_UNIX)
    try:
        return _Conversation(with_socket, path, timeout_s).ask(command, arguments)
    finally:
        with_socket.close()


def shutdown(path: str, *, mode: str = "powerdown", timeout_s: float) -> bool:
    """Ask the agent to power the guest off (`reboot`: to reboot it); False if no agent answers.

    `guest-shutdown` gives no answer when it works: silence after a good synchronisation is success.

    Raises:
        QmpError: the agent refused.
    """
    connection = socket(AF_UNIX)
    try:
        talk = _Conversation(connection, path, timeout_s)
        talk.send("guest-shutdown", {"mode": mode})
        connection.settimeout(0.3)  # only a refusal is answered, and that at once
        try:
            talk.reply("guest-shutdown")
        except OSError:
            pass
    except OSError:
        return False
    finally:
        connection.close()
    return True


class _Conversation:
    def __init__(self, connection: socket, path: str, timeout_s: float) -> None:
        self._socket = connection
        self._rest = b""
        token = time.monotonic_ns() & 0x7FFFFFFF
        connection.settimeout(timeout_s)
        connection.connect(path)
        deadline = time.monotonic() + timeout_s
        connection.sendall(b"\xff")
        self.send("guest-sync-delimited", {"id": token})
        try:
            while True:
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                if self._read().get("return") == token:
                    break
        except TimeoutError:
            raise NoAgent(f"no guest agent answers within {timeout_s:.0f} s") from None
        connection.settimeout(timeout_s)

    def ask(self, command: str, arguments: dict[str, Any] | None) -> Any:
        self.send(command, arguments)
        return self.reply(command)

    def send(self, command: str, arguments: dict[str, Any] | None) -> None:
        request = {"execute": command} | ({"arguments": arguments} if arguments else {})
        self._socket.sendall((dumps(request) + "\n").encode())

    def reply(self, command: str) -> Any:
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
