"""What `put` needs of a way: to look at the target, to write a part, to move it to its place.

found = receiver.look("/tmp/", ".notes.part-12345678")
receiver.write(found, part, [], produce, is_on=False)
receiver.place(found, part, "notes", size=12, mode="644", mtime_s=1700000000)
"""

from __future__ import annotations

from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Protocol

    from qvmsh.machine.guest.files.ways import Produce

    class Receiver(Protocol):
        """The guest as a target."""

        @property
        def name(self) -> str:
            """That of the way."""

        @property
        def piece_bytes(self) -> int:
            """How much of one file is written at once."""

        def look(self, target: str, part: str) -> Found:
            """What is there.

            Raises:
                Unusable: the way does not lead there after all.
                QvmError: nothing can be written there.
            """

        def write(
            self, found: Found, part: str, runs: list[tuple[int, int]], produce: Produce, *, is_on: bool
        ) -> None:
            """Write what `produce` writes.

            Args:
                runs: offset and length of each piece that comes; none: all comes at the end.
                is_on: keep what is there.
            """

        def place(
            self, found: Found, part: str, name: str, *, size: int, mode: str, mtime_s: int | None
        ) -> None:
            """Give a part its size, mode and time, and its final name."""

        def tree(
            self,
            found: Found,
            part: str,
            tops: list[tuple[str, str]],
            done: Done,
            show: Callable[[str], None],
        ) -> None:
            """Copy folders and files.

            Args:
                part: a folder beside, from which all is moved at the end.
                tops: path here and final name of each.
            """

        def remove(self, found: Found, part: str) -> None:
            """Remove a part."""

        def removed_by_failure(self, found: Found, part: str) -> AbstractContextManager[None]:
            """Remove a part where the block fails."""


@dataclass(frozen=True)
class Found:
    """What is at the target.

    Args:
        folder: the folder that gets the names.
        name: the final name in it; "" for that of each source.
        is_new: the folder is not there yet.
        is_file: a file has the final name.
        has_tar, has_gnu_tar: what the guest has.
        has_holes: it can write at any place of a file.
        there_bytes: what an interrupted copy has left.
    """

    folder: str
    name: str = ""
    is_new: bool = False
    is_file: bool = False
    has_tar: bool = False
    has_gnu_tar: bool = False
    has_holes: bool = True
    there_bytes: int = 0


@dataclass
class Done:
    """What was copied.

    Args:
        via: the way.
        failed: what was not, and why.
        left: path here and name there of each file that is to be copied by itself.
    """

    via: str
    failed: list[str] = field(default_factory=list)
    left: list[tuple[bytes, bytes]] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    resumed_bytes: int = 0
