"""The owner of a machine that root works on: root becomes the owner before it reads the directory.

    account = owner.of("/home/guido/vm/demo", os.environ)   # None, or the account that must run the command
    owner.require_own(directory, os.environ)                 # root does not open the machine itself
    account = owner.named(settings, directory)              # VM_MACHINE_OWNER of a machine of root's

An account can rearrange what is in its directory at any moment: links, pipes, records that name other
files. So root does nothing there by itself: the command line starts a process with the
account's rights (`cli.as_owner`), which does what the account could do anyway. See docs/adr/0006.
"""

from __future__ import annotations

import os

from qvmsh.errors import ConfigError, QvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from qvmsh.config.settings import Settings
    from qvmsh.host.accounts import Account

_LINKS = 40
"""Symbolic links on the way to one place at most, as the kernel has it."""
_KIND, _LINK, _FOLDER = 0o170000, 0o120000, 0o040000  # inode(7); `stat` is not on the one-shot path


def of(directory: str, environ: Mapping[str, str]) -> Account | None:
    """The account with whose rights root must work on the machine in `directory`; None = with its own.

    That is who owns the directory; where it is root's, who owns `.qvm` in it, or a folder above it
    (but for the user behind sudo).

    Raises:
        QvmError: everybody can change the directory or one above, or the owner has no account here.
    """
    if os.geteuid() != 0:
        return None
    uid = _controller(directory, environ) or _uid(os.path.join(directory, ".qvm"))
    return _account(uid, directory) if uid else None


def above(path: str, environ: Mapping[str, str]) -> Account | None:
    """Like `of`, for a path that may not exist yet: who controls what it means."""
    if os.geteuid() != 0:
        return None
    uid = _controller(path, environ)
    return _account(uid, path) if uid else None


class Foreign(QvmError):
    """The directory is another account's: `account`."""

    def __init__(self, directory: str, account: Account) -> None:
        super().__init__(
            f"{directory} belongs to {account.name}: root does not open it with its own rights",
            machine=os.path.basename(directory),
            hint=f"`qvm -C {directory} ...` works as {account.name}; run other programs as that account",
        )
        self.account = account


def require_own(directory: str, environ: Mapping[str, str]) -> None:
    """Make sure that nobody but root decides what `directory` holds, where this is root.

    Raises:
        Foreign: somebody else does; only a process with that account's rights may open the machine.
    """
    if account := of(directory, environ):
        raise Foreign(directory, account)


def leave_foreign_home(environ: MutableMapping[str, str]) -> None:
    """Let root use its own home if `sudo -E` or the like has left another account's."""
    xdg = (f"XDG_{each}" for each in ("CACHE_HOME", "CONFIG_HOME", "DATA_HOME", "STATE_HOME", "RUNTIME_DIR"))
    for name in ("HOME", *xdg):
        try:
            is_foreign = bool(environ.get(name) and _controller(environ[name], {}))
        except QvmError:  # open to everybody, as in many containers: it is root's nevertheless
            continue
        if is_foreign:
            del environ[name]
            if name == "HOME":
                environ[name] = os.path.expanduser("~root")


def _controller(path: str, environ: Mapping[str, str]) -> int:
    """Uid of the first account but root that can change what `path` means; 0 if there is none.

    As long as all that was passed is root's, nobody can change it behind us.
    """
    sudo = environ.get("SUDO_UID", "")
    trusted = {0, int(sudo) if sudo.isascii() and sudo.isdigit() else 0}
    at, links = "/", 0
    names = _reversed(os.path.abspath(path))
    while names:
        name = names.pop()
        at = os.path.dirname(at) if name == ".." else os.path.join(at, name)
        try:
            status = os.lstat(at)
        except OSError:
            return 0  # nothing is there that anybody could have put there
        is_link = status.st_mode & _KIND == _LINK
        if status.st_uid not in trusted or (status.st_uid and not names and not is_link):
            return status.st_uid
        if is_link:
            links += 1
            if links > _LINKS:
                return 0
            target = os.readlink(at)
            at = "/" if target.startswith("/") else os.path.dirname(at)
            names += _reversed(target)
        elif status.st_mode & (_KIND | 0o1002) == _FOLDER | 0o002:  # no sticky bit
            raise QvmError(
                f"everybody can change {at}: root does not work there",
                hint=f"`chmod o-w {at}`, or choose another place",
            )
    return 0


def _reversed(path: str) -> list[str]:
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _uid(path: str) -> int:
    """Who owns `path` itself; 0 where nothing is there."""
    try:
        return os.lstat(path).st_uid
    except OSError:
        return 0


def named(settings: Settings, directory: str) -> Account | None:
    """VM_MACHINE_OWNER of a machine in a directory of root's, where this is root; None if that is root."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        row = pwd.getpwnam(settings["VM_MACHINE_OWNER"])
    except (KeyError, ConfigError):  # the command itself says so, if it needs the settings
        return None
    return _account(row.pw_uid, directory) if row.pw_uid else None


def _account(uid: int, path: str) -> Account:
    import pwd

    from qvmsh.host.accounts import Account

    try:
        return Account(pwd.getpwuid(uid))
    except KeyError:
        raise QvmError(
            f"{path} belongs to uid {uid}, which has no account on this host",
            hint="`chown -R` gives it to an account of this host",
        ) from None
