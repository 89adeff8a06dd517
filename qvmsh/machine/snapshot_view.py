"""Looking at snapshots: the list, one of them, whether it can be trusted, what has changed since.

May import: `qemu`, `machine`.

    print(listing(vm))
    verify(vm, ["ready"]).is_whole

Read from the images, on or off, so what other tools have made is there too; what the metadata tells
and no image holds is marked as stale.
"""

from __future__ import annotations

import os
import time

from qvmsh.errors import ImageError, QvmError, StateError
from qvmsh.machine import catalogue, chain, saved, state, tools, volumes
from qvmsh.machine.catalogue import Catalogue
from qvmsh.machine.diagnosis import size
from qvmsh.machine.reports import Report
from qvmsh.machine.volumes import Volume
from qvmsh.qemu import image, imagecheck, qcow2, qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import Machine
    from qvmsh.qemu.qcow2 import Snapshot


class SnapshotList(Report):
    """Result of `snapshot list`.

    Args:
        head: the snapshot that the present state descends from, None if there is none.
        disks: `id`, `file`, `format`, `size_bytes`, `used_bytes`, `writable` of each.
        snapshots: `name`, `time`, `memory`, `vmstate_bytes`, `disks`, `missing`, `parent`, `message`,
            `stale` (only the metadata know it), `foreign` (only the images do).
    """

    __slots__ = ("disks", "head", "machine", "snapshots")

    def __init__(
        self, machine: str, disks: list[dict[str, Any]], snapshots: list[dict[str, Any]], head: str
    ) -> None:
        self.machine = machine
        self.disks = disks
        self.snapshots = snapshots
        self.head = head or None

    def __str__(self) -> str:
        lines = []
        for each in self.disks:
            what = "" if each["format"] == "qcow2" else f", {each['format']}: holds no snapshots"
            what = ", read-only" if not each["writable"] else what
            lines.append(f"{each['id']:8} {each['name']} ({size(each['size_bytes'])}{what})")
        if not self.snapshots:
            return "\n".join([*lines, f"{self.machine}: no snapshots"])
        rows = [("SNAPSHOT", "DATE", "MEMORY", "DISKS")]
        rows += [self._row(each, depth) for each, depth in _tree(self.snapshots)]
        widths = [max(len(row[at]) for row in rows) for at in range(3)]
        for row in rows:
            cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)]
            lines.append("  ".join([*cells, row[3]]).rstrip())
        return "\n".join(lines)

    def _row(self, each: dict[str, Any], depth: int) -> tuple[str, str, str, str]:
        name = "  " * depth + each["name"] + (" *" if each["name"] == self.head else "")
        notes = " ".join(each["disks"])
        if each["missing"]:
            notes += f"{'; ' if notes else ''}missing on {' '.join(each['missing'])}"
        if each["stale"]:
            notes = "stale: no image has it (`qvm snapshot delete` forgets it)"
        if each["message"]:
            notes += f"; {each['message'].splitlines()[0]}"
        memory = size(each["vmstate_bytes"]) if each["vmstate_bytes"] else "-"
        return name, each["time"].replace("T", " "), memory, notes


