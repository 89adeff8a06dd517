"""Configuration files: where they are, reading them, the name to show for them.

May import: `errors` and small modules only (one-shot path).

    read("/vm/demo/.vmrc").data
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VMRC = ".vmrc"
GLOBAL = "/etc/qvm/vmrc"
MAX_BYTES = 1 << 20
_REGULAR, _FOLDER, _KIND = 0o100000, 0o040000, 0o170000


class Unreadable(Exception):
    """A configuration file cannot be read; the text says why, without the file's name."""


class Source:
    """A file's content, with the status of the very file that it was read from."""

    __slots__ = ("data", "path", "status")

    def __init__(self, path: str, data: bytes, status: os.stat_result) -> None:
        self.path = path
        self.data = data
        self.status = status

    @property
    def text(self) -> str:
        """The content; bytes that are not UTF-8 become surrogates, as in `os.environ`."""
        return self.data.decode("utf-8", "surrogateescape")


def read(path: str) -> Source:
    """Read a regular file of at most 1 MiB (`/dev/null` counts as an empty one).

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it is something else, too large, or may not be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable((error.strerror or str(error)).lower()) from None
    try:
        status = os.fstat(fd)
        kind = status.st_mode & _KIND
        if kind == _FOLDER:
            raise Unreadable("it is a directory")
        if kind != _REGULAR and not os.path.samestat(status, os.stat(os.devnull)):
            raise Unreadable("it is no regular file")
        return Source(path, _all(fd), status)
    except OSError as error:
        raise Unreadable((error.strerror or str(error)).lower()) from None
    finally:
        os.close(fd)


def _all(fd: int) -> bytes:
    data = b""
    while piece := os.read(fd, MAX_BYTES + 1):
        data += piece
        if len(data) > MAX_BYTES:
            raise Unreadable("it is larger than 1 MiB")
    return data


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
    return os.path.join(base, "qvm", "vmrc")


def shown(path: str) -> str:
    """The shortest name of a file that works from here."""
    try:
        here = os.getcwd()
    except OSError:
        return path
    if here != "/" and path.startswith(here + "/"):
        return path[len(here) + 1 :]
    return path
