"""Configuration files: their paths, reading them, their shortest names, and which of them root uses.

read("/vm/demo/.vmrc").data
"""

from __future__ import annotations

import os

from qvmsh.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES = 256 << 10
"""Reading a file of this size takes a fifth of a second."""

VMRC = ".vmrc"
GLOBAL = "/etc/qvm/vmrc"
MARK = os.path.join(".qvm", "unaccepted")
"""In a machine's directory: it came in a package that was not accepted yet (`trust`); the names of the
variables that have no effect until then, a line each."""


class Unreadable(Exception):
    """A configuration file cannot be read; the text says why, without the file's name."""


def read(path: str) -> files.Source:
    """Read a regular file of at most 256 KiB (`/dev/null` counts as an empty one).

    Raises:
        FileNotFoundError: it does not exist.
        Unreadable: it is not a regular file, too large, or not readable.
    """
    try:
        return files.read(path, MAX_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise Unreadable(why[0].lower() + why[1:]) from None


def unaccepted(directory: str) -> frozenset[str] | None:
    """The variables of an unaccepted package; None for any other machine."""
    try:
        return frozenset(read(os.path.join(directory, MARK)).text.split())
    except FileNotFoundError:
        return None
    except (Unreadable, NotADirectoryError):
        return frozenset()


def home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")


def global_file(environ: Mapping[str, str]) -> str:
    """The file for all machines of the host: VM_GLOBAL_CONFIG, else /etc/qvm/vmrc."""
    return environ.get("VM_GLOBAL_CONFIG") or GLOBAL


def user_file(environ: Mapping[str, str]) -> str:
    """The file for all machines of the user: ${XDG_CONFIG_HOME:-~/.config}/qvm/vmrc."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(home(environ), ".config")
    return f"{base}/qvm/vmrc"


def shown(path: str) -> str:
    """The shortest name of a file that works from here."""
    try:
        here = os.getcwd()
    except OSError:
        return path
    if here != "/" and path.startswith(here + "/"):
        return path[len(here) + 1 :]
    return path


def distrust(status: os.stat_result, environ: Mapping[str, str]) -> str | None:
    """Why root would not use a file of this status (`belongs to guido`); None if it would."""
    owners = {0}
    sudo = environ.get("SUDO_UID", "")
    if sudo.isascii() and sudo.isdigit():
        owners.add(int(sudo))
    if status.st_uid not in owners:
        return f"belongs to {account(status.st_uid)}"
    if status.st_mode & 0o022:
        return "is writable by others (mode " + oct(status.st_mode & 0o7777)[2:] + ")"
    return None


def account(uid: int) -> str:
    """The name of an account, or its number."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
