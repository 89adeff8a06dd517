"""Reading a tar file that nobody vouches for: from a pipe, with a limit on everything.

    for member in Reader(stream.read, "demo.tar.gz"):
        for at, data in member.data(): ...           # of what is not a hole, in its order

Python's `tarfile` keeps each header and each map of holes in memory, and goes on where a file is truncated;
this reads the same formats (ustar, pax, GNU, sparse files of all versions) and refuses all others.
"""

from __future__ import annotations

from dataclasses import dataclass

from qvmsh.errors import ImageError, printable
from qvmsh.host import tar_format
from qvmsh.host.tar_format import BLOCK, Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn, Protocol

    Run = tuple[int, int]

    class Source(Protocol):
        """Where a member's data comes from."""

        def data(self, runs: list[Run]) -> Iterator[tuple[int, bytes]]: ...


MOST_MEMBERS = 10_000
HEAD_BYTES = 1 << 20
"""The largest extended header."""
MAP_BYTES = 48 << 20
"""The largest map of holes."""
END_BYTES = 4 << 20
"""How many zeros may follow the last member."""
PIECE_BYTES = 1 << 20
_KINDS = {
    tar_format.LINK: "a hard link", tar_format.SYMLINK: "a symbolic link", tar_format.CHARACTER: "a device",
    tar_format.DEVICE: "a device", tar_format.FIFO: "a FIFO",
}  # fmt: skip


@dataclass
class Member:
    """One file or folder.

    Args:
        kind: `file`, `folder`, or what else it is, in words.
        size_bytes: of the file, with its holes.
        stored_bytes: of its data in the package.
        mtime_s: when it was changed; 0 where that is not a time.
        link: where a link leads.
    """

    name: str
    kind: str
    mode: int
    size_bytes: int
    stored_bytes: int
    _runs: list[Run] | None
    _reader: Source
    mtime_s: int = 0
    link: str = ""

    def data(self) -> Iterator[tuple[int, bytes]]:
        """The data with its place in the file; must be read to its end, or not at all."""
        return self._reader.data(self._runs if self._runs is not None else [(0, self.stored_bytes)])


@dataclass
class _Extended:
    """What extended headers say of the next member."""

    records: dict[str, list[str]]
    long_name: str | None = None
    long_link: str | None = None

    def last(self, key: str) -> str | None:
        values = self.records.get(key)
        return values[-1] if values else None


