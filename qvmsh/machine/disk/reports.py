"""What the commands on disks report."""

from __future__ import annotations

import os

from qvmsh.machine.progress import size
from qvmsh.machine.reports import Report, Verdict, plural
from qvmsh.machine.storage.volumes import Volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Disks(Report):
    """Result of `disk list`: its rows are dicts, as in JSON, `disks[0]["name"]`.

    Args:
        disks: `id`, `name`, `file`, `format`, `size_bytes`, `used_bytes`, `writable`, `snapshots`,
            `chain` (the files that it is backed by), `source`, `problem`, `users` of each.
    """

    __slots__ = ("disks", "machine")

    def __init__(self, machine: str, rows: list[dict[str, Any]]) -> None:
        self.machine = machine
        self.disks = rows

    def shown(self) -> list[str]:
        lines = []
        for each in self.disks:
            parts = [each["format"], size(each["size_bytes"]), f"{size(each['used_bytes'])} used"]
            if not each["writable"]:
                parts.append("read-only")
            if each["snapshots"]:
                parts.append(plural(each["snapshots"], "snapshot"))
            if each["chain"]:
                parts.append("on " + " on ".join(map(os.path.basename, each["chain"])))
            if each["problem"]:
                parts = [each["problem"]]
            lines.append(f"{each['id']:8} {each['name']}: {', '.join(parts)}")
            lines += [f"{'':9}in use by {user}" for user in each["users"]]
        return lines


class DiskDone(Report):
    """Result of the verbs that change a disk: `disk` (its id), `file`, and `done`, one line."""

    __slots__ = ("disk", "done", "file", "machine")

    def __init__(self, machine: str, disk: Volume, done: str) -> None:
        self.machine = machine
        self.disk = disk.id
        self.file = disk.path
        self.done = done

    def shown(self) -> list[str]:
        return [f"{self.machine}: {self.disk}, {os.path.basename(self.file)}: {self.done}"]


class Trimmed(Report):
    """Result of `disk trim`: `by` what, `disks` with `before_bytes` and `after_bytes`."""

    __slots__ = ("by", "disks", "machine")

    def __init__(self, machine: str, by: str, rows: list[dict[str, Any]]) -> None:
        self.machine = machine
        self.by = by
        self.disks = rows

    def shown(self) -> list[str]:
        lines = [f"{self.machine}: trimmed by {self.by}"]
        for each in self.disks:
            gone = each["before_bytes"] - each["after_bytes"]
            text = each.get("note") or f"{size(max(0, gone))} freed, {size(each['after_bytes'])} used"
            lines.append(f"  {each['id']:8} {text}")
        return lines


class Checked(Verdict):
    """Result of `disk check`: `corruptions`, `leaks`, `note`, `problem` of each image.

    The status is 1 if one has corruptions, or could not be checked because of a problem.
    """

    __slots__ = ("images", "machine")

    def __init__(self, machine: str, rows: list[dict[str, Any]]) -> None:
        self.machine = machine
        self.images = rows

    @property
    def is_sound(self) -> bool:
        return not any(each["corruptions"] or each["problem"] for each in self.images)

    def __bool__(self) -> bool:
        return self.is_sound

    def shown(self) -> list[str]:
        return [f"{self.machine}: {each['name']}: {verdict(each)}" for each in self.images]


def verdict(row: dict[str, Any]) -> str:
    if row["problem"]:
        return str(row["problem"])
    if row["note"]:
        return str(row["note"])
    if row["corruptions"]:
        return f"damaged: {row['corruptions']} errors, {row['leaks']} leaked clusters"
    return f"sound, {row['leaks']} leaked clusters (harmless; `--repair`)" if row["leaks"] else "sound"
