"""What the commands of `qvm snapshot` report: for people, and as JSON."""

from __future__ import annotations

from qvmsh.errors import printable
from qvmsh.machine.progress import size
from qvmsh.machine.reports import Report, Verdict, plural, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


NEXT_IS_WHOLE = "the next incremental archive will be a full one (its dirty bitmaps are gone)"
"""After going back: a bitmap records what was written since, not what was undone."""

FROZEN: dict[bool | None, str] = {True: "yes", False: "no: crash-consistent"}
"""Whether the guest's file systems were frozen; nothing if unknown."""

MOST_DEPTH = 12
"""How far the tree is indented: a snapshot every night must not make lines of 700 columns."""


def word(name: str) -> str:
    """A snapshot's name as a word of a command that is to be copied."""
    from qvmsh.config.words import quote

    return f"-- {quote(name)}" if name.startswith("-") else quote(name)


class Pruned(Report):
    """Result of `snapshot prune`.

    Args:
        removed: names of the snapshots that were removed, the oldest first.
        spared: old ones that stay, each with what descends from it.
    """

    __slots__ = ("machine", "removed", "spared")

    def __init__(self, machine: str, removed: list[str], spared: dict[str, list[str]]) -> None:
        self.machine = machine
        self.removed = removed
        self.spared = spared

    def lines(self) -> list[str]:
        """What was removed and what was not; nothing if none was old."""
        found = [f"{self.machine}: removed the old snapshot {name}" for name in self.removed]
        for name, children in self.spared.items():
            verb = "descends" if len(children) == 1 else "descend"
            why = f"{', '.join(children)} {verb} from it"
            found.append(f"{self.machine}: kept the old snapshot {name}: {why}")
        return found

    def shown(self) -> list[str]:
        return self.lines() or [f"{self.machine}: no old snapshots"]


class SnapshotSaved(Report):
    """Result of `snapshot save`.

    Args:
        snapshot: its name.
        disks: ids of the disks that have it.
        memory: it includes the memory.
        vmstate_bytes: size of that.
        frozen: the guest's file systems were frozen for it; None if that does not apply (off, memory).
        seconds: total time.
        woken: a suspended guest had to be woken for it (QEMU before 9.0).
        clock: how the guest's clock was set afterwards.
        removed, spared: as in `snapshot prune`.
    """

    __slots__ = (
        "clock", "disks", "frozen", "machine", "memory", "pruned", "seconds", "snapshot", "vmstate_bytes",
        "woken",
    )  # fmt: skip

    def __init__(
        self,
        machine: str,
        entry: dict[str, Any],
        disks: list[str],
        seconds: float,
        *,
        woken: bool,
        clock: str = "",
    ) -> None:
        self.machine = machine
        self.snapshot: str = entry["name"]
        self.disks = disks
        self.memory: bool = entry["memory"]
        self.vmstate_bytes: int = entry["vmstate_bytes"]
        self.frozen: bool | None = entry["frozen"]
        self.seconds = round(seconds, 3)
        self.woken = woken
        self.clock = clock
        self.pruned = Pruned(machine, [], {})

    def as_json(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.__slots__ if name != "pruned"}
        return own | {"removed": self.pruned.removed, "spared": self.pruned.spared}

    def shown(self) -> list[str]:
        parts = [plural(len(self.disks), "disk")]
        if self.memory:
            parts.append(f"{size(self.vmstate_bytes)} of memory")
        if self.frozen is not None:
            parts.append("file systems frozen" if self.frozen else "crash-consistent")
        woken = "; the guest was suspended, and is awake now" if self.woken else ""
        return [
            f"{self.machine}: saved the snapshot {self.snapshot} ({', '.join(parts)}) "
            f"in {self.seconds:.1f} s{woken}" + (f"; {self.clock}" if self.clock else ""),
            *self.pruned.lines(),
        ]


