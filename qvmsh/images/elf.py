"""ELF files: which shared libraries a program needs.

The libraries of a guest are found by following what its programs need, so another release of
Debian, with other versions of them, needs no change of a recipe::

    needed("/usr/sbin/dropbear")      # ["libtomcrypt.so.1", ..., "libc.so.6"]

Source: ELF-64 Object File Format; elf(5). Only 64-bit little-endian files are read.
"""

from __future__ import annotations

import struct

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5


def needed(path: str) -> list[str]:
    """Names of the libraries that the file asks for (DT_NEEDED); none for a static program.

    Raises:
        ValueError: it is not a 64-bit little-endian ELF file.
    """
    data, segments = _read(path)
    dynamic = next((s for s in segments if s[0] == _PT_DYNAMIC), None)
    if dynamic is None:
        return []
    _, begin, _, size = dynamic
    entries = list(struct.iter_unpack("<qQ", data[begin : begin + size - size % 16]))
    tags = entries[: next((i for i, (tag, _) in enumerate(entries) if tag == _DT_NULL), len(entries))]
    address = next(value for tag, value in tags if tag == _DT_STRTAB)
    strings = next(
        at + address - base
        for kind, at, base, n in segments
        if kind == _PT_LOAD and base <= address < base + n
    )
    return [_string(data, strings + value) for tag, value in tags if tag == _DT_NEEDED]


def interpreter(path: str) -> str | None:
    """The dynamic loader that the program asks for (`/lib64/ld-linux-x86-64.so.2`), None if static."""
    data, segments = _read(path)
    return next((_string(data, begin) for kind, begin, _, _ in segments if kind == _PT_INTERP), None)


def _read(path: str) -> tuple[bytes, list[tuple[int, int, int, int]]]:
    """The file and its program headers as (type, offset, address, size in the file)."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path}: not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = (struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count))
    return data, [(kind, offset, address, length) for kind, _, offset, address, _, length in headers]


def _string(data: bytes, begin: int) -> str:
    return data[begin : data.index(b"\0", begin)].decode()
