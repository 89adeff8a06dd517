"""A tar stream from a guest, which may be hostile, into an empty folder of the host.

    found = Unpacking(stream.read, folder_fd, "demo", tell, checkpoint)
    found.all()
    found.failed                # what was not copied, with the reason

Nothing is written outside the folder: each name is looked up part by part from its descriptor, no link is
followed, and nothing that is there is opened again. A name that leads outside refuses all of it. Devices and
FIFOs are not made; set-user-id and the like are not kept.
"""

from __future__ import annotations

import errno
import os
import stat

from qvmsh.errors import QvmError, printable
from qvmsh.host import files as host_files
from qvmsh.host import scan
from qvmsh.host.tar_reader import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from qvmsh.host.tar_reader import Member

MOST_MEMBERS = 2_000_000
MOST_DEPTH = 200
"""How many folders one may be in another; what removes them afterwards calls itself for each."""
PATH_BYTES = 4096
MODES = 0o777
HOSTILE = "do not trust this guest"


class _Stream(Reader):
    """The members, with errors that name the guest."""

    most_members = MOST_MEMBERS + 1

    def __init__(self, read: Callable[[int], bytes], machine: str) -> None:
        super().__init__(read, "the guest")
        self._machine = machine

    def refuse(self, why: str) -> NoReturn:
        raise Refused(f"what the guest sends cannot be used: {printable(why)}", machine=self._machine)

    def refuse_other(self) -> NoReturn:
        self.refuse("it is not a tar file")


class Refused(QvmError):
    """What the guest sends is damaged, incomplete, or meant to do harm."""