class SnapshotRestored(Report):
    """Result of `snapshot restore`.

    Args:
        snapshot: its name.
        disks: ids of the disks.
        left: ids of disks that were added later, and were left unchanged.
        memory: the guest was resumed with the memory of the snapshot.
        ready: its ssh answers; None without waiting.
        clock: how its clock was set.
        bitmaps: dirty bitmaps that were removed, so the next incremental archive is a full one.
        has_memory_left: the machine is off, and `start --loadvm` can resume the memory.
        seconds: total time.
    """

    __slots__ = (
        "bitmaps", "clock", "disks", "has_memory_left", "left", "machine", "memory", "ready", "seconds",
        "snapshot",
    )  # fmt: skip

    def __init__(
        self,
        machine: str,
        snapshot: str,
        disks: list[str],
        seconds: float,
        *,
        memory: bool,
        ready: bool | None = None,
        clock: str = "",
        bitmaps: int = 0,
    ) -> None:
        self.machine = machine
        self.snapshot = snapshot
        self.disks = disks
        self.memory = memory
        self.ready = ready
        self.clock = clock
        self.bitmaps = bitmaps
        self.has_memory_left = False
        self.left: list[str] = []
        self.seconds = round(seconds, 3)

    def shown(self) -> list[str]:
        text = f"{self.machine}: restored the snapshot {self.snapshot} ({plural(len(self.disks), 'disk')}"
        text += " and the memory)" if self.memory else ")"
        text += f" in {self.seconds:.1f} s"
        if self.clock:
            text += f"; {self.clock}"
        if self.left:
            text += f"; {', '.join(self.left)} was left unchanged"
        if self.has_memory_left:
            from qvmsh.config.words import quote

            text += f"; `qvm start --loadvm {quote(self.snapshot)}` resumes it with its memory"
        return [text, *([f"{self.machine}: {NEXT_IS_WHOLE}"] if self.bitmaps else [])]


class SnapshotDeleted(Report):
    """Result of `snapshot delete`: the names, and the ids of the disks that had one."""

    __slots__ = ("disks", "machine", "snapshots")

    def __init__(self, machine: str, snapshots: list[str], disks: list[str]) -> None:
        self.machine = machine
        self.snapshots = snapshots
        self.disks = disks

    def shown(self) -> list[str]:
        return [f"{self.machine}: deleted the snapshot {name}" for name in self.snapshots]


class SnapshotList(Report):
    """Result of `snapshot list`: its rows are dicts, as in JSON, `snapshots[0]["name"]`.

    Args:
        head: the snapshot that the current state is based on, None if there is none.
        disks: `id`, `file`, `format`, `size_bytes`, `used_bytes`, `writable`, `problem` of each. Of
            `list-disk` also `drive_id`, `disk`, and `snapshots` with `id`, `tag` and `date`.
        snapshots: `name`, `kind` (`internal`, or `s2e` for a file that only S2E loads), `time`, `memory`,
            `vmstate_bytes`, `disks`, `missing`, `without` (missing disks that were added later), `parent`,
            `message`, `stale` (only in the metadata), `foreign` (only in the images), `double` (an earlier
            row has the same name).
        work: what is in progress, or was interrupted; None for nothing.
    """

    __slots__ = ("disks", "head", "machine", "snapshots", "work")

    def __init__(
        self, machine: str, disks: list[dict[str, Any]], snapshots: list[dict[str, Any]], head: str, work: str
    ) -> None:
        self.work = work or None
        self.machine = machine
        self.disks = disks
        self.snapshots = snapshots
        self.head = head or None

    def shown(self) -> list[str]:
        lines = [_line_of_disk(each) for each in self.disks]
        if self.work:
            lines.append(f"{self.machine}: {printable(self.work)}")
        if not self.snapshots:
            return [*lines, f"{self.machine}: no snapshots"]
        rows: list[tuple[str, ...]] = [("SNAPSHOT", "DATE", "MEMORY", "DISKS", "MESSAGE")]
        rows += [self._row(each, depth) for each, depth in tree(self.snapshots)]
        return [*lines, *_table(rows)]

    def _row(self, each: dict[str, Any], depth: int) -> tuple[str, str, str, str, str]:
        name = (
            "  " * min(depth, MOST_DEPTH)
            + printable(each["name"])
            + (" *" if each["name"] == self.head else "")
        )
        notes = [" ".join(each["disks"])] if each["disks"] else []
        missing = [disk for disk in each["missing"] if disk not in each["without"]]
        if missing:
            notes.append(f"missing on {' '.join(missing)}")
        if each["without"]:
            notes.append(f"taken without {' '.join(each['without'])}")
        if each.get("kind") == "s2e":
            notes.append("of S2E")
        if each.get("double"):
            notes.append("another snapshot of that name")
        if each["stale"]:
            notes = ["stale: no image has it (`qvm snapshot delete` removes it)"]
        first, *more = each["message"].splitlines() or [""]
        message = printable(first) + (" ..." if more else "")
        memory = size(each["vmstate_bytes"]) if each["vmstate_bytes"] else "-"
        return name, shown(each["time"]), memory, "; ".join(notes), message


