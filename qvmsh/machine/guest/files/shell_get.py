"""The guest as a source, by its shell and its tar; see `sources.Sender`."""

from __future__ import annotations

import contextlib
import zlib

from qvmsh.errors import QvmError
from qvmsh.machine.guest.files import names, scripts
from qvmsh.machine.guest.files.incoming import Refused
from qvmsh.machine.guest.files.names import split
from qvmsh.machine.guest.files.sources import Seen
from qvmsh.machine.guest.files.ways import Incoming, Pieces
from qvmsh.machine.guest.wish import Unusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qvmsh.machine.guest.files.incoming import Unpacking
    from qvmsh.machine.guest.files.ways import Way
    from qvmsh.machine.guest.result import Result
    from qvmsh.machine.machine import BaseMachine

WORDS_BYTES = 48 << 10
"""How long the names of one command may be; Linux takes 128 KiB, and quoting makes them longer."""
READ_BYTES, MOST_BYTES = 64 << 10, 1 << 20
"""How much of a compressed stream is read, and becomes plain, at once."""
_USUAL = ("file changed as we read it", "Exiting with failure status", "error exit delayed")
"""What tar says of what is no failure here, or of a failure that it has named before."""


class ShellSender:
    """See `sources.Sender`."""

    def __init__(self, vm: BaseMachine, way: Way) -> None:
        self._vm = vm
        self._way = way
        self.name = way.name
        self._tar = "none"
        self._has_gzip = False

    def look(self, paths: Sequence[str]) -> list[Seen]:
        text = "\n".join(f"see {scripts.quoted(path)}" for path in paths)
        done = self._way.ask(scripts.LOOK_AT_SOURCES, [], text.encode(errors="surrogateescape"))
        rows = [line.split() for line in done.lines if line.startswith("qvm ")]
        if len(rows) != len(paths) + 1 or any(len(row) < 3 for row in rows):
            raise Unusable(f"the account has no POSIX shell: {done.stderr.strip()[-200:] or 'no answer'}")
        self._tar = rows[0][1]
        self._has_gzip = rows[0][2:] == ["gzip"]
        has_gnu = self._tar == "gnu"
        return [_seen(path, row, has_gnu=has_gnu) for path, row in zip(paths, rows[1:], strict=True)]

    @contextlib.contextmanager
    def read(self, seen: Seen, blocks: int) -> Iterator[Incoming]:
        how = "gzip" if seen.has_holes and self._has_gzip else ""
        with self._way.received(scripts.READ, [seen.path, str(blocks), how]) as stream:
            inflated = _Inflated(stream.read, self._vm.name) if how else None
            yield Incoming(inflated.read) if inflated else stream
        assert stream.done is not None
        self._require(stream.done, seen.path)
        if inflated and not inflated.is_whole:
            raise Refused("what the guest sends is truncated", machine=self._vm.name)

    def tree(self, seen: Sequence[Seen], unpacking: Unpacking) -> list[str]:
        if self._tar == "none":
            raise Unusable("the guest has no tar")
        failed: list[str] = []
        for words, top in _groups(seen):
            how = "gnu" if self._tar == "gnu" else "plain"
            why: Refused | None = None
            with self._way.received(scripts.PACK, [how, *words]) as stream:
                try:
                    unpacking.all(stream.read, top)
                except Refused as error:
                    if stream.read(1):
                        raise
                    why = error  # how the stream has ended counts more
            assert stream.done is not None
            said = [line for line in stream.done.stderr.splitlines() if line.strip()]
            said = [line.removeprefix("tar: ") for line in said if not any(each in line for each in _USUAL)]
            if stream.done.status not in (0, 1, 2) or why is not None:
                self._require(stream.done, words[-1])
            if why is not None:
                raise why
            if stream.done.status:
                failed += said
        return failed

    def _require(self, done: Result, path: str) -> None:
        if not done:
            words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            why = words[-1] if words else f"status {done.status}"
            raise QvmError(f"cannot read {path} in the guest: {why}", machine=self._vm.name)


def _seen(path: str, row: list[str], *, has_gnu: bool) -> Seen:
    kind, link = row[1:3]
    name = split(path)[1]
    facts = [each for each in row[3:7] if names.is_number(each)]
    if len(facts) < 4 or kind not in ("file", "folder"):
        return Seen(path, name, kind, link == "link")
    size, mtime, blocks = int(facts[0]), int(facts[1]), int(facts[3])
    mode = int(facts[2], 8) if not set(facts[2]) - set("01234567") else None
    return Seen(path, name, kind, link == "link", size, mtime, mode, 0 <= blocks * 512 < size, has_gnu)


def _groups(seen: Sequence[Seen]) -> Iterator[tuple[list[str], Callable[[str], str]]]:
    """Words for PACK, and the names here: one tar for what is in one folder; a link has its own."""
    groups: dict[str, list[str]] = {}
    for each in seen:
        folder, name = split(each.path)
        if each.is_link:
            yield ["link", f"{folder.rstrip('/')}/{name}"], _Only(each.name)
        else:
            groups.setdefault(folder, []).append(name)
    for folder, found in groups.items():
        for group in _short(found):
            known = {name: name for name in group}
            yield [folder, *(f"./{name}" for name in group)], known.__getitem__


class _Inflated:
    """A stream that is compressed by gzip, since zeros are most of it."""

    def __init__(self, read: Callable[[int], bytes], machine: str) -> None:
        self._read = read
        self._machine = machine
        self._inflate = zlib.decompressobj(31)
        self.read = Pieces(self._piece).read

    @property
    def is_whole(self) -> bool:
        """True once its end was read."""
        return self._inflate.eof

    def _piece(self) -> bytes:
        data = b""
        try:
            while not data and not self._inflate.eof:
                packed = self._inflate.unconsumed_tail or self._read(READ_BYTES)
                if not packed:
                    return self._inflate.flush()  # how the stream has ended says why
                data = self._inflate.decompress(packed, MOST_BYTES)
        except zlib.error:
            raise Refused(
                "what the guest sends is not compressed as it says", machine=self._machine
            ) from None
        return data


class _Only:
    """The one name at the top of a tar file, whatever it is, gets the name here."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._there: str | None = None

    def __call__(self, name: str) -> str:
        if self._there is None:
            self._there = name
        if name != self._there:
            raise KeyError(name)
        return self._name


def _short(found: list[str]) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for name in found:
        length = 3 * len(name.encode(errors="surrogateescape")) + 8
        if group and size + length > WORDS_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += length
    if group:
        yield group