def _tree(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """The rows with children behind their parent, and how deep each stands."""
    names = {row["name"] for row in rows}
    found: list[tuple[dict[str, Any], int]] = []
    seen: set[str] = set()

    def put(row: dict[str, Any], depth: int) -> None:
        if row["name"] in seen:  # a circle in the metadata
            return
        seen.add(row["name"])
        found.append((row, depth))
        for child in rows:
            if child["parent"] == row["name"]:
                put(child, depth + 1)

    for row in rows:
        if row["parent"] not in names:
            put(row, 0)
    for row in rows:
        put(row, 0)
    return found


class Details(Report):
    """Result of `snapshot show`: all that is known of one snapshot."""

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

    def __str__(self) -> str:
        lines = [f"{self.machine}: snapshot {self.name}"]
        known = self.known or {}
        if not known:
            lines.append("  made by another tool: nothing is known of it beyond what the images hold")
        for title, value in (
            ("message", known.get("message")),
            ("time", (known.get("time") or "").replace("T", " ")),
            ("parent", known.get("parent")),
            ("machine", known.get("machine")),
            ("QEMU", known.get("qemu")),
            ("frozen", {True: "yes", False: "no: crash-consistent"}.get(known.get("frozen"))),  # type: ignore[arg-type]
        ):
            if value:
                lines.append(f"  {title + ':':9} {value}")
        for each in self.disks:
            memory = f", {size(each['vmstate_bytes'])} of memory" if each["vmstate_bytes"] else ""
            lines.append(f"  {each['id'] + ':':9} {each['name']}, {each['time'].replace('T', ' ')}{memory}")
        lines += [f"  {each + ':':9} missing" for each in self.missing]
        lines += [f"  changed:  {each}" for each in self.differences]
        return "\n".join(lines)


class Verified(Report):
    """Result of `snapshot verify`: `problems` (a line each) and `unsure` of each name; status 1 with any."""

    __slots__ = ("machine", "snapshots")

    def __init__(self, machine: str, snapshots: list[dict[str, Any]]) -> None:
        self.machine = machine
        self.snapshots = snapshots

    @property
    def is_whole(self) -> bool:
        return not any(each["problems"] for each in self.snapshots)

    @property
    def exit_status(self) -> int:  # type: ignore[override]
        return 0 if self.is_whole else 1

    def __bool__(self) -> bool:
        return self.is_whole

    def __str__(self) -> str:
        lines = [] if self.snapshots else [f"{self.machine}: no snapshots"]
        for each in self.snapshots:
            verdict = "cannot be trusted" if each["problems"] else "whole"
            lines.append(f"{self.machine}: {each['name']}: {verdict}")
            lines += [f"  {line}" for line in (*each["problems"], *each["unsure"])]
        return "\n".join(lines)


class Differences(Report):
    """Result of `snapshot diff`: `disks` with `changed_bytes` each, and `hardware`, a line each."""

    __slots__ = ("disks", "first", "hardware", "machine", "second")

    def __init__(
        self, machine: str, first: str, second: str | None, disks: list[dict[str, Any]], hardware: list[str]
    ) -> None:
        self.machine = machine
        self.first = first
        self.second = second
        self.disks = disks
        self.hardware = hardware

    def __str__(self) -> str:
        lines = [f"{self.machine}: from {self.first} to {self.second or 'now'}"]
        for each in self.disks:
            changed = each["changed_bytes"]
            lines.append(f"  {each['id']:8} {size(changed) + ' written' if changed else 'the same'}")
        return "\n".join([*lines, *(f"  {each}" for each in self.hardware)])


def _disks(vm: Machine) -> list[Volume]:
    """All disks of the machine, on or off; of a running one QEMU tells."""
    seen = state.observe(vm)
    if seen.is_live and seen.note is not None:
        try:
            blocks = qmp.ask(seen.note.socket("qmp"), "query-block", timeout_s=state.GREETING_S)
            return volumes.of_blocks(vm, blocks)
        except OSError:
            raise state.silent(vm) from None
    return volumes.configured(vm)


def _able(disks: list[Volume]) -> list[Volume]:
    return [each for each in volumes.written(disks) if each.format == "qcow2"]


def _tags(disks: list[Volume]) -> dict[str, dict[str, Snapshot]]:
    """The snapshots by name, each by disk."""
    found: dict[str, dict[str, Snapshot]] = {}
    for disk in disks:
        for each in chain.snapshots_in(disk.path):
            found.setdefault(each.name, {})[disk.id] = each
    for name in [each for each in found if each.endswith(saved.NEW)]:
        whole = name.removesuffix(saved.NEW)
        if whole not in found:  # what a save that was killed while it replaced one has left
            found[whole] = found.pop(name)
    return found


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))


