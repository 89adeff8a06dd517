"""Accounts of this host, and giving root's files to one of them.

May import: `pwd` and smaller.

    account = find("guido")
    give_folder("/vm/demo/.qvm", account)

Only root can give files away, and it does so in folders that the account may write to; so each is
opened first, without following a link, and given only if it is root's own file with one name.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOREIGN = ("SUDO_", "DBUS_", "XDG_", "SSH_AUTH_", "SSH_AGENT_", "GNUPGHOME", "MAIL", "PYTHON")
"""Names in root's environment that mean root's own things; another account goes without."""


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
        """`environ` as a program of this account should see it."""
        kept = {name: value for name, value in environ.items() if not name.startswith(FOREIGN)}
        kept |= {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}
        runtime = f"/run/user/{self.uid}"
        try:
            if os.lstat(runtime).st_uid == self.uid:
                kept["XDG_RUNTIME_DIR"] = runtime
        except OSError:
            pass
        return kept


def find(name: str) -> Account:
    """The account called `name`.

    Raises:
        KeyError: there is none.
    """
    return Account(pwd.getpwnam(name))


@contextlib.contextmanager
def rights_of(account: Account) -> Iterator[None]:
    """Open files as another account would; only root can, and for as long as the block lasts."""
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


def give(path: str, account: Account, *, dir_fd: int | None = None) -> bool:
    """Give a regular file of root's to `account`; False if it is not there, or is something else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return False
    try:
        return give_descriptor(fd, account)
    finally:
        os.close(fd)


def give_descriptor(fd: int, account: Account) -> bool:
    """As `give`, for an open file."""
    status = os.fstat(fd)
    is_folder = stat.S_ISDIR(status.st_mode)
    # a second name could be one that the account has made for a file that is none of its business
    if status.st_uid != 0 or not (is_folder or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)):
        return False
    os.fchown(fd, account.uid, account.gid)
    return True


def give_folder(path: str, account: Account) -> None:
    """Give a folder, and what root has made in it, to `account`."""
    for _, _, names, folder in os.fwalk(path, follow_symlinks=False):
        give_descriptor(folder, account)
        for name in names:
            give(name, account, dir_fd=folder)