class Reader:
    """The members of a tar file, one after the other.

    Args:
        read: gives the next bytes, fewer than asked for only at the end.
        label: what messages call it.

    Raises:
        ImageError: it is damaged, or holds what a package cannot hold; or what `refuse` of a subclass raises.
    """

    most_members = MOST_MEMBERS

    def __init__(self, read: Callable[[int], bytes], label: str) -> None:
        self._read = read
        self._label = printable(label)
        self._left = 0  # of the current member, with its padding
        self._first = b""  # the first header, until it is looked at

    def refuse(self, why: str) -> NoReturn:
        raise ImageError(f"{self._label}: {printable(why)}", hint="get the package again")

    def refuse_other(self) -> NoReturn:
        """Refuse what is not a tar file at all."""
        raise ImageError(
            f"{self._label}: it is not a package, which is a tar file, compressed or not",
            hint="`qvm export` makes packages; `qvm create NAME --from FILE` takes the image of a disk",
        )

    def __iter__(self) -> Iterator[Member]:
        headers = members = 0
        extended = _Extended({})
        self._require_tar()
        while (block := self._block()) is not None:
            headers += 1
            if members >= self.most_members or headers > 4 * self.most_members:
                self.refuse(f"it holds more than {self.most_members} files")
            try:
                if self._is_extension(block, extended):
                    continue
                member = self._member(block, extended)
            except Invalid as error:
                self.refuse(f"it is damaged: {error}")
            extended = _Extended({})
            members += 1
            yield member
            self._skip()

    def _require_tar(self) -> None:
        """Look at the first header: what is no tar file at all is not a damaged one."""
        self._first = self._read(BLOCK)
        if not tar_format.is_header(self._first):
            self.refuse_other()
        if len(self._first) < BLOCK:
            self.refuse("it is truncated")

    def _exactly(self, count: int) -> bytes:
        data = self._read(count)
        if len(data) < count:
            self.refuse("it is truncated")
        return data

    def _block(self) -> bytes | None:
        """The next header; None at the end, where nothing but zeros may follow."""
        block, self._first = self._first or self._exactly(BLOCK), b""
        if block.strip(b"\0"):
            return block
        rest = self._exactly(BLOCK)
        total = 0
        while rest:
            if rest.strip(b"\0"):
                self.refuse("it is damaged: something follows its end")
            total += len(rest)
            if total > END_BYTES:
                self.refuse("it is damaged: it does not end")
            rest = self._read(1 << 16)
        return None

    # headers

    def _is_extension(self, block: bytes, extended: _Extended) -> bool:
        """Read a header that only says something of the next one; False for any other."""
        kind = block[156:157]
        if kind not in (tar_format.PAX, tar_format.PAX_GLOBAL, tar_format.LONG_NAME, tar_format.LONG_LINK):
            return False
        tar_format.require_checksum(block)
        size = tar_format.number(block[124:136])
        if size > HEAD_BYTES:
            raise Invalid(f"a header of {size} bytes")
        data = self._exactly(size + tar_format.padding(size))[:size]
        if kind == tar_format.PAX:
            if extended.records:
                raise Invalid("two extended headers of one member")
            extended.records = tar_format.pax_records(data)
        elif kind == tar_format.LONG_NAME:
            extended.long_name = tar_format.text_of(data.partition(b"\0")[0])
        elif kind == tar_format.LONG_LINK:
            extended.long_link = tar_format.text_of(data.partition(b"\0")[0])
        return True

    def _member(self, block: bytes, extended: _Extended) -> Member:
        found = self._typed(block, extended)
        found.mtime_s = tar_format.time_s(block[136:148], extended.last("mtime"))
        found.link = extended.last("linkpath") or extended.long_link or ""
        found.link = found.link or tar_format.text_of(block[157:257].partition(b"\0")[0])
        return found

    def _typed(self, block: bytes, extended: _Extended) -> Member:
        tar_format.require_checksum(block)
        kind, mode = block[156:157], tar_format.number(block[100:108])
        size = tar_format.number(block[124:136])
        if (text := extended.last("size")) is not None:
            size = tar_format.decimal(text)
        name = extended.last("GNU.sparse.name") or extended.last("path") or extended.long_name
        name = name or tar_format.name_of(block)
        if kind in _KINDS:
            return Member(name, _KINDS[kind], mode, 0, 0, None, self)
        if kind == tar_format.FOLDER or (kind in (b"0", b"\0") and name.endswith("/")):
            self._left = size + tar_format.padding(size)
            return Member(name, "folder", mode, 0, 0, None, self)
        self._left = size + tar_format.padding(size)
        runs: list[Run] | None
        if kind == tar_format.OLD_SPARSE:
            runs, real = self._old_sparse(block)
        elif kind not in (b"0", b"\0", b"7"):
            return Member(name, f"a member of the unknown kind {kind!r}", mode, 0, 0, None, self)
        else:
            runs, real = self._pax_sparse(extended)
        if runs is None:
            return Member(name, "file", mode, size, size, None, self)
        stored = self._left - tar_format.padding(size)
        _require_map(runs, real, stored)
        return Member(name, "file", mode, real, stored, runs, self)

    def _old_sparse(self, block: bytes) -> tuple[list[Run], int]:
        runs, real = _fields(block, 386, 4), tar_format.number(block[483:495])
        is_continued = bool(block[482])
        while is_continued:
            more = self._exactly(BLOCK)
            runs += _fields(more, 0, 21)
            is_continued = bool(more[504])
            if len(runs) * 24 > MAP_BYTES:
                raise Invalid("a map of holes that is too large")
        return runs, real

    def _pax_sparse(self, extended: _Extended) -> tuple[list[Run] | None, int]:
        """Where the data of a member belongs; None where it has no holes."""
        real = extended.last("GNU.sparse.realsize") or extended.last("GNU.sparse.size")
        if real is None:
            return None, 0
        size = tar_format.decimal(real)
        if extended.last("GNU.sparse.major") == "1":
            return self._map(), size
        if (text := extended.last("GNU.sparse.map")) is not None:
            numbers = list(map(tar_format.decimal, text.split(",")))
            if len(numbers) % 2:
                raise Invalid("a map of holes that is not valid")
            return list(zip(numbers[::2], numbers[1::2], strict=True)), size
        offsets = extended.records.get("GNU.sparse.offset", [])
        lengths = extended.records.get("GNU.sparse.numbytes", [])
        if len(offsets) != len(lengths):
            raise Invalid("a map of holes that is not valid")
        return [*zip(map(tar_format.decimal, offsets), map(tar_format.decimal, lengths), strict=True)], size

    def _map(self) -> list[Run]:
        """The map before the data of a sparse member of version 1.0: numbers, a line each."""
        rest = b""
        used = 0

        def lines(count: int) -> list[int]:
            nonlocal rest, used
            while rest.count(b"\n") < count:
                missing = count - rest.count(b"\n")
                want = min(max(BLOCK, 2 * missing // BLOCK * BLOCK), PIECE_BYTES)  # never behind the map
                if used + want > MAP_BYTES or want > self._left:
                    raise Invalid("a map of holes that is too large")
                rest += self._exactly(want)
                used += want
                self._left -= want
            *found, rest = rest.split(b"\n", count)
            return [tar_format.decimal(each.decode("latin-1")) for each in found]

        (count,) = lines(1)
        if count > MAP_BYTES // 4:
            raise Invalid("a map of holes that is too large")
        numbers = lines(2 * count)
        if rest.strip(b"\0"):
            raise Invalid("a map of holes that is not valid")
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    # data

    def data(self, runs: list[Run]) -> Iterator[tuple[int, bytes]]:
        for begin, length in runs:
            at, end = begin, begin + length
            while at < end:
                data = self._exactly(min(PIECE_BYTES, end - at))
                self._left -= len(data)
                yield at, data
                at += len(data)

    def _skip(self) -> None:
        """What was not read of the member, and its padding."""
        while self._left:
            self._left -= len(self._exactly(min(PIECE_BYTES, self._left)))


def _fields(block: bytes, at: int, count: int) -> list[tuple[int, int]]:
    """The rows of an old map of holes; empty ones are not used."""
    rows = [block[begin : begin + 24] for begin in range(at, at + 24 * count, 24)]
    return [(tar_format.number(row[:12]), tar_format.number(row[12:])) for row in rows if row.strip(b"\0")]


def _require_map(runs: list[tuple[int, int]], size: int, stored: int) -> None:
    """Raises Invalid unless the parts follow each other inside the file, and are what is stored."""
    end = total = 0
    for begin, length in runs:
        if begin < end:
            raise Invalid("a map of holes whose parts overlap")
        end = begin + length
        total += length
    if end > size:
        raise Invalid("a map of holes that leads behind the end of its file")
    if total != stored:
        raise Invalid("a map of holes that is not that of its data")
