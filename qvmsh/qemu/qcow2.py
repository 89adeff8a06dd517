"""The internal snapshots of a qcow2 file, read without a process and without its lock.

    snapshots("demo-backing.qcow2")[0].name          # "ready"
    changed("demo-backing.qcow2", "1", None)         # bytes that differ between snapshot 1 and now

A running QEMU writes the snapshot table before `snapshot-save` ends, so what is read here is what
QEMU would report. Not so the data that differs: a running QEMU may not have written all tables.
Source: QEMU docs/interop/qcow2.txt.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import dataclass
from sys import byteorder

from qvmsh.errors import ImageError
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

MAGIC = b"QFI\xfb"
_FIRST_VERSION = b"\0\0\0\1"  # qcow, which has no snapshots
_ENTRY = ">QIHHIIQII"  # L1 offset and size, lengths of id and name, date, nanoseconds, clock, vmstate, extra
_ENTRY_BYTES = 40
_MOST = 65536
"""More snapshots than QEMU allows: a larger number is not valid."""
_OFFSET = 0x00FFFFFFFFFFFE00
_COPIED = 1 << 63
_EXTENDED_L2 = 1 << 4


@dataclass(frozen=True)
class Snapshot:
    """One internal snapshot.

    Args:
        id: QEMU's own name of it in this image, a number.
        name: its tag.
        date_s: seconds since the epoch.
        vmstate_bytes: size of the memory that it holds; 0 = only the disk.
        disk_bytes: size of the virtual disk when it was taken; 0 = unknown.
        clock_ns: how long the guest had been running.
    """

    id: str
    name: str
    date_s: int
    vmstate_bytes: int = 0
    disk_bytes: int = 0
    clock_ns: int = 0
    l1_offset: int = 0
    l1_entries: int = 0


def snapshots(path: str) -> list[Snapshot]:
    """The internal snapshots of the image at `path`; none for another format.

    Raises:
        OSError: it cannot be read.
        ImageError: its table cannot be read.
    """
    with image.opened(path) as file:
        return _table(file, path)


def _table(file: IO[bytes], path: str) -> list[Snapshot]:
    head = file.read(72)
    if head[:4] != MAGIC or len(head) < 72 or head[4:8] == _FIRST_VERSION:
        return []
    count, offset = struct.unpack(">IQ", head[60:72])
    if not count:
        return []
    found = []
    if count > _MOST:
        raise _unreadable(path)
    for _ in range(count):
        file.seek(offset)
        fixed = file.read(_ENTRY_BYTES)
        if len(fixed) < _ENTRY_BYTES:
            raise _unreadable(path)
        l1_offset, l1_entries, id_bytes, name_bytes, date_s, _, clock_ns, vmstate, more = struct.unpack(
            _ENTRY, fixed
        )
        if more > _MOST:
            raise _unreadable(path)
        rest = file.read(more + id_bytes + name_bytes)
        if len(rest) < more + id_bytes + name_bytes:
            raise _unreadable(path)
        extra, names = rest[:more], rest[more:]
        if more >= 8:
            vmstate = int.from_bytes(extra[:8], "big")
        found.append(
            Snapshot(
                id=os.fsdecode(names[:id_bytes]),
                name=os.fsdecode(names[id_bytes:]),
                date_s=date_s,
                vmstate_bytes=vmstate,
                disk_bytes=int.from_bytes(extra[8:16], "big") if more >= 16 else 0,
                clock_ns=clock_ns,
                l1_offset=l1_offset,
                l1_entries=l1_entries,
            )
        )
        offset += -(-(_ENTRY_BYTES + len(rest)) // 8) * 8
    return found


def _unreadable(path: str) -> ImageError:
    return ImageError(
        f"the table of snapshots in {os.path.basename(path)} cannot be read",
        hint=f"`qemu-img check {image.typed(path)}` shows the details",
    )


def changed(path: str, first: str | None, second: str | None) -> int:
    """How many bytes of the disk are stored in another place: those written between two moments.

    What was written with the same content counts too; what the layers below hold does not.

    Args:
        first, second: id of a snapshot, None for the disk as it is now.

    Raises:
        ImageError: there is no such snapshot, or the file is not a qcow2 image.
    """
    with image.opened(path) as file:
        return _differences(file, *_disk_tables(file, path, (first, second)))


def is_as_then(path: str, snapshot: str) -> bool:
    """True if nothing was written to the disk since the snapshot of that id was taken; reads two tables.

    Raises:
        ImageError, OSError, ValueError: there is no such snapshot, or a table cannot be read.
    """
    with image.opened(path) as file:
        tables, _, _ = _disk_tables(file, path, (snapshot, None))
    (then, then_bytes), (now, now_bytes) = tables
    return then_bytes == now_bytes and [each & _OFFSET for each in then] == [each & _OFFSET for each in now]


def is_empty(path: str) -> bool:
    """True if the image holds no data of its own now; reads one table.

    Raises:
        ImageError, OSError: the file is not a qcow2 image, or cannot be read.
    """
    with image.opened(path) as file:
        ((now, _),), _, _ = _disk_tables(file, path, (None,))
    return not any(now)


def _disk_tables(
    file: IO[bytes], path: str, moments: tuple[str | None, ...]
) -> tuple[list[tuple[array[int], int]], int, int]:
    """The first table and the size of a disk at each moment.

    Args:
        moments: ids of snapshots, None for the disk as it is now.

    Returns:
        Those; the bits of a cluster's size; the words of an entry in a second table.
    """
    by_id = {each.id: each for each in _table(file, path)}
    file.seek(0)
    head = file.read(112)
    if head[:4] != MAGIC:
        raise ImageError(f"{os.path.basename(path)} is not in format qcow2")
    bits = struct.unpack(">I", head[20:24])[0]
    size, l1_entries, l1_offset = (
        *struct.unpack(">Q", head[24:32]),
        struct.unpack(">I", head[36:40])[0],
        struct.unpack(">Q", head[40:48])[0],
    )
    version = struct.unpack(">I", head[4:8])[0]
    flags = struct.unpack(">Q", head[72:80])[0] if version >= 3 else 0
    words = 2 if flags & _EXTENDED_L2 else 1
    tables = []
    for each in moments:
        at, entries, of_bytes = l1_offset, l1_entries, size
        if each is not None:
            if each not in by_id:
                raise ImageError(f"there is no snapshot {each} in {os.path.basename(path)}")
            at, entries = by_id[each].l1_offset, by_id[each].l1_entries
            of_bytes = by_id[each].disk_bytes or size
        cluster = 1 << bits
        per_table = cluster // (8 * words)
        most = -(-of_bytes // (cluster * per_table))  # the memory is behind the disk
        tables.append((_words(file, at, entries)[:most], of_bytes))
    return tables, bits, words


def _words(file: IO[bytes], offset: int, count: int) -> array[int]:
    file.seek(offset)
    found = array("Q", file.read(8 * count))
    if byteorder == "little":
        found.byteswap()
    return found


def _differences(file: IO[bytes], tables: list[tuple[array[int], int]], bits: int, words: int) -> int:
    cluster = 1 << bits
    per_table = cluster // (8 * words)
    (one, one_bytes), (two, two_bytes) = tables
    empty = array("Q", bytes(cluster))
    total = 0
    for at in range(max(len(one), len(two))):
        offsets = [table[at] & _OFFSET if at < len(table) else 0 for table in (one, two)]
        if offsets[0] == offsets[1]:
            continue
        rows = [_words(file, offset, cluster // 8) if offset else empty for offset in offsets]
        in_common = min(one_bytes, two_bytes) - at * per_table * cluster
        last = min(per_table, max(0, -(-in_common // cluster)))
        if words == 1:
            pairs = zip(rows[0][:last], rows[1][:last], strict=True)
            total += sum(1 for a, b in pairs if (a ^ b) & ~_COPIED)
        else:
            for each in range(last):
                a, b = rows[0][2 * each : 2 * each + 2], rows[1][2 * each : 2 * each + 2]
                total += bool((a[0] ^ b[0]) & ~_COPIED or a[1] != b[1])
    return total * cluster + abs(one_bytes - two_bytes)
