"""The SFTP protocol, version 3, as far as `put` and `get` need it.

    client = Client(session)                        # of by_ssh
    client.stat("/tmp")                             # Attributes, or None
    client.write(handle, [(0, b"...")])             # many requests at once

Source: draft-ietf-secsh-filexfer-02; OpenSSH's PROTOCOL, section 4 (posix-rename, the order of SYMLINK). The
server is the guest's: lengths are checked before anything is kept.
"""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from dataclasses import dataclass

from qvmsh.errors import QvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import NoReturn

    from qvmsh.machine.guest.files.by_ssh import Session

_INIT, _VERSION = 1, 2
_OPEN, _CLOSE, _READ, _WRITE, _LSTAT, _SETSTAT = 3, 4, 5, 6, 7, 9
_OPENDIR, _READDIR, _REMOVE, _MKDIR, _RMDIR, _STAT, _RENAME = 11, 12, 13, 14, 15, 17, 18
_READLINK, _SYMLINK, _EXTENDED = 19, 20, 200
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS = 101, 102, 103, 104, 105
_OK, _EOF, _NO_SUCH_FILE, _FAILURE = 0, 1, 2, 4
_REASONS = {
    _EOF: "end",
    _NO_SUCH_FILE: "No such file or directory",
    3: "Permission denied",
    _FAILURE: "the guest's sftp server failed",
}
READING, WRITING, CREATING, EMPTYING = 1, 2, 8, 16
_SIZE, _OWNER, _MODE, _TIMES, _MORE = 1, 2, 4, 8, 0x80000000
_POSIX_RENAME = b"posix-rename@openssh.com"
_FSYNC = b"fsync@openssh.com"
MOST_BYTES = 1 << 20
"""The longest packet."""
SLICE_BYTES = 32 << 10
"""What every server reads or writes at once."""
AHEAD = 64
"""How many requests are sent before the first is answered."""


class Failed(QvmError):
    """The server refused a request; `is_missing`: there is no such file."""

    is_missing = False


@dataclass(frozen=True)
class Attributes:
    """What is known of a file; None for what the server does not say."""

    size: int | None = None
    mode: int | None = None
    mtime_s: int | None = None


