"""What `archive` and `restore` give back."""

from __future__ import annotations

from qvmsh.errors import printable
from qvmsh.machine.progress import size
from qvmsh.machine.reports import Report, shown, stamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from qvmsh.machine.archive.job import Job
    from qvmsh.machine.archive.model import Archive, Point


class Archived(Report):
    """Result of `archive`: `archive` and `stamp` name the state; `pause_seconds` is the guest's pause."""

    __slots__ = (
        "archive", "consistency", "copied_bytes", "incremental", "machine", "notes", "pause_seconds",
        "removed", "seconds", "snapshots", "stamp", "where",
    )  # fmt: skip

    def __init__(
        self, job: Job, archive: str, point: Point, *, seconds: float, removed: Sequence[str]
    ) -> None:
        self.machine = job.vm.name
        self.archive = archive
        self.stamp = point.stamp
        self.consistency = point.consistency
        self.incremental = bool(point.of)
        self.snapshots = list(point.snapshots)
        self.where = job.store.shown
        self.copied_bytes = job.copied_bytes
        self.pause_seconds = round(job.pause_s, 3)
        self.seconds = round(seconds, 3)
        self.notes = list(job.said)
        self.removed = list(removed)

    def shown(self) -> list[str]:
        how = {
            "off": "machine off",
            "frozen": f"guest frozen for {self.pause_seconds * 1000:.0f} ms",
            "with memory": "with memory",
        }.get(self.consistency, self.consistency)
        kind = ", changes only" if self.incremental else ""
        lines = [
            f"{self.machine}: archived as {self.archive}/{self.stamp}: {size(self.copied_bytes)} in "
            f"{self.seconds:.1f} s{kind} ({how})"
        ]
        lines += [f"{self.machine}: {each}" for each in self.notes]
        lines += [f"{self.machine}: removed {each}" for each in self.removed]
        return lines


class ArchiveList(Report):
    """Result of `archive --list`.

    Args:
        states: a dict for each, as in JSON (`states[0]["archive"]`), the oldest first.
        unreadable: why folders that look like archives could not be read.
    """

    __slots__ = ("machine", "states", "unreadable", "where")

    def __init__(
        self, machine: str, where: str, archives: Sequence[Archive], unreadable: Sequence[str] = ()
    ) -> None:
        self.machine = machine
        self.where = where
        self.unreadable = list(unreadable)
        self.states = [_row(archive, point) for archive in archives for point in archive.done]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.states)

    def __len__(self) -> int:
        return len(self.states)

    def shown(self) -> list[str]:
        if not self.states:
            return [f"{self.machine}: no archive in {self.where}; `qvm archive` makes one"]
        table = []
        for row in self.states:
            kind = f"changes since {row['of']}" if row["of"] else "whole"
            snapshots = f"snapshots: {', '.join(row['snapshots'])}" if row["snapshots"] else ""
            name = f"{row['archive']}/{row['stamp']}"
            cells = (
                name,
                shown(row["time"]),
                f"{size(row['bytes']):>10}",
                kind,
                row["consistency"],
                snapshots,
            )
            table.append([printable(cell) for cell in cells])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


def _row(archive: Archive, point: Point) -> dict[str, Any]:
    base = sum(part.stored_bytes for parts in archive.layers.values() for part in parts)
    return {
        "archive": archive.folder,
        "stamp": point.stamp,
        "time": stamp(point.time),
        "bytes": point.stored_bytes,
        "base_bytes": base,
        "of": point.of,
        "consistency": point.consistency,
        "snapshots": list(point.snapshots),
        "disks": [part.role for part in point.parts if part.role != "settings" and part.name],
        "left_out": [part.source for part in point.parts if part.left_out],
        "has_checksums": archive.has_manifest and all(part.xxh128 for part in point.parts if part.name),
    }


class Deleted(Report):
    """Result of `archive --delete`: the removed states."""

    __slots__ = ("machine", "removed")

    def __init__(self, machine: str, removed: Sequence[str]) -> None:
        self.machine = machine
        self.removed = list(removed)

    def shown(self) -> list[str]:
        return [f"{self.machine}: removed {each}" for each in self.removed]


class Verified(Report):
    """Result of `archive --verify`: `boot_seconds` until the guest was ready; None without --boot."""

    __slots__ = ("boot_seconds", "machine", "notes", "states")

    def __init__(
        self, machine: str, states: Sequence[str], notes: Sequence[str], boot_s: float | None
    ) -> None:
        self.machine = machine
        self.states = list(states)
        self.notes = list(notes)
        self.boot_seconds = None if boot_s is None else round(boot_s, 3)

    def shown(self) -> list[str]:
        lines = [f"{self.machine}: {each} is good" for each in self.states]
        if self.boot_seconds is not None:
            lines[-1] += f": it boots, ready after {self.boot_seconds:.1f} s"
        return [*lines, *(f"{self.machine}: {each}" for each in self.notes)]


class Restored(Report):
    """Result of `restore`: `state` is what was restored, `new` True for a machine of its own."""

    __slots__ = ("directory", "machine", "new", "notes", "seconds", "state")

    def __init__(
        self, machine: str, state: str, directory: str, *, is_new: bool, seconds: float, notes: Sequence[str]
    ) -> None:
        self.machine = machine
        self.state = state
        self.directory = directory
        self.new = is_new
        self.seconds = round(seconds, 3)
        self.notes = list(notes)

    def shown(self) -> list[str]:
        where = f" as the new machine {self.directory}" if self.new else ""
        lines = [f"{self.machine}: restored {self.state}{where} in {self.seconds:.1f} s"]
        return [*lines, *(f"{self.machine}: {each}" for each in self.notes)]
