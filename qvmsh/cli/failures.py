"""Errors of the operating system that no command has explained, in words for the user."""

from __future__ import annotations

import os

from qvmsh.config.words import quote
from qvmsh.errors import QvmError


def from_os(error: OSError, machine: str | None = None) -> QvmError:
    """An error of the operating system as a `QvmError`."""
    where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    hint = "free some space on that disk, then try again" if error.errno == 28 else None
    if error.errno in (1, 13):
        hint = _own(os.fsdecode(error.filename or ""))
        hint = hint or "run this as the file's owner; `qvm doctor` shows who that is"
    elif error.errno == 30:
        from qvmsh.host import files

        hint = files.READ_ONLY_HINT
    elif where and error.errno in (21, 22, 27, 40):  # a folder, a pipe, too large, a link
        hint = "this is not a file of qvm's own: move it away; `qvm doctor` checks the machine"
    return QvmError(f"{where}{error.strerror or error}", machine=machine, hint=hint)


def _own(path: str) -> str | None:
    """The way out where a file of the user's own, or its folder, lacks the right to read or write it."""
    path = os.path.abspath(path) if path else ""
    while path and not os.path.lexists(path):
        path = os.path.dirname(path)
    for each in (path, os.path.dirname(path)):
        is_folder = os.path.isdir(each)
        wanted = os.R_OK | os.W_OK | (os.X_OK if is_folder else 0)
        if each and os.stat(each).st_uid == os.geteuid() and not os.access(each, wanted):
            return f"`chmod {'u+rwx' if is_folder else 'u+rw'} {quote(each)}` lets you, its owner, change it"
    return None
