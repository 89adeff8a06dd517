"""A directory that is going to another place, and what paths in it mean before and after.

shift = Shift("/vm/web", "/big/web")
shift.verdict("/vm/web", "/vm/web/data.qcow2")     # INSIDE: it must be written in another way
shift.verdict("/vm/web", "../gold/base.qcow2")     # OTHER: it would mean another file there
shift.verdict("/vm/web", "data.qcow2")             # SAME
"""

from __future__ import annotations

import os

SAME, INSIDE, OTHER = "same", "inside", "other"


class Shift:
    """A directory and where it will be.

    Args:
        source: where it is, absolute, no link.
        target: where it will be, absolute; `source` if it stays.
    """

    def __init__(self, source: str, target: str) -> None:
        self.source = source
        self.target = target
        self.real = os.path.realpath(source)
        self._real_target = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))

    @property
    def is_still(self) -> bool:
        """True if the directory stays where it is."""
        return self.real == self._real_target

    def inside(self, path: str) -> str | None:
        """An absolute path from the directory, "." for itself; None for what is elsewhere.

        What a link inside leads to does not count, only where the link is.
        """
        if os.pardir not in path.split("/"):
            for top in (self.source, self.real):
                if path == top or path.startswith(f"{top}/"):
                    return os.path.normpath(path[len(top) :].strip("/") or ".")
        folder, name = os.path.split(path)
        is_name = name not in ("", os.curdir, os.pardir)
        found = os.path.join(os.path.realpath(folder), name) if is_name else os.path.realpath(path)
        return os.path.relpath(found, self.real) if f"{found}/".startswith(f"{self.real}/") else None

    def verdict(self, folder: str, text: str) -> str:
        """What becomes of a path that is written in the directory.

        Args:
            folder: what it starts at, if it is relative: the directory, or a folder in it.
            text: the path.

        Returns:
            SAME if it means the same file after the move; INSIDE if it means a file of the directory now, and
            no longer then; OTHER if it would mean another file, or none.
        """
        if self.is_still:
            return SAME
        path = os.path.join(folder, text)
        is_outside = self.inside(path) is None
        if os.path.isabs(text):
            if is_outside and self.inside(os.path.realpath(path)) is None:
                return SAME
            return OTHER if is_outside else INSIDE  # OTHER: a link elsewhere leads back to here
        depth = self._depth(folder)
        if depth is None or not _leaves(text, depth):
            return SAME
        if not is_outside:
            return INSIDE
        there = os.path.join(self._real_target, os.path.relpath(os.path.realpath(folder), self.real), text)
        is_same = os.path.realpath(there) == os.path.realpath(path)
        return SAME if is_same and self.inside(os.path.realpath(path)) is None else OTHER

    def _depth(self, folder: str) -> int | None:
        """How many folders below the directory `folder` is; None if it is elsewhere."""
        inside = self.inside(os.path.join(folder, "x"))
        return None if inside is None else inside.count("/")


def _leaves(text: str, depth: int) -> bool:
    """True if a relative path leads out of the directory, perhaps back into it."""
    for part in text.split("/"):
        depth += -1 if part == os.pardir else part not in ("", os.curdir)
        if depth < 0:
            return True
    return False
