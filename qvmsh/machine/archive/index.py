"""The archives of one machine in a store: listed, found by a word, their manifests read and written.

    for each in ArchiveIndex(store, "demo").archives(): print(each.folder, len(each.points))

A manifest is not trusted: it may have been edited, truncated, or made to do harm. So every value is checked
before it is used: its type, and that no name leads out of the archive's folder. A wrong manifest does not
affect the other archives.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re

from qvmsh.errors import QvmError, UsageError, printable
from qvmsh.machine.archive import model as archives
from qvmsh.machine.archive.model import MAIN, PART, Archive, Part, Point, seconds
from qvmsh.machine.archive.stores import TEXT_BYTES
from qvmsh.machine.storage.dependents import MANIFEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.archive.stores import Store

VERSION = 1
LAST_S = 253402300800
"""The year 10000, the end of the calendar."""
LAST_NUMBER = 2**62 - 1
"""No whole number in a manifest is larger."""
ROOM_BYTES = 1 << 20
"""How much of a manifest one state may take at most."""
UNFINISHED = re.compile(rf"{re.escape(PART)}\d*(?:-[0-9a-f]{{8}})?$")
"""The names of files that were not finished: of disks, and of a manifest."""
_STAMP = re.compile(r"[0-9]{14}", re.ASCII)
NO_DISKS = ("settings",)
"""The roles of stored files that are no disks."""
_ROLE = re.compile(r"main|uefi|settings|(disk|extra|file)[1-9][0-9]{0,3}")
_FORMAT = re.compile(r"[a-z][a-z0-9_-]*")


class ArchiveIndex:
    """The archives of one machine in a store.

    Args:
        machine: its name, with which each folder begins; "" for whatever is there.
        base, backing: how its layers' files are called (VM_SNAPSHOT_BASENAME, ..._BACKINGNAME).
        uuid: the machine's own; a store may hold archives of others that have its name. "" = not known.
    """

    def __init__(
        self, store: Store, machine: str, base: str = "base", backing: str = "backing", uuid: str = ""
    ) -> None:
        self.store = store
        self.machine = machine
        self.uuid = uuid
        self.unreadable: list[QvmError] = []
        """Why folders that look like archives could not be read, from `archives`."""
        self._base = base
        self._backing = backing

    def archives(self) -> list[Archive]:
        """All that can be read, the oldest first; the errors of the others are in `unreadable`."""
        found = []
        self.unreadable = []
        for folder in self.store.folders():
            name, stamp = split(folder)
            if not stamp or self.machine not in ("", name):
                continue
            try:
                archive = self.read(folder)
            except QvmError as error:
                self.unreadable.append(error)
                continue
            if archive.points:
                found.append(archive)
        return sorted(found, key=lambda each: each.stamp)

    def is_own(self, archive: Archive) -> bool:
        """False for an archive of another machine that has the same name."""
        return not self.uuid or archive.uuid in ("", self.uuid)

    def is_made_here(self, archive: Archive) -> bool:
        """True if qvm made it of this machine: neither `vm` did, nor is it another machine's of that name."""
        return archive.has_manifest and archive.uuid == self.uuid

    def part_folder(self, folder: str) -> str:
        """What an archive's folder is called while it is written, or removed; no other machine's is."""
        return f".{folder}-{self.uuid[:8]}{PART}"

    def is_part_folder(self, name: str) -> bool:
        """True for such a folder of this machine."""
        stem = name.removeprefix(".").removesuffix(f"-{self.uuid[:8]}{PART}")
        return name == self.part_folder(stem) and split(stem)[0] == self.machine

    def read(self, folder: str) -> Archive:
        """The archive in a folder, from its manifest or from the names in it.

        Raises:
            QvmError: its manifest cannot be read, or is wrong.
        """
        try:
            text = self.store.text(folder, MANIFEST)
            if text is None:
                return self._by_names(folder)
            return parse(folder, text)
        except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error.__class__.__name__
            if isinstance(error, ValueError):
                why = str(error)
            if isinstance(error, json.JSONDecodeError):
                why = f"it is not JSON (line {error.lineno}, column {error.colno})"
            raise QvmError(
                f"{self.store.shown}/{folder}/{MANIFEST} cannot be read: {printable(str(why))}",
                hint="the archive is damaged, or another user's; other archives are not affected",
            ) from None

    def write(self, archive: Archive, folder: str = "") -> None:
        """Write its manifest.

        Raises:
            QvmError: it could not be read again and would hide all states of the archive; nothing is written.
        """
        text = _text(archive)
        try:
            parse(archive.folder, text)
        except ValueError as error:
            raise QvmError(
                f"cannot describe the state in {archive.folder}: {error}",
                hint="the archives did not change; rename or move what is named there",
            ) from None
        if _length(text) > TEXT_BYTES:
            raise QvmError(
                f"{archive.folder} cannot hold more states: its {MANIFEST} would exceed "
                f"{TEXT_BYTES >> 20} MiB",
                hint="the archives did not change; `qvm archive --keep N` removes old states",
            )
        self.store.put_text(folder or archive.folder, MANIFEST, text)

    def is_full(self, archive: Archive) -> bool:
        """True if its manifest should not grow any more; what is left is for a state that is being made."""
        return _length(_text(archive)) > TEXT_BYTES - ROOM_BYTES

    def _by_names(self, folder: str) -> Archive:
        """An archive in the layout of `vm`."""
        name = folder[:-15]
        layers: list[Part] = []
        points: list[Point] = []
        seen = set()
        for each, size in sorted(self.store.names(folder).items()):  # a plain file comes before its others
            plain = archives.plain(each)
            if plain in seen:
                continue
            seen.add(plain)
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
            QvmError: the folder that it names cannot be read.
        """
        pairs = [(archive, point) for archive in self.archives() for point in archive.done]
        pairs.sort(key=lambda pair: pair[1].order)
        folder, _, stamp = word.rstrip("/").partition("/")
        for error in self.unreadable:
            if not pairs or f"/{folder}/" in error.what:
                raise error
        if not pairs:
            what = "there is no archive" if word == "latest" else f"{word!r} is not an archive; there is none"
            raise UsageError(f"{what} in {self.store.shown}", hint="`qvm archive` makes one")
        if word == "latest":
            return self._latest(pairs)
        exact = [pair for pair in pairs if pair[0].folder == folder and stamp in ("", pair[1].stamp)]
        if exact:
            return exact[-1]
        of_stamp = [pair for pair in pairs if word and pair[1].stamp.startswith(word)]
        if len(of_stamp) == 1 or (of_stamp and all(each[1].stamp == word for each in of_stamp)):
            return of_stamp[-1]
        names = ", ".join(f"{archive.folder}/{point.stamp}" for archive, point in pairs[-5:])
        what = "means several archived states" if of_stamp else "is not an archived state"
        raise UsageError(f"{word!r} {what} in {self.store.shown}", hint=f"there are: {names}")

    def _latest(self, pairs: list[tuple[Archive, Point]]) -> tuple[Archive, Point]:
        """The last of the sorted states; those of two machines are compared by their time."""
        last = {archive.uuid: (archive, point) for archive, point in pairs}
        own = [pair for pair in last.values() if self.is_own(pair[0])]
        return max(own or last.values(), key=lambda pair: pair[1].time)


def split(folder: str) -> tuple[str, str]:
    """Name and stamp of an archive's folder; two empty texts where it cannot be one."""
    name, _, stamp = folder.rpartition("-")
    is_one = bool(name) and not name.startswith(".") and bool(_STAMP.fullmatch(stamp))
    return (name, stamp) if is_one else ("", "")


