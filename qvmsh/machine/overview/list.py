"""The list of known machines with their states: what `list` shows.

print(known_machines(["web"], os.environ))
"""

from __future__ import annotations

import os

from qvmsh.errors import QvmError, printable
from qvmsh.machine import registry, state
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.overview import status as overview_status
from qvmsh.machine.reports import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MISSING = "missing"
"""The directory is not where it was."""
_HEAD = ("name", "state", "pid", "labels", "directory")


class Listed(Report):
    """One machine of the list.

    Args:
        machine: its name.
        state: as in `status`; or `missing`: its directory is not where it was.
        detail: one line more, or "".
        pid: QEMU's, or None.
        labels: the words of VM_LABELS.
        directory: where it is.
        hint: what to do about it, or None.
    """

    __slots__ = ("detail", "directory", "hint", "labels", "machine", "pid", "state")

    def __init__(
        self,
        machine: str,
        state: str,
        directory: str,
        *,
        detail: str = "",
        pid: int | None = None,
        labels: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        self.machine = machine
        self.state = state
        self.directory = directory
        self.detail = detail
        self.pid = pid
        self.labels = list(labels)
        self.hint = hint

    def cells(self) -> tuple[str, ...]:
        """Its row of the table."""
        pid = str(self.pid) if self.pid else "-"
        row = (self.machine, self.state, pid, " ".join(self.labels) or "-", self.directory)
        return tuple(printable(each) for each in row)


class Listing(Report):
    """Result of `list`: `machines` by name."""

    __slots__ = ("machines",)

    def __init__(self, machines: Sequence[Listed]) -> None:
        self.machines = list(machines)

    def __iter__(self) -> Any:
        return iter(self.machines)

    def __len__(self) -> int:
        return len(self.machines)

    def shown(self) -> list[str]:
        if not self.machines:
            return []
        table = [_HEAD, *(each.cells() for each in self.machines)]
        widths = [max(len(row[at]) for row in table) for at in range(len(_HEAD))]
        lines = []
        for row, each in zip(table, [None, *self.machines], strict=True):
            cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
            if each and each.detail:
                lines.append(f"  {printable(each.detail)}" + (f" ({each.hint})" if each.hint else ""))
        return lines

    def as_json(self) -> dict[str, Any]:
        return {"machines": [each.as_json() for each in self.machines]}


def known_machines(labels: Sequence[str], environ: Mapping[str, str]) -> Listing:
    """The known machines that have all of `labels`, each looked at now; a broken one is listed as broken."""
    found = []
    for row in registry.rows(environ):
        if row.is_there:
            each = look(row.directory, row.name, environ)
        else:
            hint = "`qvm list --prune` forgets it; using it at its new place adds it again"
            where = "its directory is missing"
            each = Listed(row.name, MISSING, row.directory, detail=where, hint=hint)
        if set(labels) <= set(each.labels):
            found.append(each)
    return Listing(sorted(found, key=lambda each: (each.machine, each.directory)))


def look(directory: str, name: str, environ: Mapping[str, str]) -> Listed:
    try:
        if os.geteuid() == 0:
            from qvmsh.machine import owner

            if account := owner.of(directory, environ):
                from qvmsh.machine import owner_state

                return Listed(**owner_state.look(directory, account, environ))
        vm = BaseMachine(directory, environ=environ)
        seen = overview_status.look(vm, is_quiet=True, has_ssh_check=False)
    except (QvmError, OSError) as error:
        what = error.what if isinstance(error, QvmError) else str(error)
        hint = error.hint if isinstance(error, QvmError) else None
        own = registry.labels(directory, environ)
        return Listed(name, state.BROKEN, directory, detail=what, labels=own, hint=hint)
    return Listed(
        vm.name,
        seen.state,
        directory,
        detail=seen.detail,
        pid=seen.pid,
        labels=registry.labels_of(vm),
        hint=seen.hint,
    )