class Client:
    """One session with the server, begun.

    Raises:
        Ended: there is no server.
        Nonsense: what answers is not an sftp server.
    """

    def __init__(self, session: Session, machine: str) -> None:
        self._session = session
        self._machine = machine
        self._number = 0
        self._is_begun = False
        self.is_torn = False
        """A packet was not sent or read to its end, so nothing more can be asked."""
        self._send(_INIT, None, struct.pack(">I", 3))
        kind, rest = self._packet()
        if kind != _VERSION:
            self._nonsense()
        rest.number()
        self._is_begun = True
        self._extensions = set()
        while rest:
            self._extensions.add(rest.bytes())
            rest.bytes()

    def _ended(self) -> Exception:
        return self._session.lost() if self._is_begun else Ended()

    def _nonsense(self) -> NoReturn:
        raise Nonsense("what answers is not an sftp server", machine=self._machine)

    def _send(self, kind: int, number: int | None, payload: bytes) -> None:
        head = b"" if number is None else struct.pack(">I", number)
        length = 1 + len(head) + len(payload)
        self.is_torn = True
        try:
            self._session.write(struct.pack(">IB", length, kind) + head + payload)
        except BrokenPipeError:
            raise self._ended() from None
        self.is_torn = False

    def _packet(self) -> tuple[int, _Fields]:
        self.is_torn = True
        head = self._session.read(5)
        if len(head) < 5:
            raise self._ended()
        length, kind = struct.unpack(">IB", head)
        if not 1 <= length <= MOST_BYTES:
            self._nonsense()
        data = self._session.read(length - 1)
        if len(data) < length - 1:
            raise self._ended()
        self.is_torn = False
        return kind, _Fields(data, self._nonsense)

    def _begin(self, kind: int, payload: bytes) -> int:
        self._number = self._number + 1 & 0xFFFFFFFF
        self._send(kind, self._number, payload)
        return self._number

    def _answer(self, number: int, wanted: int, what: str) -> _Fields:
        """The answer to the oldest request: servers answer in order."""
        kind, rest = self._packet()
        if rest.number() != number:
            self._nonsense()
        if kind == _STATUS:
            code = rest.number()
            if wanted == _STATUS and code == _OK:
                return rest
            text = rest.bytes().decode(errors="replace")[:200] if rest else ""
            why = _REASONS.get(code) or text or f"status {code}"
            failed = Failed(f"{what}: {why}", machine=self._machine)
            if code == _FAILURE:
                failed.hint = "the server gives no reason; `qvm exec df -h` shows whether a disk is full"
            failed.is_missing = code in (_NO_SUCH_FILE, _EOF)
            raise failed
        if wanted and kind != wanted:
            self._nonsense()
        return rest

    def _ask(self, kind: int, wanted: int, path: str, more: bytes = b"") -> _Fields:
        return self._answer(self._begin(kind, text(path) + more), wanted, path)

    def _data(self, number: int, path: str) -> bytes:
        """The answer to a request to read; raises EOFError at the end."""
        try:
            data = self._answer(number, _DATA, path).bytes()
        except Failed as failed:
            if failed.is_missing:
                raise EOFError from None
            raise
        if not data or len(data) > SLICE_BYTES:  # an end has an answer of its own
            self._nonsense()
        return data

    def stat(self, path: str, *, is_link: bool = False) -> Attributes | None:
        """What is there; None for nothing.

        Args:
            is_link: the link itself.
        """
        try:
            return self._ask(_LSTAT if is_link else _STAT, _ATTRS, path).attributes()
        except Failed as failed:
            if failed.is_missing:
                return None
            raise

    def open(self, path: str, flags: int) -> bytes:
        """A handle."""
        attributes = struct.pack(">II", _MODE, 0o600) if flags & CREATING else struct.pack(">I", 0)
        return self._ask(_OPEN, _HANDLE, path, struct.pack(">I", flags) + attributes).bytes()

    def close(self, handle: bytes, path: str) -> None:
        self._answer(self._begin(_CLOSE, packed(handle)), _STATUS, path)

    def flush(self, handle: bytes, path: str) -> None:
        """Let the guest write a file to its disk, where the server can."""
        if _FSYNC in self._extensions:
            self._answer(self._begin(_EXTENDED, packed(_FSYNC) + packed(handle)), _STATUS, path)

    def set(self, path: str, *, size: int | None, mode: int | None, mtime_s: int | None) -> None:
        """Give a file these values; None leaves one as it is."""
        flags, fields = 0, b""
        if size is not None:
            flags, fields = flags | _SIZE, fields + struct.pack(">Q", size)
        if mode is not None:
            flags, fields = flags | _MODE, fields + struct.pack(">I", mode)
        if mtime_s is not None and 0 <= mtime_s < 1 << 32:
            flags, fields = flags | _TIMES, fields + struct.pack(">II", mtime_s, mtime_s)
        self._ask(_SETSTAT, _STATUS, path, struct.pack(">I", flags) + fields)

    def make_folder(self, path: str, mode: int) -> None:
        self._ask(_MKDIR, _STATUS, path, struct.pack(">II", _MODE, mode))

    def remove(self, path: str) -> None:
        self._ask(_REMOVE, _STATUS, path)

    def remove_folder(self, path: str) -> None:
        self._ask(_RMDIR, _STATUS, path)

    def rename(self, old: str, new: str) -> None:
        """Rename, also over a file that is there, where the server can."""
        if _POSIX_RENAME in self._extensions:
            payload = packed(_POSIX_RENAME) + text(old) + text(new)
            self._answer(self._begin(_EXTENDED, payload), _STATUS, new)
        else:
            self._ask(_RENAME, _STATUS, old, text(new))

    def make_link(self, path: str, link: bytes) -> None:
        self._answer(self._begin(_SYMLINK, packed(link) + text(path)), _STATUS, path)

    def link(self, path: str) -> str:
        """Where a link leads."""
        found = self._ask(_READLINK, _NAME, path)
        if found.number() != 1:
            self._nonsense()
        return found.text()

    def folder(self, path: str) -> Iterator[tuple[str, Attributes]]:
        """The names in a folder, with what they are themselves."""
        handle = self._ask(_OPENDIR, _HANDLE, path).bytes()
        while True:
            try:
                found = self._answer(self._begin(_READDIR, packed(handle)), _NAME, path)
            except Failed as failed:
                if not failed.is_missing:
                    raise
                break
            rows = []
            count = found.number()
            if not count:  # an end has an answer of its own
                self._nonsense()
            for _ in range(count):
                name = found.text()
                found.bytes()
                rows.append((name, found.attributes()))
            yield from (row for row in rows if row[0] not in (".", ".."))
        self.close(handle, path)

    def write(self, handle: bytes, pieces: Iterable[tuple[int, bytes]], path: str) -> None:
        """Write all pieces, each at its place."""
        waiting: deque[int] = deque()
        path = f"cannot write to {path} in the guest"
        with self._drained(waiting):
            for at, data in pieces:
                for begin in range(0, len(data), SLICE_BYTES):
                    piece = data[begin : begin + SLICE_BYTES]
                    payload = packed(handle) + struct.pack(">Q", at + begin) + packed(piece)
                    waiting.append(self._begin(_WRITE, payload))
                    if len(waiting) >= AHEAD:
                        self._answer(waiting.popleft(), _STATUS, path)
            while waiting:
                self._answer(waiting.popleft(), _STATUS, path)

    @contextlib.contextmanager
    def _drained(self, waiting: deque[int]) -> Iterator[None]:
        """Read what is still to be answered where the block fails, so that other requests can follow."""
        try:
            yield
        except BaseException:
            while waiting and not self.is_torn:
                with contextlib.suppress(Failed):
                    self._answer(waiting.popleft(), 0, "")
            raise

    def read(self, handle: bytes, at: int, path: str) -> Iterator[bytes]:
        """A file from a place to its end; must be read to its end."""
        waiting: deque[int] = deque()
        asked, is_ended, is_short = at, False, False
        while True:
            while not is_ended and not is_short and len(waiting) < AHEAD:
                payload = packed(handle) + struct.pack(">QI", asked, SLICE_BYTES)
                waiting.append(self._begin(_READ, payload))
                asked += SLICE_BYTES
            if not waiting:
                if is_ended:
                    return
                asked, is_short = at, False  # after a short answer all is asked for again from there
                continue
            try:
                with self._drained(waiting):
                    data = self._data(waiting.popleft(), path)
            except EOFError:
                is_ended = is_ended or not is_short
                continue
            if is_short or is_ended:
                continue
            at += len(data)
            is_short = len(data) < SLICE_BYTES
            yield data