def _line_of_disk(each: dict[str, Any]) -> str:
    what = "" if each["format"] == "qcow2" else f", {each['format']}: cannot hold snapshots"
    what = ", read-only" if not each["writable"] else what
    text = each["problem"] or f"{size(each['size_bytes'])}{what}"
    return f"{each['id']:8} {printable(each['name'])} ({text})"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """The rows as lines, in columns as wide as a terminal shows them."""
    widths = [max(_columns(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell + " " * (width - _columns(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _columns(text: str) -> int:
    """How many columns of a terminal `text` takes: Chinese characters take two, accents none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def tree(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """The rows with children after their parent, and the depth of each."""
    children: dict[str, list[dict[str, Any]]] = {}
    names = {row["name"] for row in rows if not row.get("double")}
    for row in rows:
        children.setdefault(row["parent"] if row["parent"] in names else "", []).append(row)
    found: list[tuple[dict[str, Any], int]] = []
    seen: set[int] = set()
    for root in (*children.get("", ()), *rows):  # the metadata may have a circle, without a root
        left = [(root, 0)]
        while left:
            row, depth = left.pop()
            if id(row) in seen:
                continue
            seen.add(id(row))
            found.append((row, depth))
            below = () if row.get("double") else children.get(row["name"], ())
            left += [(child, depth + 1) for child in reversed(below)]
    return found


class Details(Report):
    """Result of `snapshot show`: everything known about one snapshot."""

    __slots__ = ("differences", "disks", "known", "machine", "missing", "name")

    def __init__(
        self,
        machine: str,
        name: str,
        disks: list[dict[str, Any]],
        missing: list[str],
        known: dict[str, Any] | None,
        differences: list[str],
    ) -> None:
        self.machine = machine
        self.name = name
        self.disks = disks
        self.missing = missing
        self.known = known
        self.differences = differences

    def shown(self) -> list[str]:
        lines = [f"{self.machine}: snapshot {printable(self.name)}"]
        known = self.known or {}
        if not known:
            lines.append("  made by another tool: only what the images say is known")
        for title, value in (
            ("message", known.get("message")),
            ("time", shown(known.get("time") or "")),
            ("parent", known.get("parent")),
            ("machine", known.get("machine")),
            ("QEMU", known.get("qemu")),
            ("frozen", FROZEN.get(known.get("frozen"))),
        ):
            if value:
                lines += [f"  {title + ':':9} {printable(line)}" for line in str(value).splitlines()]
        for each in self.disks:
            memory = f", {size(each['vmstate_bytes'])} of memory" if each["vmstate_bytes"] else ""
            lines.append(f"  {each['id'] + ':':9} {each['name']}, {shown(each['time'])}{memory}")
        lines += [f"  {each + ':':9} missing" for each in self.missing]
        lines += [f"  changed:  {each}" for each in self.differences]
        return lines


class Verified(Verdict):
    """Result of `snapshot verify`.

    Args:
        snapshots: `name`, `problems` (a line each), and `unsure`, what could not be checked; the exit status
            is 1 if there is a problem.
    """

    __slots__ = ("machine", "snapshots")

    def __init__(self, machine: str, snapshots: list[dict[str, Any]]) -> None:
        self.machine = machine
        self.snapshots = snapshots

    @property
    def is_whole(self) -> bool:
        return not any(each["problems"] for each in self.snapshots)

    def __bool__(self) -> bool:
        return self.is_whole

    def shown(self) -> list[str]:
        lines = [] if self.snapshots else [f"{self.machine}: no snapshots"]
        for each in self.snapshots:
            verdict = "no fault found" if each["unsure"] else "whole"
            verdict = "cannot be trusted" if each["problems"] else verdict
            lines.append(f"{self.machine}: {each['name']}: {verdict}")
            lines += [f"  {line}" for line in (*each["problems"], *each["unsure"])]
        return lines


class Differences(Report):
    """Result of `snapshot diff`.

    Args:
        disks: `id`, `file`, `changed_bytes` (None: not on both sides) and `note` of each.
        hardware: what differs, a line each.
        is_on: the machine is on, so data that QEMU has not written yet is not counted.
    """

    __slots__ = ("disks", "first", "hardware", "is_on", "machine", "second")

    def __init__(
        self,
        machine: str,
        first: str,
        second: str | None,
        disks: list[dict[str, Any]],
        hardware: list[str],
        *,
        is_on: bool,
    ) -> None:
        self.machine = machine
        self.first = first
        self.second = second
        self.disks = disks
        self.hardware = hardware
        self.is_on = is_on

    def shown(self) -> list[str]:
        lines = [f"{self.machine}: from {self.first} to {self.second or 'now'}"]
        for each in self.disks:
            changed = each["changed_bytes"]
            text = each["note"] or (f"{size(changed)} written" if changed else "unchanged")
            lines.append(f"  {each['id']:8} {text}")
        lines += [f"  {each}" for each in self.hardware]
        if self.is_on and self.second is None:
            lines.append("  the machine is on: data that QEMU has not written yet is not counted")
        return lines