class Unpacking:
    """One stream, or several one after the other.

    Args:
        root: descriptor of an empty folder of our own.
        tops: what was asked for, by the names here: `file` or `folder`. A link or anything else instead is
            refused: the next copy to the same place would follow it.
        tell: called with the number of bytes that were written.
    """

    def __init__(
        self,
        root: int,
        tops: dict[str, str],
        machine: str,
        tell: Callable[[int], None],
        checkpoint: Callable[[], None],
    ) -> None:
        self._root = root
        self._tops = tops
        self.missing = set(tops)
        """What has not come."""
        self._machine = machine
        self._tell = tell
        self._checkpoint = checkpoint
        self._parent: tuple[list[str], int] | None = None
        self._folders: list[tuple[list[str], int, int]] = []
        self._top: Callable[[str], str] = lambda name: name
        self.files = self.bytes = self._stored = self._members = 0
        self.failed: list[str] = []
        self.modes: dict[str, int] = {}
        """Mode of each folder; they get them last, once they are in their places."""

    def all(self, read: Callable[[int], bytes], top: Callable[[str], str]) -> None:
        """Unpack one stream.

        Args:
            top: the name here for one at the top; raises KeyError for one that was not asked for.

        Raises:
            Refused: see there.
            OSError: the folder cannot be written to.
        """
        self._top = top
        for member in _Stream(read, self._machine):
            self.add(member)

    def add(self, member: Member) -> None:
        """Unpack one member; raises as `all`."""
        self._checkpoint()
        self._members += 1
        self.require_few(0)
        parts = self._parts(member.name)
        if parts:
            self._one(member, parts)

    def require_few(self, waiting: int) -> None:
        """Refuse an endless number of members."""
        if self._members + waiting > MOST_MEMBERS:
            raise Refused(
                f"the guest sends more than {MOST_MEMBERS} files; nothing was kept", machine=self._machine,
                hint=HOSTILE,
            )  # fmt: skip

    def close(self) -> None:
        """Give the folders their times, and note their modes."""
        for parts, mode, mtime_s in reversed(self._folders):
            os.utime(self._folder(parts), (mtime_s, mtime_s))
            self.modes.setdefault("/".join(parts), mode)
        self._forget()

    def _forget(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _require_top(self, name: str, kind: str) -> None:
        """Refuse something else at the top than what was asked for."""
        wanted = self._tops.get(name)
        kind = "file" if kind == "a hard link" else kind  # of another file that was asked for
        if kind != wanted:
            what = "it was not asked for" if wanted is None else f"it was a {wanted}, and now is another kind"
            raise Refused(
                f"the guest sends {printable(name)[:80]}, but {what}; nothing was kept",
                machine=self._machine, hint=HOSTILE,
            )  # fmt: skip
        self.missing.discard(name)

    def refuse(self, name: str, why: str) -> NoReturn:
        """Refuse all because of a name."""
        raise Refused(
            f"the guest sends a name that leads outside: {name[:80]!r} ({why}); nothing was kept",
            machine=self._machine, hint=HOSTILE,
        )  # fmt: skip

    def _parts(self, name: str) -> list[str]:
        """The folders and the name, with the name here at the top; none for the top itself."""
        if name.startswith("/"):
            self.refuse(name, "it is absolute")
        if "\0" in name:
            self.refuse(name, "it holds the character NUL")
        parts = [each for each in name.split("/") if each not in ("", ".")]
        if ".." in parts:
            self.refuse(name, "`..`")
        if len(parts) > MOST_DEPTH or len(name) > PATH_BYTES:
            self.refuse(name, "it is in too many folders")
        if parts:
            try:
                parts[0] = self._top(parts[0])
            except KeyError:
                self.refuse(name, "it was not asked for")
        return parts

    def _folder(self, parts: list[str]) -> int:
        """A descriptor of a folder, made if need be; valid until the next call."""
        if self._parent is not None and self._parent[0] == parts:
            return self._parent[1]
        self._forget()
        fd = os.dup(self._root)
        try:
            for name in parts:
                try:
                    os.mkdir(name, 0o700, dir_fd=fd)
                except FileExistsError:
                    pass
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = inner
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                self.refuse("/".join(parts), "through something that is not a directory")
            raise
        self._parent = (parts, fd)
        return fd

    def _one(self, member: Member, parts: list[str]) -> None:
        shown, name = "/".join(parts), parts[-1]
        self._require_top(parts[0], member.kind if len(parts) == 1 else "folder")
        try:
            if member.kind == "folder":
                self._folder(parts)
                self._folders.append((parts, member.mode & MODES, member.mtime_s))
                return
            fd = self._folder(parts[:-1])
            if member.kind == "file":
                self._file(member, fd, name)
            elif member.kind == "a symbolic link":
                if "\0" in member.link:
                    self.refuse(member.link, "it holds the character NUL")
                os.symlink(member.link, name, dir_fd=fd)
                os.utime(name, (member.mtime_s, member.mtime_s), dir_fd=fd, follow_symlinks=False)
            elif member.kind == "a hard link":
                self._hard_link(member, parts)
            else:
                self.failed.append(f"{shown}: it is {member.kind}")
        except FileExistsError:
            self.refuse(shown, "twice")
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOENT):
                raise
            self.failed.append(f"{shown}: {error.strerror}")

    def _file(self, member: Member, folder: int, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            for at, data in member.data():
                write_sparse(fd, data, at)
                self._stored += len(data)
                self._tell(self._stored)
                self._checkpoint()
            if member.size_bytes:
                os.ftruncate(fd, member.size_bytes)
            os.fchmod(fd, member.mode & MODES)
            os.utime(fd, (member.mtime_s, member.mtime_s))
        finally:
            os.close(fd)
        self.files += 1
        self.bytes += member.size_bytes

    def _hard_link(self, member: Member, parts: list[str]) -> None:
        """Another name of a file of this stream."""
        first = self._parts(member.link)
        if not first:
            self.refuse(member.link, "not a file")
        source = os.dup(self._folder(first[:-1]))
        try:
            if not stat.S_ISREG(os.stat(first[-1], dir_fd=source, follow_symlinks=False).st_mode):
                self.refuse(member.link, "not a file")
            target = self._folder(parts[:-1])
            os.link(first[-1], parts[-1], src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(source)
        self.files += 1


def write_sparse(fd: int, data: bytes, at: int) -> None:
    """Write to a place of a new file, with holes where there are only zeros."""
    for begin, length in scan.parts(data):
        piece = data if length == len(data) else data[begin : begin + length]
        host_files.write_at(fd, piece, at + begin)
