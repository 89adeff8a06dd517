"""One question to QEMU: connect, negotiate, ask, close. Without asyncio and the json package.

May import: `_socket`, `_json` and smaller (one-shot path; design, rule 7). Conversations that
wait for events or jobs use `qemu.qmp` instead.

    ask("/run/user/1000/qvm/3f2a/qmp", "query-status")     # {'status': 'running', ...}

Source: QEMU docs/interop/qmp-spec.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_scanner
from _socket import AF_UNIX, SHUT_RDWR, socket
from time import monotonic

from qvmsh.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


TICK_S = 0.1
"""How long one who shows how far it is waits for QEMU before he looks himself."""


class _Decoder:
    """What `json.JSONDecoder` would hand to the C scanner; `json` itself would only add `re`."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo: dict[str, str] = {}  # noqa: RUF012


_scan = make_scanner(_Decoder())  # type: ignore[arg-type]  # typeshed asks for more than the C code reads


def loads(text: str) -> Any:
    """The value of one JSON document."""
    return _scan(text.strip(), 0)[0]


def dumps(value: Any) -> str:
    """`value` (None, bool, int, float, str, list, tuple, dict with str keys) as JSON on one line."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        if not value.isascii():  # bytes that are no UTF-8 are no JSON either
            value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return encode_basestring_ascii(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{encode_basestring_ascii(k)}: {dumps(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(map(dumps, value)) + "]"


def _mark() -> int:
    """A number for a request that no other has, of this process or another."""
    return int(monotonic() * 1e9)


class Exchange:
    """A QMP connection for a few questions in a row.

    Args:
        path: the Unix socket.
        timeout_s: for the connection and the greeting (a stopped QEMU accepts but never greets).

    Raises:
        OSError: nobody listens (FileNotFoundError, ConnectionRefusedError), or not allowed
            (PermissionError).
    """

    def __init__(self, path: str, timeout_s: float) -> None:
        self._rest = b""
        self.passed_over = 0
        """Messages, mostly events, that came before the answers to `ask`."""
        self._socket = socket(AF_UNIX)
        self._socket.settimeout(timeout_s)
        deadline = monotonic() + timeout_s
        while True:
            try:
                self._socket.connect(path)
                return
            except BlockingIOError:  # EAGAIN: so many wait already; each is served in a moment
                if monotonic() > deadline:
                    self._socket.close()
                    raise TimeoutError("so many others are asking") from None
                from select import select

                select([], [], [], 0.01)
            except BaseException:
                self._socket.close()
                raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def negotiate(self) -> Exchange:
        """Read the greeting and leave negotiation mode; TimeoutError if QEMU does not greet."""
        try:
            while "QMP" not in self._read():
                pass
            self.ask("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise
        return self

    def ask(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = -1,
        tick: Callable[[], None] | None = None,
    ) -> Any:
        """Execute one command and return its `return` value; events that come before it are dropped.

        Args:
            tick: called some times a second as long as QEMU says nothing.

        Raises:
            QmpError: QEMU refused; `error_class` is its own.
            TimeoutError: no answer within `timeout_s` (None = wait for ever).
            ConnectionError: QEMU went away.
        """
        if timeout_s != -1:
            self._socket.settimeout(timeout_s)
        mark = _mark()
        request = {"execute": command, "id": mark} | ({"arguments": arguments} if arguments else {})
        self._socket.sendall((dumps(request) + "\n").encode())
        return self._reply(command, mark, tick)

    def event(self) -> Any:
        """The next event, however long it takes; OSError when QEMU goes away."""
        self._socket.settimeout(None)
        while True:
            found = self._read()
            if "event" in found:
                return found

    def together(self, *commands: str) -> None:
        """Send commands without arguments in one write, so that QEMU runs them back to back.

        Raises:
            QmpError: QEMU refused one of them; the others have been executed.
        """
        marks = [_mark() + at for at in range(len(commands))]
        both = list(zip(commands, marks, strict=True))
        lines = (f'{{"execute": "{command}", "id": {mark}}}\n' for command, mark in both)
        self._socket.sendall("".join(lines).encode())
        errors = []
        for command, mark in both:
            try:
                self._reply(command, mark)
            except QmpError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _reply(self, command: str, mark: int, tick: Callable[[], None] | None = None) -> Any:
        """The answer to our own request: QEMU gives a new client those of one that was killed, too."""
        while True:
            while tick and not self.is_readable(TICK_S):
                tick()
            reply = self._read()
            if reply.get("id") != mark and not ("error" in reply and "id" not in reply):
                self.passed_over += 1
                continue
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise QmpError(f"{command}: {reply['error']['desc']}", error_class=reply["error"]["class"])

    def has_message(self) -> bool:
        """True if a whole message has been received already."""
        return b"\n" in self._rest

    def is_readable(self, timeout_s: float) -> bool:
        """True once there is something to read; False if there is nothing in that time."""
        if self.has_message():
            return True
        from select import select

        return bool(select([self._socket], [], [], timeout_s)[0])

    def message(self) -> Any:
        """The next message, whatever it is: for one who follows events."""
        return self._read()

    def _read(self) -> Any:
        while b"\n" not in self._rest:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("QEMU closed the connection")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return loads(line.decode())

    def close(self) -> None:
        self._socket.close()

    def shut(self) -> None:
        """End the connection, also for a thread that waits for an event on it."""
        try:
            self._socket.shutdown(SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()


def ask(path: str, command: str, arguments: dict[str, Any] | None = None, *, timeout_s: float = 2.0) -> Any:
    """Connect, ask one question, close; errors as `Exchange`."""
    exchange = Exchange(path, timeout_s).negotiate()
    try:
        return exchange.ask(command, arguments)
    finally:
        exchange.close()