def _row_of_disk(disk: Volume) -> dict[str, Any]:
    try:
        status = os.stat(disk.path)
        used, virtual = status.st_blocks * 512, image.header(disk.path).size_bytes
    except (OSError, ImageError):
        used = virtual = 0
    return {
        "id": disk.id,
        "name": disk.name,
        "file": disk.path,
        "format": disk.format,
        "size_bytes": virtual,
        "used_bytes": used,
        "writable": not disk.is_read_only,
        "source": disk.source,
    }


def listing(vm: Machine) -> SnapshotList:
    """All snapshots of the machine, oldest first.

    Raises:
        ImageError: an image cannot be read.
    """
    disks = _disks(vm)
    able = _able(disks)
    tags, known = _tags(able), Catalogue.read(vm)
    rows = []
    for name, on in tags.items():
        entry = known.entries.get(name) or {}
        parent = entry.get("parent")
        rows.append(
            {
                "name": name,
                "time": _time(min(each.date_s for each in on.values())),
                "memory": any(each.vmstate_bytes for each in on.values()),
                "vmstate_bytes": max(each.vmstate_bytes for each in on.values()),
                "disks": [each.id for each in able if each.id in on],
                "missing": [each.id for each in able if each.id not in on],
                "parent": parent if parent in tags else None,
                "message": entry.get("message") or "",
                "stale": False,
                "foreign": not entry,
            }
        )
    for name, entry in known.entries.items():
        if name not in tags:
            rows.append(
                {
                    "name": name, "time": str(entry.get("time", "")), "memory": False, "vmstate_bytes": 0,
                    "disks": [], "missing": [each.id for each in able], "parent": None,
                    "message": entry.get("message") or "", "stale": True, "foreign": False,
                }
            )  # fmt: skip
    rows.sort(key=lambda row: str(row["time"]))
    head = known.head if known.head in tags else ""
    return SnapshotList(vm.name, [_row_of_disk(each) for each in disks], rows, head)


def _find(vm: Machine, name: str) -> tuple[list[Volume], dict[str, Snapshot]]:
    """The disks that hold snapshots, and the snapshot `name` on each.

    Raises:
        StateError: no disk has it.
    """
    able = _able(_disks(vm))
    tags = _tags(able)
    if name not in tags:
        there = ", ".join(sorted(tags))
        raise StateError(
            f"there is no snapshot {name}",
            machine=vm.name,
            hint=f"there are: {there}" if there else "`qvm snapshot save NAME` makes one",
        )
    return able, tags[name]


def show(vm: Machine, name: str) -> Details:
    """All that is known of a snapshot.

    Raises:
        StateError: there is none of that name.
    """
    able, on = _find(vm, name)
    entry = Catalogue.read(vm).entries.get(name)
    rows = [
        {
            "id": each.id,
            "name": each.name,
            "file": each.path,
            "time": _time(on[each.id].date_s),
            "vmstate_bytes": on[each.id].vmstate_bytes,
            "size_bytes": on[each.id].disk_bytes,
            "clock_s": on[each.id].clock_ns / 1e9,
        }
        for each in able
        if each.id in on
    ]
    missing = [each.id for each in able if each.id not in on]
    other = catalogue.differences(vm, entry) if entry else []
    return Details(vm.name, name, rows, missing, entry, other)


def verify(vm: Machine, names: tuple[str, ...]) -> Verified:
    """Judge snapshots: on all disks, of one moment, on the base of then, in sound images, readable.

    Raises:
        StateError: there is none of that name.
    """
    able = _able(_disks(vm))
    tags, known = _tags(able), Catalogue.read(vm)
    for name in names:
        if name not in tags and name not in known.entries:
            _find(vm, name)
    wanted = list(names) or sorted({*tags, *known.entries})
    is_off = not state.observe(vm).is_live
    images = _images(vm, able, is_off=is_off) if wanted else []
    found = []
    for name in wanted:
        on, entry = tags.get(name, {}), known.entries.get(name)
        problems = [*_on_all(able, on), *images]
        if entry:
            problems += _as_saved(able, entry, on)
        if is_off:
            problems += _readable(vm, able, on)
        unsure = []
        if not is_off:
            unsure.append("the machine is on: what the images hold was not read")
        if entry is None:
            unsure.append("made by another tool: whether the base was written to since is not known")
        elif entry.get("memory"):
            unsure += [f"its memory will not load: {each}" for each in catalogue.differences(vm, entry)]
        found.append({"name": name, "problems": problems, "unsure": unsure})
    return Verified(vm.name, found)


