"""The disks and snapshots of a machine, for `list -l` and `status -v`.

disks, snapshots, why = of(vm)
"""

from __future__ import annotations

from qvmsh.errors import QvmError
from qvmsh.machine.progress import size
from qvmsh.machine.snapshot import list_show_diff
from qvmsh.machine.snapshot.reports import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from qvmsh.machine.machine import BaseMachine

WIDTH = 13
"""Columns of the names in `list -l` and `status -v`."""


def of(vm: BaseMachine) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None, str]:
    """The rows of disks and snapshots, as `snapshot list` has them; or None, None and the reason."""
    try:
        found = list_show_diff.listing(vm)
    except (QvmError, OSError) as error:
        return None, None, error.what if isinstance(error, QvmError) else str(error)
    return found.disks, found.snapshots, ""


def lines(disks: Sequence[dict[str, Any]], snapshots: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Disks and the tree of snapshots as rows: a name, and what it is."""
    rows = []
    if len(disks) > 1:
        virtual, used = (sum(each[name] for each in disks) for name in ("size_bytes", "used_bytes"))
        rows.append(("size", f"{size(virtual)}, {size(used)} used"))
    for each in disks:
        text = f"{size(each['size_bytes'])}, {size(each['used_bytes'])} used"
        rows.append((each["id"], f"{each['name']} ({each['format']}): {each['problem'] or text}"))
    for at, (row, depth) in enumerate(tree(list(snapshots))):
        rows.append(("snapshots" if not at else "", "  " * depth + row["name"]))
    return rows
