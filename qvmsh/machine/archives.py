"""What an archive is: a folder with a base and the states that were archived on it; and its manifest.

May import: `host.transfer`, `machine.stores`, `errors`.

    for each in Shelf(store, "demo").archives(): print(each.folder, [point.stamp for point in each.points])

The layout is that of `vm` (bash): `NAME-<%Y%m%d%H%M%S of the base's mtime>/` holds `NAME-base.FMT` and
`NAME-backing.FMT` as they were archived first, and one `NAME-backing-<stamp>.FMT` for each update; each
may be compressed (`.xz`, `.gz`, ...). qvm adds `manifest.json`: checksums, further disks, how consistent
each state is. Where there is none, the names alone say what is there. A state that the manifest calls
unfinished is what a killed command left.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, field

from qvmsh.errors import ImageError, QvmError, UsageError
from qvmsh.host import transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from qvmsh.machine.stores import Store

MANIFEST = "manifest.json"
PART = ".part"
MAIN = "main"
"""The role of the machine's own disk."""
STAMP = "%Y%m%d%H%M%S"
_STAMP = re.compile(r"\d{14}")


@dataclass
class Part:
    """One stored file.

    Args:
        role: `main`, `disk1` ..., `uefi`, `extra1` ..., or `settings`.
        name: of the file in the archive.
        format: of the image.
        source: where it was: from the machine's directory, or absolute.
        size_bytes: of the file before it was compressed.
        stored_bytes, xxh128: of the file in the archive; "" where a manifest is missing.
        source_mtime_ns: when it was written last; tells whether it has changed since.
        of: stamp of the state that this one holds the changes to; "" for a whole one.
        left_out: why the disk was not archived; "" if it was.
        tags: its internal snapshots, each with id and date, so that a replaced one is another.
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

    @property
    def compression(self) -> str:
        return transfer.compression_of(self.name)

    @property
    def plain_name(self) -> str:
        """Its name without the suffix of a compression."""
        kind = self.compression
        return self.name.removesuffix(transfer.COMPRESSORS[kind].suffix) if kind else self.name


@dataclass
class Point:
    """One archived state of a machine.

    Args:
        stamp: its name, from the date.
        time: seconds since the epoch.
        consistency: `off`, `frozen`, `crash-consistent`, or `unknown`.
        parts: the top layer of each disk, and the settings.
        snapshots: names of the internal snapshots of the machine's own disk.
        is_done: False while it is being written.
    """

    stamp: str
    time: float
    consistency: str
    parts: list[Part]
    snapshots: list[str] = field(default_factory=list)
    is_done: bool = True

    def part(self, role: str) -> Part | None:
        return next((each for each in self.parts if each.role == role), None)

    @property
    def of(self) -> str:
        """The state that this one stands on, "" if it stands alone."""
        return next((each.of for each in self.parts if each.of), "")

    @property
    def stored_bytes(self) -> int:
        return sum(each.stored_bytes for each in self.parts)


@dataclass
class Archive:
    """One folder.

    Args:
        layers: what the disks stand on, by role, the nearest first; archived once.
        has_manifest: False for an archive that `vm` made.
        uuid: the machine's; "" where it is not known.
    """

    folder: str
    machine: str
    layers: dict[str, list[Part]]
    points: list[Point]
    uuid: str = ""
    has_manifest: bool = True

    @property
    def stamp(self) -> str:
        return self.folder[-14:]

    @property
    def done(self) -> list[Point]:
        """The whole states, oldest first."""
        return sorted((each for each in self.points if each.is_done), key=lambda each: each.time)

    def point(self, stamp: str) -> Point | None:
        return next((each for each in self.points if each.stamp == stamp), None)

    def chain(self, point: Point) -> list[Point]:
        """`point` and all that it stands on, itself last.

        Raises:
            ImageError: one of them is missing.
        """
        found = [point]
        while found[0].of:
            below = self.point(found[0].of)
            if below is None or not below.is_done or below in found:
                raise ImageError(
                    f"{self.folder}/{point.stamp} stands on the state {found[0].of}, which is not there"
                )
            found.insert(0, below)
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
            "layers": {role: [asdict(part) for part in parts] for role, parts in self.layers.items()},
            "points": [asdict(point) for point in self.points],
        }


class Shelf:
    """The archives of one machine in a store.

    Args:
        machine: its name, with which each folder begins; "" for whatever is there.
        base, backing: how its layers' files are called (VM_SNAPSHOT_BASENAME, ..._BACKINGNAME).
    """

    def __init__(self, store: Store, machine: str, base: str = "base", backing: str = "backing") -> None:
        self.store = store
        self.machine = machine
        self._base = base
        self._backing = backing

    def archives(self) -> list[Archive]:
        """All of them, the oldest first."""
        found = []
        for folder in self.store.folders():
            name, _, stamp = folder.rpartition("-")
            if name and _STAMP.fullmatch(stamp) and self.machine in ("", name) and not name.startswith("."):
                archive = self.read(folder)
                if archive.points:
                    found.append(archive)
        return sorted(found, key=lambda each: each.stamp)

    def read(self, folder: str) -> Archive:
        """The archive in a folder, from its manifest or from the names in it.

        Raises:
            QvmError: its manifest cannot be read.
        """
        text = self.store.text(folder, MANIFEST)
        if text is None:
            return self._by_names(folder)
        try:
            found = json.loads(text)
            layers = {role: [Part(**part) for part in parts] for role, parts in found["layers"].items()}
            points = [
                Point(**{**each, "parts": [Part(**part) for part in each["parts"]]})
                for each in found["points"]
            ]
            return Archive(folder, found["machine"], layers, points, found["uuid"])
        except (ValueError, KeyError, TypeError) as error:
            raise QvmError(f"{self.store.shown}/{folder}/{MANIFEST} cannot be read: {error}") from None

    def write(self, archive: Archive, folder: str = "") -> None:
        """Write its manifest."""
        text = json.dumps(archive.as_json(), indent=1, ensure_ascii=False) + "\n"
        self.store.put_text(folder or archive.folder, MANIFEST, text)

    def _by_names(self, folder: str) -> Archive:
        """An archive in the layout of `vm`."""
        name = folder[:-15]
        layers: list[Part] = []
        points = []
        for each, size in sorted(self.store.names(folder).items()):
            kind = transfer.compression_of(each)
            plain = each.removesuffix(transfer.COMPRESSORS[kind].suffix) if kind else each
            rest, _, form = plain.rpartition(".")
            part = Part(MAIN, each, form, "", stored_bytes=size)
            if rest == f"{name}-{self._base}":
                layers.append(part)
                continue
            stem = next(
                (s for s in (f"{name}-{self._backing}", name) if rest == s or rest.startswith(f"{s}-")), ""
            )
            stamp = rest.removeprefix(stem).removeprefix("-") if stem else "-"
            if stamp == "":
                points.append(Point(folder[-14:], seconds(folder[-14:]), "unknown", [part]))
            elif _STAMP.fullmatch(stamp):
                points.append(Point(stamp, seconds(stamp), "unknown", [part]))
        return Archive(folder, name, {MAIN: layers} if layers else {}, points, has_manifest=False)

    def find(self, word: str) -> tuple[Archive, Point]:
        """The archived state that a word means.

        Args:
            word: `latest`, a folder's name, a state's stamp, or `FOLDER/STAMP`; a beginning is enough
                where it is the only one.

        Raises:
            UsageError: none, or several; the hint lists them.
        """
        archives = self.archives()
        pairs = [(archive, point) for archive in archives for point in archive.done]
        pairs.sort(key=lambda pair: pair[1].time)
        if not pairs:
            raise UsageError(f"there is no archive in {self.store.shown}", hint="`qvm archive` makes one")
        if word == "latest":
            return pairs[-1]
        folder, _, stamp = word.rstrip("/").partition("/")
        exact = [pair for pair in pairs if pair[0].folder == folder and stamp in ("", pair[1].stamp)]
        if exact:
            return exact[-1]
        of_stamp = [pair for pair in pairs if pair[1].stamp.startswith(word)]
        if len(of_stamp) == 1 or (of_stamp and all(each[1].stamp == word for each in of_stamp)):
            return of_stamp[-1]
        names = ", ".join(f"{archive.folder}/{point.stamp}" for archive, point in pairs[-5:])
        what = "means several archived states" if of_stamp else "is no archived state"
        raise UsageError(f"{word!r} {what} in {self.store.shown}", hint=f"there are: {names}")


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
    kind = transfer.compression_of(name)
    return name.removesuffix(transfer.COMPRESSORS[kind].suffix) if kind else name
