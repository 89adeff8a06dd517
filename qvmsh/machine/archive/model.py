"""What an archive is: a folder with a base and the states that were archived on it.

    archive.chain(archive.done[-1])     # the newest state and all that it is based on

The layout is that of `vm` (bash): `NAME-<%Y%m%d%H%M%S of the base's mtime>/` holds `NAME-base.FMT` and
`NAME-backing.FMT` as they were archived first, and one `NAME-backing-<stamp>.FMT` for each update; each
may be compressed (`.xz`, `.gz`, ...). qvm adds `manifest.json`: checksums, additional disks, how consistent
each state is. Where there is none, the names alone say what is there. A state that the manifest calls
unfinished is what a killed command left.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

from qvmsh.errors import ImageError
from qvmsh.host import compression

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

PART = ".part"
MAIN = "main"
"""The role of the machine's own disk."""
STAMP = "%Y%m%d%H%M%S"


@dataclass
class Part:
    """One stored file.

    Args:
        role: `main`, `disk1` ..., `uefi`, `extra1` ..., `settings`, or `file1` ... of another file left out.
        name: of the file in the archive.
        format: of the image.
        source: where it was: from the machine's directory, or absolute.
        size_bytes: of the file before it was compressed.
        stored_bytes, xxh128: of the file in the archive; "" where a manifest is missing. A checksum that
            begins with `data:` is that of its data without its zeros (`transfer`).
        source_mtime_ns: time of its last change.
        of: stamp of the state that this one holds the changes to; "" for a whole one.
        left_out: why the disk was not archived; "" if it was.
        tags: its internal snapshots, each with id and date, so that a replaced one is another.
        virtual_bytes: size of the disk as the guest sees it; 0 where an old manifest does not say.
        mode: permissions of a complete image; 0 in an old manifest.
    """

    role: str
    name: str
    format: str
    source: str = ""
    size_bytes: int = 0
    stored_bytes: int = 0
    xxh128: str = ""
    source_mtime_ns: int = 0
    of: str = ""
    left_out: str = ""
    tags: list[str] = field(default_factory=list)
    virtual_bytes: int = 0
    mode: int = 0

    @property
    def compression(self) -> str:
        return compression.of(self.name)

    @property
    def plain_name(self) -> str:
        """Its name without the suffix of a compression."""
        kind = self.compression
        return self.name.removesuffix(compression.COMPRESSORS[kind].suffix) if kind else self.name


@dataclass
class Point:
    """One archived state of a machine.

    Args:
        stamp: its name, from the date.
        time: seconds since the epoch, as the clock said.
        consistency: `off`, `frozen`, `crash-consistent`, or `unknown`.
        parts: the top layer of each disk, and the settings.
        snapshots: names of the internal snapshots of the machine's own disk.
        is_done: False while it is being written.
        id: unlike the stamp no other state's, in whatever store; names the dirty bitmaps that begin with it.
        number: counts a machine's states in a store, whatever the clock said; 0 where an old manifest does
            not say.
    """

    stamp: str
    time: float
    consistency: str
    parts: list[Part]
    snapshots: list[str] = field(default_factory=list)
    is_done: bool = True
    id: str = ""
    number: int = 0

    @property
    def order(self) -> tuple[int, float]:
        """What one machine's states are sorted by, the oldest first."""
        return self.number, self.time

    def part(self, role: str) -> Part | None:
        return next((each for each in self.parts if each.role == role), None)

    @property
    def of(self) -> str:
        """The state that the first disk stored as changes is based on; "" if all are complete."""
        return next((each.of for each in self.parts if each.of), "")

    @property
    def stored_bytes(self) -> int:
        return sum(each.stored_bytes for each in self.parts)


@dataclass
class Archive:
    """One folder.

    Args:
        layers: what the disks are backed by, by role, the nearest first; archived once.
        has_manifest: False for an archive that `vm` made.
        uuid: the machine's; "" where it is not known.
        directory: the machine's; for what was left out, and is still there.
    """

    folder: str
    machine: str
    layers: dict[str, list[Part]]
    points: list[Point]
    uuid: str = ""
    directory: str = ""
    has_manifest: bool = True

    @property
    def stamp(self) -> str:
        return self.folder[-14:]

    @property
    def done(self) -> list[Point]:
        """The whole states, oldest first."""
        return sorted((each for each in self.points if each.is_done), key=lambda each: each.order)

    def point(self, stamp: str) -> Point | None:
        return next((each for each in self.points if each.stamp == stamp), None)

    def chain(self, point: Point, role: str = "") -> list[Point]:
        """`point` and all that it is based on, itself last.

        Disks may be based on different states: one that was absent is based on the last that has it.

        Args:
            role: only what this disk is based on, in that order; "" = all disks.

        Raises:
            ImageError: one of them is missing, or does not have the disk.
        """
        found: list[Point] = []
        for each in point.parts:
            if role in ("", each.role):
                found += [below for below in self._below(point, each) if below not in found]
        return [*found, point]

    def _below(self, point: Point, part: Part) -> list[Point]:
        """The states that a disk of `point` is based on, the complete one first."""
        found: list[Point] = []
        while part.of:
            below = self.point(part.of)
            following = below.part(part.role) if below else None
            if (
                below is None or not below.is_done or below is point or below in found
                or following is None or not following.name
            ):  # fmt: skip
                raise ImageError(
                    f"{self.folder}/{point.stamp} is based on the state {part.of}, which is missing",
                    hint="restore another state",
                )
            found.insert(0, below)
            part = following
        return found

    def parts(self, points: Iterable[Point] | None = None) -> list[Part]:
        """Every stored file of the base and of `points` (None: all)."""
        chosen = self.points if points is None else points
        layers = [part for parts in self.layers.values() for part in parts]
        return [*layers, *(part for each in chosen for part in each.parts if part.name)]

    def as_json(self) -> dict[str, Any]:
        return {
            "qvm": 1,
            "machine": self.machine,
            "uuid": self.uuid,
            "directory": self.directory,
            "layers": {role: [asdict(part) for part in parts] for role, parts in self.layers.items()},
            "points": [asdict(point) for point in self.points],
        }


def stamp_of(seconds: float) -> str:
    """The stamp of a time, in the host's own zone, as `vm` writes it."""
    return time.strftime(STAMP, time.localtime(seconds))


def seconds(stamp: str) -> float:
    """The time that a stamp means, 0 if it means none."""
    try:
        return time.mktime(time.strptime(stamp, STAMP))
    except (ValueError, OverflowError):
        return 0.0


def plain(name: str) -> str:
    """A file's name without the suffix of a compression."""
    kind = compression.of(name)
    return name.removesuffix(compression.COMPRESSORS[kind].suffix) if kind else name
