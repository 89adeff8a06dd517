"""What `get` needs of a way: to look at the sources, to read a file, to read a tree.

(seen,) = sender.look(["/etc/hosts"])
with sender.read(seen, 0) as stream: stream.read(1 << 20)
"""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from typing import Protocol

    from qvmsh.machine.guest.files.incoming import Unpacking
    from qvmsh.machine.guest.files.ways import Incoming

    class Sender(Protocol):
        """The guest as a source."""

        @property
        def name(self) -> str:
            """That of the way."""

        def look(self, paths: Sequence[str]) -> list[Seen]:
            """What each path is.

            Raises:
                Unusable: the way does not lead there after all.
            """

        def read(self, seen: Seen, blocks: int) -> AbstractContextManager[Incoming]:
            """A file from the block of 64 KiB with this number on.

            Raises:
                QvmError: at the end of the block: it could not be read.
            """

        def tree(self, seen: Sequence[Seen], unpacking: Unpacking) -> list[str]:
            """Read folders and files; what could not be read, and why."""


BLOCK_BYTES = 64 << 10


@dataclass(frozen=True)
class Seen:
    """One source.

    Args:
        path: in the guest.
        name: the name that it gets here.
        kind: `file`, `folder`, `special` or `missing`.
        size_bytes, mtime_s, mode: of what a link leads to; None where the guest cannot say.
        has_holes: less of it is stored.
    """

    path: str
    name: str
    kind: str
    is_link: bool = False
    size_bytes: int | None = None
    mtime_s: int | None = None
    mode: int | None = None
    has_holes: bool = False
    has_gnu_tar: bool = False