def _on_all(able: list[Volume], on: dict[str, Snapshot]) -> list[str]:
    if not on:
        return ["no image has it"]
    return [f"it is missing on {each.id}, {each.name}" for each in able if each.id not in on]


def _images(vm: Machine, able: list[Volume], *, is_off: bool) -> list[str]:
    """What is wrong with the images themselves."""
    problems = []
    for each in able if is_off else ():
        with vm.io.stage(f"checking {each.name}"):
            sound = imagecheck.check(tools.qemu_img(vm), each.path, each.format)
        if sound and sound.corruptions:
            problems.append(f"{each.name} is damaged: {sound.corruptions} errors (`qvm disk check --repair`)")
    return problems


def _as_saved(able: list[Volume], entry: dict[str, Any], on: dict[str, Snapshot]) -> list[str]:
    """What is not as it was when the snapshot was saved."""
    problems = []
    for row in entry.get("images") or ():
        now = on.get(row["id"])
        if now is None:
            continue
        if now.date_s != row["date_s"] or now.vmstate_bytes != row["vmstate_bytes"]:
            problems.append(f"on {row['id']} it is another one of the same name, of {_time(now.date_s)}")
        base = row.get("base") or None
        if base is None:
            continue
        file = next(chain.base_of(each.path) for each in able if each.id == row["id"])
        try:
            if chain.print_of(file) != {key: base[key] for key in ("size_bytes", "mtime_ns")}:
                problems.append(
                    f"the base {os.path.basename(file)} of {row['id']} was written to since: "
                    "what the snapshot reads from it may be wrong"
                )
        except OSError:
            problems.append(f"the base {base['file']} of {row['id']} is not there any more")
    return problems


def _readable(vm: Machine, able: list[Volume], on: dict[str, Snapshot]) -> list[str]:
    """Read all that the snapshot's disks hold."""
    problems = []
    for each in able:
        if each.id not in on:
            continue
        target = f"driver=null-co,size={on[each.id].disk_bytes or image.header(each.path).size_bytes}"
        words = ["convert", "-n", "-f", each.format, "-l", f"snapshot.id={on[each.id].id}"]
        words += ["--target-image-opts", image.safe_name(each.path), target]
        try:
            with vm.io.stage(f"reading {on[each.id].name} on {each.id}"):
                image.run(tools.qemu_img(vm), words, what=f"read it on {each.id}")
        except QvmError as error:
            problems.append(f"it cannot be read on {each.id}: {'; '.join(error.details) or error.what}")
    return problems


def diff(vm: Machine, first: str, second: str | None) -> Differences:
    """What was written on each disk between two snapshots, or between one and now.

    Raises:
        StateError: there is no such snapshot.
    """
    able, one = _find(vm, first)
    two = _find(vm, second)[1] if second is not None else None
    rows = []
    for each in able:
        if each.id not in one or (two is not None and each.id not in two):
            continue
        other = None if two is None else two[each.id].id
        changed = qcow2.changed(each.path, one[each.id].id, other)
        rows.append({"id": each.id, "file": each.path, "changed_bytes": changed})
    known = Catalogue.read(vm)
    hardware: list[str] = []
    if first in known.entries:
        then = known.entries[first].get("settings") or {}
        if second is None:
            hardware = catalogue.differences(vm, known.entries[first])
        else:
            now = known.entries.get(second, {}).get("settings") or then
            hardware = [
                f"{name} was {then[name] or 'not set'}, and then {now[name] or 'not set'}"
                for name in then
                if name in now and then[name] != now[name]
            ]
    return Differences(vm.name, first, second, rows, hardware)
