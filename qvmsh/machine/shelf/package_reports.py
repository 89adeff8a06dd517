"""What `export` and `import` give back."""

from __future__ import annotations

from qvmsh.machine.progress import size
from qvmsh.machine.reports import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.machine.shelf.manifest import LeftOut


class Exported(Report):
    """Result of `export`.

    Args:
        file: the package; `-` for standard output.
        bytes: its size; None on standard output.
        consistency: `off`, `quiesced` (by the guest agent) or `crash-consistent`.
        files: names of its members.
        left_out: what is not in it: name and reason.
    """

    __slots__ = ("bytes", "consistency", "file", "files", "left_out", "machine", "seconds")

    def __init__(
        self,
        machine: str,
        file: str,
        bytes: int | None,
        consistency: str,
        *,
        files: Sequence[str],
        left_out: Sequence[LeftOut],
        seconds: float,
    ) -> None:
        self.machine = machine
        self.file = file
        self.bytes = bytes
        self.consistency = consistency
        self.files = list(files)
        self.left_out = [{"name": each.name, "why": each.why} for each in left_out]
        self.seconds = round(seconds, 3)

    def lines(self) -> list[str]:
        """The lines for a person, also where standard output is the package."""
        how = "" if self.consistency == "off" else f", {self.consistency}"
        much = "" if self.bytes is None else f", {size(self.bytes)}"
        where = "standard output" if self.file == "-" else self.file
        lines = [f"{self.machine}: exported to {where}{much}{how} in {self.seconds:.1f} s"]
        return lines + [f"{self.machine}: left out {each['name']}: {each['why']}" for each in self.left_out]

    def shown(self) -> list[str]:
        return [] if self.file == "-" else self.lines()


class Imported(Report):
    """Result of `import`.

    Args:
        package: what was imported; `-` for standard input.
        kind: `qvm`, `s2e` or `directory`.
        brings: what does nothing until `qvm allow`: variable (or file) and what it would do.
        skipped: members that are not part of a machine.
        notes: what else the user should know.
    """

    __slots__ = ("brings", "directory", "kind", "machine", "notes", "package", "seconds", "skipped")

    def __init__(self, machine: str, directory: str, package: str, kind: str, **more: Any) -> None:
        self.machine = machine
        self.directory = directory
        self.package = package
        self.kind = kind
        self.brings: list[dict[str, str]] = list(more["brings"])
        self.skipped: list[str] = list(more["skipped"])
        self.notes: list[str] = list(more["notes"])
        self.seconds: float = round(more["seconds"], 3)

    def shown(self) -> list[str]:
        what = "from standard input" if self.package == "-" else self.package
        lines = [f"{self.machine}: imported {what} as {self.directory} in {self.seconds:.1f} s"]
        lines += [f"{self.machine}: {each}" for each in self.notes]
        lines += [f"{self.machine}: {each['name']} {each['what']}" for each in self.brings]
        if self.brings:
            lines.append(f"{self.machine}: none of that happens before `qvm allow`: read it first")
        return lines