def _text(archive: Archive) -> str:
    return json.dumps(archive.as_json(), indent=1, ensure_ascii=False) + "\n"


def _length(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


# Reading a manifest


def parse(folder: str, text: str) -> Archive:
    """The archive that a manifest describes.

    Raises:
        ValueError: a value is missing, of another kind, or leads out of the folder; the text says which.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is not an object")
    if found.get("qvm") != VERSION:
        raise ValueError(f"it has version {found.get('qvm')!r}, but this qvm knows {VERSION}")
    for key, kind in (
        ("machine", str),
        ("uuid", str),
        ("directory", str),
        ("layers", dict),
        ("points", list),
    ):
        value = found.get(key)
        if not isinstance(value, kind) or (isinstance(value, str) and not _fits("str", value)):
            raise ValueError(f"{key!r} is missing or not a {kind.__name__}")
    layers = {}
    for role, rows in found["layers"].items():
        parts = [_part(row) for row in _list(rows, "layers")]
        if any(part.role != role or part.of or not part.name for part in parts):
            raise ValueError(f"the layers of {role!r} are not its own")
        layers[role] = parts
    points = [_point(row) for row in found["points"]]
    stamps = [each.stamp for each in points]
    if len(set(stamps)) < len(stamps):
        raise ValueError("two states have the same stamp")
    return Archive(folder, found["machine"], layers, points, found["uuid"], found["directory"])


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what!r} is not a list")
    return value


def _point(row: Any) -> Point:
    if not isinstance(row, dict):
        raise ValueError("a state is not an object")
    parts = [_part(each) for each in _list(row.get("parts"), "parts")]
    point: Point = _made(Point, row | {"parts": parts})
    roles = [each.role for each in parts]
    if not _STAMP.fullmatch(point.stamp):
        raise ValueError(f"{point.stamp!r} is not a stamp")
    if len(set(roles)) < len(roles):
        raise ValueError(f"the state {point.stamp} has a disk twice")
    if point.is_done and not any(each.name and each.role not in NO_DISKS for each in parts):
        raise ValueError(f"the state {point.stamp} has no disk")
    return point


def _part(row: Any) -> Part:
    part: Part = _made(Part, row)
    if not _ROLE.fullmatch(part.role):
        raise ValueError(f"{part.role!r} is not a disk")
    if not _FORMAT.fullmatch(part.format):
        raise ValueError(f"{part.format!r} is not a format")
    if part.of and not _STAMP.fullmatch(part.of):
        raise ValueError(f"{part.of!r} is not a stamp")
    if bool(part.name) == bool(part.left_out):
        raise ValueError(f"{part.role} has neither a file nor a reason for that")
    if part.name and not is_plain(part.name):
        raise ValueError(f"{part.name!r} is not the name of a file in it")
    clean = os.path.normpath(part.source) if part.source else ""
    is_ours = clean.startswith(".qvm/") or os.path.basename(clean) in (".vmrc", ".qvm", ".qvmrc.xsh")
    if clean.startswith("..") or (part.source and clean != part.source) or is_ours:
        raise ValueError(f"{part.source!r} is not a place in a machine")
    return part


def is_plain(name: str) -> bool:
    """True for the name of a file that an archive may hold."""
    return (
        name != ""
        and not name.startswith(".")
        and "/" not in name
        and "\0" not in name
        and name != MANIFEST
        and not name.endswith(PART)
        and len(os.fsencode(name)) < 256
    )


def _made(kind: type, row: Any) -> Any:
    """A value of a dataclass from an object of JSON, every member of the kind that it must have."""
    if not isinstance(row, dict):
        raise ValueError(f"{kind.__name__.lower()}: not an object")
    for each in dataclasses.fields(kind):
        if each.name not in row:
            if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
                raise ValueError(f"{each.name!r} is missing")
            continue
        if not _fits(str(each.type), row[each.name]):
            raise ValueError(f"{each.name!r} is not a {each.type}")
    unknown = set(row) - {each.name for each in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]!r} is unknown")
    return kind(**row)


def _is_encodable(text: str) -> bool:
    """True if it can be a file name: half a character of JSON (`"\\ud83d"`) cannot."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _fits(kind: str, value: Any) -> bool:
    if kind.startswith("list["):
        inner = kind[5:-1]
        return isinstance(value, list) and (inner != "str" or all(_fits(inner, each) for each in value))
    if isinstance(value, bool):
        return kind == "bool"
    if isinstance(value, str):
        return kind == "str" and "\0" not in value and _is_encodable(value)
    if isinstance(value, int):
        return 0 <= value < (LAST_S if kind == "float" else LAST_NUMBER + 1) and kind in ("int", "float")
    return kind == "float" and isinstance(value, float) and 0.0 <= value < LAST_S
