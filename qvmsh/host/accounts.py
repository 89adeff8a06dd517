"""Accounts of this host, and giving root's files to one of them.

    account = Account(pwd.getpwnam("guido"))
    give_folder("/vm/demo/.qvm", account)

Only root can give files away. Each is opened first, without following a link, and given only if it is
root's own file with one name.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PASSED = frozenset((
    "COLORTERM", "COLUMNS", "DISPLAY", "EDITOR", "LANG", "LANGUAGE", "LINES", "NO_COLOR", "PAGER", "PATH",
    "QVM_CONTEXT", "QVM_EXPORTED", "TERM", "TZ", "VISUAL",
))  # fmt: skip
"""What another account gets of root's environment, besides VM_ and LC_ names: no secrets."""


class Account:
    """An account: its numbers, its name, its home."""

    __slots__ = ("gid", "home", "name", "shell", "uid")

    def __init__(self, row: pwd.struct_passwd) -> None:
        self.name = row.pw_name
        self.uid = row.pw_uid
        self.gid = row.pw_gid
        self.home = row.pw_dir
        self.shell = row.pw_shell

    @property
    def groups(self) -> list[int]:
        """All its groups."""
        return os.getgrouplist(self.name, self.gid)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment for a program of this account that root begins."""
        kept = {
            name: value
            for name, value in environ.items()
            if name in PASSED or name.startswith(("VM_", "LC_"))
        }
        kept.pop("VM_HOME", None)
        kept |= {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}
        runtime = f"/run/user/{self.uid}"
        try:
            if os.lstat(runtime).st_uid == self.uid:
                kept["XDG_RUNTIME_DIR"] = runtime
        except OSError:
            pass
        return kept

    def obstacle(self, directory: str) -> str:
        """Why the account cannot enter a directory ("Permission denied"), "" if it can. Only root may ask."""
        with _rights_of(self):
            try:
                os.stat(os.path.join(directory, "."))
            except OSError as error:
                return error.strerror or str(error)
        return ""


def homes() -> set[str]:
    """The home of every account."""
    return {os.path.realpath(row.pw_dir) for row in pwd.getpwall()}


@contextlib.contextmanager
def _rights_of(account: Account) -> Iterator[None]:
    """Access files as another account until the block ends."""
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups(account.groups)
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def give(path: str, account: Account, *, dir_fd: int | None = None) -> None:
    """Give a file or folder of root's to `account`; anything else is left alone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return
    try:
        _give_descriptor(fd, account)
    finally:
        os.close(fd)


def _give_descriptor(fd: int, account: Account) -> None:
    status = os.fstat(fd)
    is_folder = stat.S_ISDIR(status.st_mode)
    # the account may have made a second link to a file that it must not get
    if status.st_uid == 0 and (is_folder or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)):
        os.fchown(fd, account.uid, account.gid)


def give_folder(path: str, account: Account) -> None:
    """Give what root has made in a folder to `account`, then the folder: until then nobody can change it."""
    for _, _, names, folder in os.fwalk(path, topdown=False, follow_symlinks=False):
        if os.fstat(folder).st_uid == 0:
            for name in names:
                give(name, account, dir_fd=folder)
        _give_descriptor(folder, account)
