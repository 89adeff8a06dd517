"""Whether disks are as archived: then nothing has to be copied, and nothing is lost by a restore."""

from __future__ import annotations

import os

from qvmsh.errors import QvmError
from qvmsh.machine.archive.checked_reader import restored_ns
from qvmsh.machine.archive.model import Part
from qvmsh.machine.archive.settings import SETTINGS
from qvmsh.machine.archive.settings import is_same as is_same_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qvmsh.machine.archive.index import ArchiveIndex
    from qvmsh.machine.archive.model import Archive, Point
    from qvmsh.machine.archive.writer import Writer


def newest_state(writer: Writer) -> tuple[Archive, Point] | None:
    """The newest state, if its settings and (by size and date) its disks are the current ones."""
    if writer.is_new or writer.job.wish.delvm or writer.job.wish.is_full or not writer.archive.done:
        return None
    last = writer.archive.done[-1]
    for drive in writer.taken:
        part, status = last.part(drive.role), os.stat(drive.path)
        if part is None or part.of or last.consistency != "off":
            return None
        if (status.st_mtime_ns, status.st_size) != (part.source_mtime_ns, part.size_bytes):
            return None
    if any(writer.stored.get(part.name) != part.stored_bytes for part in writer.archive.parts([last])):
        return None  # damaged
    now = [Part(each.role, each.name, each.format, writer.source_of(each.path)) for each in writer.taken]
    is_same = _disks([*now, *writer.point.parts]) == _disks(last.parts) and _has_settings(writer, last)
    return (writer.archive, last) if is_same else None


def _has_settings(writer: Writer, point: Point) -> bool:
    """True if a state holds the settings as they are now."""
    part = point.part(SETTINGS)
    if part is None:
        return False
    with writer.store.reader(writer.archive.folder, part.name) as fd, open(fd, "rb", closefd=False) as file:
        is_same = is_same_settings(writer.vm, writer.settings.names, file)
        while file.read(1 << 20):  # another host's program waits until all is read
            pass
    return is_same


def _disks(parts: Sequence[Part]) -> list[tuple[str, str, str, str]]:
    """The disks of a state, to compare with those of another."""
    return sorted(
        (each.role, each.format, each.source, each.left_out) for each in parts if each.role != SETTINGS
    )


def is_archived(index: ArchiveIndex, paths: list[str]) -> bool:
    """True if one archived state was made of these very files, or they of it, and none was written since."""
    try:
        archives = index.archives()
    except QvmError:  # the store cannot be reached
        return False
    return any(
        all(any(_is_of(path, archive, point, part) for part in archive.parts([point])) for path in paths)
        for archive in archives
        for point in archive.done
    )


def _is_of(path: str, archive: Archive, point: Point, part: Part) -> bool:
    """True if a file is what a state holds as `part`."""
    if part.source_mtime_ns:
        return is_unchanged(path, part)
    is_top = part in point.parts
    return is_top and bool(point.id) and os.stat(path).st_mtime_ns == restored_ns(point, part)


def is_unchanged(path: str, part: Part) -> bool:
    """True if a file is what was archived, by its size and time."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return bool(part.source_mtime_ns) and (status.st_mtime_ns, status.st_size) == (
        part.source_mtime_ns,
        part.size_bytes,
    )
