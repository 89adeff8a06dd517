"""The guest agent: one synchronised exchange over its Unix socket.

    ask("/run/user/1000/qvm/3f2a/qga", "guest-ping", timeout_s=1.0)

Source: QEMU docs/interop/qemu-ga-ref. A stale partial line of an earlier client is flushed by the
0xFF byte of guest-sync-delimited.
"""

from __future__ import annotations

import time

from qvmsh.qemu.qmp import TICK_S, Line, Nonsense, checked, dumps, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class NoAgent(ConnectionError):
    """Nothing in the guest listens; TimeoutError means no answer to a command."""


def ask(
    path: str,
    command: str,
    arguments: dict[str, Any] | None = None,
    *,
    timeout_s: float,
    most_bytes: int = 0,
) -> Any:
    """Synchronise with the agent, execute `command`, return its value.

    Args:
        most_bytes: how long the answer may be, if that is more than usual.

    Raises:
        NoAgent: no agent answers within `timeout_s`.
        TimeoutError: the agent runs, but does not answer the command.
        OSError: its socket is gone or busy, or what answers is not an agent.
        QmpError: the agent refused the command.
    """
    talk = Conversation(path, timeout_s)
    talk.MOST_BYTES = max(most_bytes, talk.MOST_BYTES)
    try:
        return talk._execute(command, arguments)  # in the time that is left
    finally:
        talk.close()


def shutdown(path: str, *, mode: str = "powerdown", timeout_s: float) -> bool:
    """Ask the agent to power the guest off (`reboot`: to reboot it); False if no agent answers.

    `guest-shutdown` has no answer when it works: silence after a good synchronisation is success.
    """
    try:
        talk = Conversation(path, timeout_s)
    except OSError:
        return False
    try:
        talk.timeout_s = 0.3  # only a refusal is answered, at once
        try:
            talk.ask("guest-shutdown", {"mode": mode})
        except OSError:
            pass
    finally:
        talk.close()
    return True


class Conversation(Line):
    """Several commands in a row; nothing else can connect meanwhile.

    Args:
        path: the agent's socket.
        timeout_s: for the synchronisation, and for each answer until it is set again.
    """

    MOST_BYTES = 1 << 20

    def __init__(self, path: str, timeout_s: float) -> None:
        try:
            super().__init__(path, timeout_s)
        except FileNotFoundError:
            raise NoAgent("the machine has no port for one (VM_GUEST_AGENT=no)") from None
        try:
            self._synchronise()
        except BaseException:
            self.close()
            raise

    def _synchronise(self) -> None:
        token = time.monotonic_ns() & 0x7FFFFFFF
        self._socket.sendall(b"\xff")
        try:
            self._request("guest-sync-delimited", {"id": token})
            while self._read().get("return") != token:
                pass
        except TimeoutError:
            raise NoAgent(f"no answer within {self.timeout_s:.0f} s") from None

    def ask(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        tick: Callable[[], None] | None = None,
    ) -> Any:
        """Execute `command`, return its value; errors as the function `ask`.

        Args:
            tick: called some times a second while the agent is silent.
        """
        self._begin(self.timeout_s)
        return self._execute(command, arguments, tick)

    def _execute(
        self, command: str, arguments: dict[str, Any] | None, tick: Callable[[], None] | None = None
    ) -> Any:
        self._request(command, arguments)
        while tick and not self.is_readable(min(TICK_S, self._left(self._until) or TICK_S)):
            tick()
        reply = self._read()
        if "error" in reply:
            raise failure(f"guest agent: {command}", reply["error"])
        if "return" not in reply:
            raise Nonsense("the answer is not that of a guest agent")
        return checked(command, reply["return"])

    def _request(self, command: str, arguments: dict[str, Any] | None) -> None:
        self._send(dumps({"execute": command} | ({"arguments": arguments} if arguments else {})) + "\n")

    def _read(self) -> dict[str, Any]:
        while (found := self._object()) is None:
            pass  # the rest of another client's broken line
        return found
