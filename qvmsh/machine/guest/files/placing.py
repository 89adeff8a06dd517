"""From a folder to its place, name by name: what `get` does at the end.

    placing = Placing(modes, failed)
    placing.place(part_fd, "tree", target_fd, "tree")

Whatever is in the way stays, and is in `failed`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from bisect import bisect_left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_WRITABLE = 0o300
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Placing:
    """Moves names from one folder to another.

    Args:
        modes: those of the folders below, by their paths; they get them once they are in their places, as
            a folder that is read-only cannot be moved.
        failed: gets what was not moved, with the reason.
    """

    def __init__(self, modes: dict[str, int], failed: list[str]) -> None:
        self._modes = modes
        self._folders = sorted(modes)
        self._failed = failed

    def place(self, source: int, old: str, target: int, new: str, path: str = "", shown: str = "") -> None:
        """Move one name; folders that are in both become one, and that of the target keeps its mode.

        No link in the target is followed.

        Args:
            source, target: descriptors of the folders.
            path: as `modes` names it; none: the name.
            shown: as messages name it; none: the new name.
        """
        path, shown = path or old, shown or new
        try:
            self._place(source, old, target, new, path, shown)
        except OSError as error:
            self._failed.append(f"{shown}: {error.strerror or error}")

    def _place(self, source: int, old: str, target: int, new: str, path: str, shown: str) -> None:
        is_folder = stat.S_ISDIR(os.stat(old, dir_fd=source, follow_symlinks=False).st_mode)
        try:
            there = os.stat(new, dir_fd=target, follow_symlinks=False).st_mode
        except FileNotFoundError:
            there = 0
        if is_folder and there and stat.S_ISDIR(there):
            self._merge(source, old, target, new, path, shown)
        elif there and (is_folder or not (stat.S_ISREG(there) or stat.S_ISLNK(there))):
            self._failed.append(f"{shown}: {_what(there)} is in the way")
        else:
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
            if is_folder:
                self._set_modes(path, target, new)

    def _merge(self, source: int, old: str, target: int, new: str, path: str, shown: str) -> None:
        inner = os.open(old, _FLAGS, dir_fd=source)
        try:
            outer = os.open(new, _FLAGS, dir_fd=target)
            try:
                with _writable(outer):
                    for name in os.listdir(inner):
                        self.place(inner, name, outer, name, f"{path}/{name}", f"{shown}/{name}")
            finally:
                os.close(outer)
        finally:
            os.close(inner)

    def _set_modes(self, path: str, target: int, new: str) -> None:
        """Give a folder, and all in it, their modes; the innermost first."""
        begin, end = bisect_left(self._folders, path + "/"), bisect_left(self._folders, path + "0")
        for inner in [*reversed(self._folders[begin:end]), path]:
            if inner in self._modes:
                os.chmod(new + inner[len(path) :], self._modes[inner], dir_fd=target)


@contextlib.contextmanager
def _writable(folder: int) -> Iterator[None]:
    """Let a read-only folder be written to until the block ends."""
    mode = stat.S_IMODE(os.fstat(folder).st_mode)
    is_closed = mode & _WRITABLE != _WRITABLE
    if is_closed:
        with contextlib.suppress(OSError):
            os.fchmod(folder, mode | _WRITABLE)
    try:
        yield
    finally:
        if is_closed:
            with contextlib.suppress(OSError):
                os.fchmod(folder, mode)


def _what(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFREG: "a file", stat.S_IFLNK: "a symbolic link"}
    return kinds.get(stat.S_IFMT(mode), "a device")