class Ended(Exception):
    """There is no server."""


class Nonsense(QvmError):
    """What answers is not an sftp server."""


def packed(data: bytes) -> bytes:
    """A string of the protocol."""
    return struct.pack(">I", len(data)) + data


def text(path: str) -> bytes:
    """A path as a string of the protocol."""
    return packed(path.encode(errors="surrogateescape"))


class _Fields:
    """The fields of a packet, one after the other."""

    def __init__(self, data: bytes, refuse: object) -> None:
        self._data = data
        self._at = 0
        self._refuse = refuse

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def _take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            self._refuse()  # type: ignore[operator]  # it never returns
        self._at += count
        return found

    def number(self) -> int:
        return int(struct.unpack(">I", self._take(4))[0])

    def bytes(self) -> bytes:
        return self._take(self.number())

    def text(self) -> str:
        return self.bytes().decode(errors="surrogateescape")

    def attributes(self) -> Attributes:
        flags = self.number()
        size = int(struct.unpack(">Q", self._take(8))[0]) if flags & _SIZE else None
        if flags & _OWNER:
            self._take(8)
        mode = self.number() if flags & _MODE else None
        mtime_s = None
        if flags & _TIMES:
            self.number()
            mtime_s = self.number()
        for _ in range(self.number() if flags & _MORE else 0):
            self.bytes()
            self.bytes()
        return Attributes(size, mode, mtime_s)
