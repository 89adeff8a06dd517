"""File systems that may never answer: those of a network, and of a program (FUSE).

    Mounts().silent("/mnt/nas/vm/demo")      # "/mnt/nas" if nothing answers there, else None

A system call on such a file system cannot be interrupted, so another process asks first.
"""

from __future__ import annotations

import os

ANSWER_S = 1.0
"""How long a file system may take to answer."""
_REMOTE = frozenset((
    "9p", "afs", "autofs", "ceph", "cifs", "fuse", "fuseblk", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs",
    "nfs4", "ocfs2", "smb3", "smbfs", "virtiofs",
))  # fmt: skip


class Mounts:
    """The mounted file systems at one moment; each one is asked once. Source: proc(5), mountinfo."""

    __slots__ = ("_answers", "_kinds")

    def __init__(self) -> None:
        self._kinds = _kinds()
        self._answers: dict[str, bool] = {}

    def silent(self, path: str) -> str | None:
        """The mount point of the absolute `path` if its file system does not answer; None if it does."""
        if _REMOTE.isdisjoint(self._kinds.values()):
            return None
        point = path
        while point not in self._kinds and point != "/":
            point = os.path.dirname(point)
        if self._kinds.get(point) not in _REMOTE:
            return None
        if point not in self._answers:
            self._answers[point] = _answers(point)
        return None if self._answers[point] else point

    def silent_file(self, folder: str, name: str) -> str | None:
        """The same for a file in a folder, and for what it is a link to."""
        point = self.silent(folder)
        if point or _REMOTE.isdisjoint(self._kinds.values()):
            return point
        try:
            target = os.readlink(os.path.join(folder, name))
        except OSError:
            return None
        return self.silent(os.path.normpath(os.path.join(folder, target)))


def _kinds() -> dict[str, str]:
    """The kind of file system by mount point, the uppermost where several are at one place."""
    try:
        with open("/proc/self/mountinfo", errors="surrogateescape") as file:
            rows = [line.partition(" - ") for line in file]
    except OSError:
        return {}
    return {_plain(left.split(" ")[4]): right.split(" ")[0].partition(".")[0] for left, _, right in rows}


def _plain(text: str) -> str:
    """A mount point as it is called: the kernel writes blanks as `\\040`."""
    head, *parts = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts)


def _answers(point: str) -> bool:
    """True if the file system at `point` answers in time, whatever it answers."""
    from subprocess import DEVNULL, Popen, TimeoutExpired

    try:
        child = Popen(["stat", "--cached=never", point], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    except OSError:  # no such program
        return True
    try:
        child.wait(ANSWER_S)
    except TimeoutExpired:
        child.kill()
        try:
            child.wait(ANSWER_S / 10)
        except TimeoutExpired:  # the kernel does not end it before the file system answers
            pass
        return False
    return True
