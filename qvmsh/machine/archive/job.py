"""What one call of `archive` works with: its options, the machine, the archives, what to report."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from qvmsh.errors import QvmError
from qvmsh.machine import progress
from qvmsh.machine.archive.index import ArchiveIndex
from qvmsh.machine.journal import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qvmsh.machine.archive.stores import Store
    from qvmsh.machine.machine import BaseMachine

ROOM_BYTES = 1 << 20
"""What must stay free."""


@dataclass(frozen=True)
class Wish:
    """The options of `archive`; see its help."""

    is_create: bool = False
    savevm: str = ""
    delvm: str = ""
    compress: str = ""
    compress_base: bool = False
    drop_snapshots: bool = False
    is_full: bool = False
    keep: int | None = None
    keep_days: float | None = None


@dataclass
class Job:
    """What one call works with."""

    vm: BaseMachine
    wish: Wish
    index: ArchiveIndex
    said: list[str] = field(default_factory=list)
    copied_bytes: int = 0
    pause_s: float = 0.0
    changed: str = ""
    """What has been done to the machine itself, and stays whatever becomes of the archive."""
    left: str = "the machine and its archives did not change"
    """What holds if it is interrupted now."""
    is_passed_on: bool = False
    """The state becomes another machine at once (`pass_on`): nothing reads it back to check it."""
    is_linked: bool = False
    """What the disks are backed by is not copied: the other machine's disks are backed by it too."""

    final: str = ""
    """The directory of that other machine."""

    @property
    def store(self) -> Store:
        return self.index.store

    def place_of(self, error: OSError | None = None) -> str:
        """Where the state goes to, or the file that an error is about: not one that is removed at once."""
        return self.final or (error and error.filename) or self.store.shown

    @property
    def verb(self) -> str:
        """The command, for errors."""
        return "clone" if self.is_passed_on else "archive"

    @property
    def kind(self) -> Kind:
        """What the machine's journal calls it."""
        return Kind.CLONED if self.is_passed_on else Kind.ARCHIVE

    @property
    def unchanged(self) -> str:
        """What a hint says of an attempt that failed."""
        return "nothing was left behind" if self.is_passed_on else "the archives did not change"

    @property
    def way_out(self) -> str:
        """What a hint says where a file cannot be written, most likely for want of space."""
        if self.is_passed_on:
            return f"{self.unchanged}; free some space, or clone to a place on another disk"
        return f"{self.left}; free some space, or set VM_ARCHIVE"

    @property
    def doing(self) -> str:
        """What is printed meanwhile."""
        return "reading" if self.is_passed_on else "archiving"

    def require_room(self, paths: Sequence[str]) -> None:
        """Refuse files that cannot fit into the store; how much they take compressed is not known.

        Raises:
            QvmError: there is not enough free space.
        """
        free = self.store.free_bytes()
        if free is None or self.wish.compress:
            return
        need = sum(os.stat(path).st_blocks * 512 for path in paths) + ROOM_BYTES
        if need > free:
            raise QvmError(
                f"not enough free space in {self.place_of()}: it takes {progress.size(need)}, "
                f"only {progress.size(free)} is free",
                machine=self.vm.name,
                hint=self.way_out
                if self.is_passed_on
                else "free some space, use --compress, or set VM_ARCHIVE to a place on another disk",
            )
