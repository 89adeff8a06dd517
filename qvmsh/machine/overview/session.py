"""What the commands that are about the shell itself report.

str(SessionLines([{"number": 1, "text": "stop", "status": 3}]))     # "   1  [3] stop"
"""

from __future__ import annotations

from qvmsh.machine.reports import Report, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Used(Report):
    """Result of `use`: the machine of the shell from now on; its text is empty, the prompt shows it."""

    __slots__ = ("directory", "machine")

    def __init__(self, machine: str, directory: str) -> None:
        self.machine = machine
        self.directory = directory

    def shown(self) -> list[str]:
        return []


class SessionLines(Report):
    """Result of `session list`: `number`, `text` and `status` of each line."""

    __slots__ = ("lines",)

    def __init__(self, lines: Sequence[dict[str, Any]]) -> None:
        self.lines = list(lines)

    def shown(self) -> list[str]:
        marks = [f"[{row['status']}] " if row["status"] else "" for row in self.lines]
        width = max(map(len, marks), default=0)
        found = []
        for row, mark in zip(self.lines, marks, strict=True):
            head = f"{row['number']:4}  {mark:{width}}"
            found += [head + line if not at else " " * len(head) + line
                      for at, line in enumerate(row["text"].split("\n"))]  # fmt: skip
        return found


class SessionSaved(Report):
    """Result of `session save`: the script, how many inputs it has, and how many are comments in it."""

    __slots__ = ("commented", "file", "lines")

    def __init__(self, file: str, lines: int, commented: int) -> None:
        self.file = file
        self.lines = lines
        self.commented = commented

    def shown(self) -> list[str]:
        failed = f"; {self.commented} failed, kept as comments" if self.commented else ""
        return [f"{self.file}: {plural(self.lines, 'line')}{failed}"]
