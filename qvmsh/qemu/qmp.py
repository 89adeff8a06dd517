"""Talking to sockets; one command to QEMU: connect, negotiate, ask, close. Without asyncio and `json`.

    ask("/run/user/1000/qvm/3f2a/qmp", "query-status")     # {'status': 'running', ...}

Answers may be hostile: a guest's by its agent, another account's by its monitor. So `Line` is the only way
to talk: a deadline for a whole answer, a limit for its size, and its content has the `SHAPES` that are read.
Source: QEMU docs/interop/qmp-spec.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_scanner
from _socket import AF_UNIX, SHUT_RDWR, socket
from time import monotonic

from qvmsh.errors import QmpError
from qvmsh.qemu.shapes import ERROR, SHAPES, fits, fits_event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Self


MESSAGE_S = 30.0
"""How long a message may take from its first byte to its last."""
ANSWER_S = 60.0
WORK = (
    "savevm", "loadvm", "delvm", "commit", "migrate", "dump", "block", "snapshot", "drive", "job",
    "transaction", "memsave", "pmemsave", "screendump",
)  # fmt: skip
"""The first words of both monitors' commands that work on memory or disks, for any time."""
_TOGETHER = 100
"""So many connections are open at once."""
_LATE_S = 0.05
TICK_S = 0.1
"""How long a progress display waits for QEMU before polling."""


