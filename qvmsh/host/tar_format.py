"""The headers of a tar file: POSIX pax, with sparse files as GNU tar stores them.

    header("demo.raw", 1536, mode=0o600)          # 512 bytes
    pax_records(b"11 path=a\\n")                   # {"path": ["a"]}

Source: POSIX.1-2017, pax; GNU tar's manual, "Storing Sparse Files" and "Basic Tar Format".
"""

from __future__ import annotations

BLOCK = 512
FILE, LINK, SYMLINK, CHARACTER, DEVICE, FOLDER, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK, OLD_SPARSE = b"x", b"g", b"L", b"K", b"S"
DATE_S = 315_532_800
"""The date of all members: 1980-01-01; GNU tar calls one of 1970 implausible."""
_MAX = 1 << 63
_LAST_S = 253_402_300_800
"""The year 10000."""


class Invalid(Exception):
    """A header that is not valid; the text says why."""


def padding(size: int) -> int:
    """How many bytes follow `size` bytes up to the next block."""
    return -size % BLOCK


def header(name: str, size: int, *, mode: int, kind: bytes = FILE) -> bytes:
    """One header block; the name must fit (see `fits`)."""
    return block_of(name.encode(), size, mode=mode, kind=kind)


def block_of(
    name: bytes, size: int, *, mode: int, kind: bytes, mtime_s: int = DATE_S, link: bytes = b""
) -> bytes:
    """One header block; name and link have at most 100 bytes."""
    fields = (
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, _number(size),
        _number(mtime_s), b" " * 8, kind, link.ljust(100, b"\0"), b"ustar\0" b"00", bytes(32), bytes(32),
        b"%07o\0" % 0, b"%07o\0" % 0,
    )  # fmt: skip
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def fits(name: str) -> bool:
    """True if a name can be in a header itself, not only in a pax record."""
    return name.isascii() and len(name) <= 100


def _number(value: int) -> bytes:
    """A size: octal, or in base 256 where that has too few digits."""
    return b"%011o\0" % value if value < 8**11 else b"\x80" + value.to_bytes(11, "big")


def pax(records: dict[str, str]) -> bytes:
    """An extended header with its records, padded."""
    text = b"".join(_record(key, value) for key, value in records.items())
    head = header("././@PaxHeader", len(text), mode=0o644, kind=PAX)
    return head + text + bytes(padding(len(text)))


def _record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode(errors="surrogateescape")
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def number(field: bytes) -> int:
    """The number in a field of a header: octal, or in base 256.

    Raises:
        Invalid: it is neither, or below zero.
    """
    if field[:1] == b"\x80":
        value = int.from_bytes(field[1:], "big")
    elif field[:1] == b"\xff":
        raise Invalid("a number below zero")
    else:
        text = field.partition(b"\0")[0].strip()
        if text.strip(b"01234567"):
            raise Invalid("a number that is not octal")
        value = int(text, 8) if text else 0
    if value >= _MAX:
        raise Invalid("a number that is too large")
    return value


def time_s(field: bytes, text: str | None) -> int:
    """A time in whole seconds: that of a pax record, else of a header; 0 where that is not a usable one."""
    try:
        found = number(field) if text is None else decimal(text.partition(".")[0])
    except Invalid:
        return 0
    return found if found < _LAST_S else 0


def decimal(text: str) -> int:
    """The number in a pax record.

    Raises:
        Invalid: it is not one.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) >= _MAX:
        raise Invalid("a number that is not valid")
    return int(text)


def require_checksum(block: bytes) -> None:
    """Raises Invalid if the checksum of a header is wrong."""
    if number(block[148:156]) != sum(block[:148]) + sum(block[156:]) + 8 * 32:
        raise Invalid("a header with a wrong checksum")


def is_header(block: bytes) -> bool:
    """True for what a tar file begins with, which may be damaged or incomplete; also for its end alone."""
    if block[257:262] == b"ustar" or not block.strip(b"\0"):
        return True
    if len(block) < BLOCK:
        return block.startswith(b"qvm.json\0")
    try:
        require_checksum(block)
    except Invalid:
        return False
    return True


def name_of(block: bytes) -> str:
    """The name in a header, with its prefix where the format has one."""
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return text_of(prefix + b"/" + name if prefix else name)


def text_of(data: bytes) -> str:
    """A name as Python has it: bytes that are not UTF-8 become surrogates."""
    return data.decode("utf-8", "surrogateescape")


def pax_records(data: bytes) -> dict[str, list[str]]:
    """The records of an extended header, all values of a key in their order.

    Raises:
        Invalid: they are not whole.
    """
    found: dict[str, list[str]] = {}
    while data:
        length, mark, _ = data.partition(b" ")
        if not mark or not length.isdigit() or len(length) > 9:
            raise Invalid("an extended header that is not valid")
        record, data = data[: int(length)], data[int(length) :]
        key, mark, value = record[len(length) + 1 :].partition(b"=")
        if not mark or not value.endswith(b"\n"):
            raise Invalid("an extended header that is not valid")
        found.setdefault(text_of(key), []).append(text_of(value[:-1]))
    return found
