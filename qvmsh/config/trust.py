"""Trust: whose configuration files may decide what runs, and which code a shell loads.

    require("/vm/demo/.vmrc", status, data, os.environ)     # root: may it be used at all?
    refusal(settings)                                       # all users: may what it names be run?

A `.vmrc` decides which programs and arguments run. So root uses only a file that root or the user
behind sudo (SUDO_UID) owns and no other account can write, or a file that was accepted with
`qvm allow`. Other users read any file, but run only what their own or root's files name, or
what they have accepted; and a command that only looks runs nothing that the machine's files
name, unless it was accepted (`Settings.may_run`). The caller passes the status and
content of one open file, so that the checked content is the one that is used.

What came in a package (`qvm import`) and would run or open something does nothing before `qvm allow`: a
file in the machine's `.qvm` (`files.MARK`) names those variables. Until it is removed, they have no effect,
and nothing that the machine's files name is run.

`RC` is code, so no shell loads it before its content was accepted. Accepting a file as code and
accepting it as configuration are independent.
"""

from __future__ import annotations

import os

from qvmsh.config import files
from qvmsh.errors import ConfigError, NotAcceptedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from qvmsh.host.files import Source

    class Settings(Protocol):
        """The parts of `settings.Settings` that are used here."""

        directory: str
        sources: list[Source]
        is_marked: bool

        @property
        def is_accepted(self) -> bool: ...
        def is_set(self, name: str) -> bool: ...
        def __getitem__(self, name: str) -> str: ...


RC = ".qvmrc.xsh"
"""Code in the machine's directory that its shell loads."""

CODE = b"code"
"""The kind of an accepted file that is not configuration."""


def require(path: str, status: os.stat_result, data: bytes, environ: Mapping[str, str]) -> None:
    """Make sure that this user may use the file.

    Raises:
        NotAcceptedError: root may not; the hint says how to change that.
    """
    if os.geteuid() != 0:
        return
    reason = files.distrust(status, environ)
    if reason is None or is_allowed(path, data, environ):
        return
    mode = f" and make it private: `chmod go-w {path}`" if status.st_mode & 0o022 else ""
    raise NotAcceptedError(
        f"root does not use {path}: it {reason}",
        hint=f"read it, then accept it with `qvm allow`; or give it to root: `chown root {path}`{mode}",
    )


def refusal(settings: Settings) -> ConfigError | None:
    """Why nothing that the machine's files name may be run: another account could have written them.

    None if it may: the directory and the files are this user's or root's, or were accepted.
    For root `require` has checked the files before their content was used.
    """
    if settings.is_marked:
        return ConfigError(
            "nothing is run: it came in a package, and you have not accepted what that brings",
            machine=_name(settings),
            hint=f"read .vmrc and what it names ({files.MARK} lists it), then accept it with `qvm allow`",
        )
    users = {0, os.geteuid()}
    rows = [(source.path, source.status) for source in settings.sources]
    try:
        rows.insert(0, (settings.directory, os.stat(settings.directory)))
    except FileNotFoundError:  # it was removed in the meantime
        pass
    foreign = [(path, status.st_uid) for path, status in rows if status.st_uid not in users]
    if os.geteuid() == 0 or not foreign or settings.is_accepted:
        return None
    path, uid = foreign[0]
    return ConfigError(
        f"nothing is run: {path} belongs to {files.account(uid)}, and you have not accepted it",
        machine=_name(settings),
        hint="read .vmrc and what it names, then accept it with `qvm allow`",
    )


def _name(settings: Settings) -> str:
    is_named = settings.is_set("VM_MACHINE_NAME")
    return settings["VM_MACHINE_NAME"] if is_named else os.path.basename(settings.directory)


def allowed_file(environ: Mapping[str, str]) -> str:
    """The list of accepted files: a line with hash and path for each."""
    base = environ.get("XDG_DATA_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "qvm", "allowed")


def fingerprint(path: str, data: bytes, kind: bytes = b"") -> str:
    """A hash over a file's real path and its content."""
    try:
        from _blake2 import blake2b
    except ImportError:  # an interpreter without its own
        from hashlib import blake2b
    where = os.fsencode(os.path.realpath(path))
    return blake2b(where + b"\0" + data, digest_size=32, person=kind).hexdigest()


def is_allowed(path: str, data: bytes, environ: Mapping[str, str], kind: bytes = b"") -> bool:
    """True if this user has accepted the file with this content."""
    try:
        fd = os.open(allowed_file(environ), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return False  # another account could have written it
        wanted = fingerprint(path, data, kind).encode()
        return any(line.partition(b" ")[0] == wanted for line in file)


def allow(path: str, data: bytes, environ: Mapping[str, str], kind: bytes = b"") -> str:
    """Accept the file with this content from now on; return its fingerprint."""
    token = fingerprint(path, data, kind)
    if is_allowed(path, data, environ, kind):
        return token
    target = allowed_file(environ)
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        shown = os.path.realpath(path).encode(errors="surrogateescape").replace(b"\n", b"?")
        file.write(token.encode() + b" " + shown + b"\n")
        file.flush()
        os.fsync(fd)
    return token