class _Decoder:
    """What `json.JSONDecoder` would pass to the C scanner; `json` itself would only add `re`."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float
    memo: dict[str, str] = {}  # noqa: RUF012


_scan = make_scanner(_Decoder())  # type: ignore[arg-type]  # typeshed asks for more than the C code reads


def loads(text: str) -> Any:
    """The value of one JSON document.

    Raises:
        ValueError: it is not one.
    """
    try:
        return _scan(text.strip(), 0)[0]
    except (StopIteration, RecursionError):
        raise ValueError("it is not JSON") from None


def dumps(value: Any) -> str:
    """`value` (None, bool, int, float, str, list, tuple, dict with str keys) as JSON on one line."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        if not value.isascii():  # bytes that are not UTF-8 are not JSON either
            value = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return encode_basestring_ascii(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{encode_basestring_ascii(k)}: {dumps(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(map(dumps, value)) + "]"


def patience_s(command: str) -> float | None:
    """How long the answer to a command of the user may take: a name of QMP, or a line of HMP."""
    return None if command.strip().startswith(WORK) else ANSWER_S


def _mark() -> int:
    """A unique number for a request, in this process and all others."""
    return int(monotonic() * 1e9)


class Nonsense(ConnectionError):
    """The answer does not follow the protocol."""

    def __init__(self, what: str = "the answer is not QMP") -> None:
        super().__init__(what)


def checked(command: str, value: Any) -> Any:
    """What a command returned."""
    if command in SHAPES and not fits(value, SHAPES[command]):
        raise Nonsense(f"unexpected answer to {command}")
    return value


def failure(command: str, error: Any) -> QmpError:
    """The error of a command that was refused."""
    if not fits(error, ERROR):
        raise Nonsense
    return QmpError(f"{command}: {error['desc']}", error_class=error["class"])


def _whole(value: Any) -> Any:
    """A value of JSON without halves of characters (`"\\ud83d"`), which cannot be printed."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return {_whole(k): _whole(v) for k, v in value.items()} if isinstance(value, dict) else value


class Line:
    """JSON objects over a Unix socket, each on a line of its own.

    Args:
        path: the Unix socket.
        timeout_s: for the connection; then for each answer, from the question to its last byte.

    Raises:
        OSError: nothing listens (FileNotFoundError, ConnectionRefusedError), or not allowed
            (PermissionError).
    """

    MOST_BYTES = 8 << 20

    def __init__(self, path: str, timeout_s: float) -> None:
        self.timeout_s: float | None = timeout_s
        self._rest = b""
        self._socket = socket(AF_UNIX)
        self._begin(timeout_s)
        try:
            self._connect(path)
        except BaseException:
            self._socket.close()
            raise

    def _connect(self, path: str) -> None:
        while True:
            self._socket.settimeout(self._left(self._until))
            try:
                return self._socket.connect(path)
            except BlockingIOError:  # EAGAIN: too many wait already; each is served in a moment
                from select import select

                select([], [], [], 0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def has_message(self) -> bool:
        """True if a whole message has been received already."""
        return b"\n" in self._rest

    def is_readable(self, timeout_s: float) -> bool:
        """True once there is something to read; False if there is nothing in that time."""
        if self.has_message():
            return True
        from select import select

        return bool(select([self._socket], [], [], timeout_s)[0])

    def _begin(self, timeout_s: float | None) -> None:
        """Set the deadline for all that follows (None: no limit)."""
        self._until = None if timeout_s is None else monotonic() + timeout_s

    def _left(self, until: float | None) -> float | None:
        left = None if until is None else until - monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("no answer in time")
        return left

    def _send(self, text: str) -> None:
        self._socket.settimeout(self._left(self._until))
        self._socket.sendall(text.encode())

    def _object(self) -> dict[str, Any] | None:
        """The object on the next line; None for a line that holds something else.

        Raises:
            TimeoutError: it is late; one that has begun must end even without a limit.
            Nonsense: it is too long.
        """
        until = self._until
        while b"\n" not in self._rest:
            if until is None and self._rest:
                until = monotonic() + MESSAGE_S
            self._socket.settimeout(self._left(until))
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("the connection was closed")
            self._rest += data
            if len(self._rest) > self.MOST_BYTES:
                raise Nonsense(f"an answer is larger than {self.MOST_BYTES >> 20} MiB")
        self._left(self._until)
        line, _, self._rest = self._rest.partition(b"\n")
        line = line.rpartition(b"\xff")[2]
        try:
            found = loads(line.decode(errors="replace"))
            if b"\\ud" in line.lower():
                found = _whole(found)
        except (ValueError, RecursionError):
            return None
        return found if type(found) is dict else None


class Exchange(Line):
    """A QMP connection for a few commands in a row.

    Args:
        timeout_s: for the connection, the greeting (a stopped QEMU accepts but never greets), each answer.
    """

    def __init__(self, path: str, timeout_s: float) -> None:
        self.passed_over = 0
        """Messages, mostly events, that came before the answers to `ask`."""
        super().__init__(path, timeout_s)

    def negotiate(self) -> Exchange:
        """Read the greeting and leave negotiation mode; TimeoutError if QEMU does not greet."""
        self._begin(self.timeout_s)
        try:
            while "QMP" not in self._read():
                pass
            self._execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise
        return self

    def begin(self, *commands: str) -> list[int]:
        """Send what leaves negotiation mode and then commands without arguments, before any answer."""
        self._begin(self.timeout_s)
        marks = [_mark() + at for at in range(len(commands) + 1)]
        both = zip(("qmp_capabilities", *commands), marks, strict=True)
        self._send("".join(f'{{"execute": "{command}", "id": {mark}}}\n' for command, mark in both))
        return marks[1:]

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
            tick: called some times a second while QEMU is silent.

        Raises:
            QmpError: QEMU refused; `error_class` is its own.
            TimeoutError: no answer within `timeout_s`, which later questions have too (None = wait for ever).
            ConnectionError: QEMU went away, or what answers is not QEMU (`Nonsense`).
        """
        if timeout_s != -1:
            self.timeout_s = timeout_s
        self._begin(self.timeout_s)
        return self._execute(command, arguments, tick)

    def _execute(
        self, command: str, arguments: dict[str, Any] | None = None, tick: Callable[[], None] | None = None
    ) -> Any:
        mark = _mark()
        request = {"execute": command, "id": mark} | ({"arguments": arguments} if arguments else {})
        self._send(dumps(request) + "\n")
        return self._reply(command, mark, tick)

    def pass_descriptor(self, name: str, fd: int) -> None:
        """Give QEMU an open file, which later commands know by `name`.

        Raises:
            QmpError: QEMU does not take it.
        """
        from _socket import SCM_RIGHTS, SOL_SOCKET
        from sys import byteorder

        self._begin(self.timeout_s)
        mark = _mark()
        request = {"execute": "getfd", "id": mark, "arguments": {"fdname": name}}
        self._socket.settimeout(self._left(self._until))
        rights = (SOL_SOCKET, SCM_RIGHTS, fd.to_bytes(4, byteorder))
        self._socket.sendmsg([(dumps(request) + "\n").encode()], [rights])
        self._reply("getfd", mark)

    def event(self) -> Any:
        """The next event, however long it takes; OSError when QEMU goes away."""
        while True:
            found = self.message()
            if "event" in found:
                return found

    def together(self, *commands: str) -> None:
        """Send commands without arguments in one write, so that QEMU runs them back to back.

        Raises:
            QmpError: QEMU refused one of them; the others have been executed.
        """
        self._begin(self.timeout_s)
        marks = [_mark() + at for at in range(len(commands))]
        both = list(zip(commands, marks, strict=True))
        lines = (f'{{"execute": "{command}", "id": {mark}}}\n' for command, mark in both)
        self._send("".join(lines))
        errors = []
        for command, mark in both:
            try:
                self._reply(command, mark)
            except QmpError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _reply(self, command: str, mark: int, tick: Callable[[], None] | None = None) -> Any:
        """The answer to this request: QEMU sends a new client those of a killed one, too."""
        while True:
            while tick and not self.is_readable(TICK_S):
                tick()
            reply = self._read()
            if reply.get("id") != mark and not ("error" in reply and "id" not in reply):
                self.passed_over += 1
                continue
            if "return" in reply:
                return checked(command, reply["return"])
            if "error" in reply:
                raise failure(command, reply["error"])

    def message(self, timeout_s: float | None = None) -> dict[str, Any]:
        """The next message, whatever it is: for a caller that follows events."""
        self._begin(timeout_s)
        return self._read()

    def _read(self) -> dict[str, Any]:
        found = self._object()
        if found is None or ("event" in found and not fits_event(found)):
            raise Nonsense
        return found

    def shut(self) -> None:
        """End the connection, also for a thread that waits on it."""
        try:
            self._socket.shutdown(SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()


def ask(path: str, command: str, arguments: dict[str, Any] | None = None, *, timeout_s: float = 2.0) -> Any:
    """Connect, execute one command, close; errors as `Exchange.ask`."""
    exchange = Exchange(path, timeout_s).negotiate()
    try:
        return exchange._execute(command, arguments)  # in the time that is left
    finally:
        exchange.close()


def ask_all(paths: Sequence[str], command: str, *, timeout_s: float = 1.0) -> dict[str, Any]:
    """Ask many QEMUs at the same time for what takes none of them long.

    Returns:
        The answers by path; without those that have not answered in time.
    """
    answers, until = {}, monotonic() + timeout_s
    for first in range(0, len(paths), _TOGETHER):
        begun = []
        for path in paths[first : first + _TOGETHER]:
            try:
                exchange = Exchange(path, max(until - monotonic(), 0.001))
            except OSError:
                continue
            try:
                begun.append((path, exchange, exchange.begin(command)[0]))
            except OSError:
                exchange.close()
        for path, exchange, mark in begun:
            with exchange:
                exchange._begin(max(until - monotonic(), _LATE_S))  # after a silent one, what has come
                try:
                    answers[path] = exchange._reply(command, mark)
                except (OSError, QmpError):
                    continue
    return answers
