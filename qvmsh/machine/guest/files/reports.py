"""What `put` and `get` give back."""

from __future__ import annotations

from qvmsh.machine.progress import size
from qvmsh.machine.reports import Report, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


class Copied(Report):
    """Result of `put` and `get`; true if all was copied.

    Args:
        files: how many files were copied.
        bytes: their size together.
        via: the way: `ssh`, `sftp` or `agent`.
        resumed_bytes: what was there already of an interrupted copy.
        failed: what could not be copied, with the reason.
        is_quiet: it is not printed: standard output holds the file.
        refused: why earlier ways could not be used.
    """

    __slots__ = (
        "bytes", "failed", "files", "is_quiet", "machine", "refused", "resumed_bytes", "seconds", "via",
    )  # fmt: skip

    def __init__(
        self,
        machine: str,
        files: int,
        bytes: int,
        via: str,
        *,
        seconds: float,
        resumed_bytes: int = 0,
        failed: Sequence[str] = (),
        refused: Mapping[str, str] | None = None,
    ) -> None:
        self.machine = machine
        self.files = files
        self.bytes = bytes
        self.via = via
        self.seconds = round(seconds, 3)
        self.resumed_bytes = resumed_bytes
        self.failed = list(failed)
        self.refused = dict(refused or {})
        self.is_quiet = False

    def __bool__(self) -> bool:
        return not self.failed

    @property
    def exit_status(self) -> int:  # type: ignore[override]  # a constant in the base
        return 1 if self.failed else 0

    def lines(self) -> list[str]:
        """The lines for a person, also where standard output is the file."""
        how = f" ({size(self.resumed_bytes)} of it earlier)" if self.resumed_bytes else ""
        done = f"{plural(self.files, 'file')}, {size(self.bytes)}{how} in {self.seconds:.1f} s"
        rows = [f"{self.machine}: {done} over {self.via}"]
        return rows + [f"  not copied: {each}" for each in self.failed]

    def shown(self) -> list[str]:
        return [] if self.is_quiet else self.lines()

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in super().as_json().items() if key != "is_quiet"}
