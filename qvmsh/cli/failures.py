"""Errors of the operating system that no command has explained, in words for the user."""

from __future__ import annotations

import os

from qvmsh.errors import QvmError


def from_os(error: OSError, machine: str | None = None) -> QvmError:
    """An error of the operating system as a `QvmError`."""
    where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    hint = "free some space on that disk, then try again" if error.errno == 28 else None
    if error.errno in (1, 13):
        hint = "run this as the file's owner; `qvm doctor` shows who that is"
    elif error.errno == 30:
        from qvmsh.host import files

        hint = files.READ_ONLY_HINT
    elif where and error.errno in (21, 22, 27, 40):  # a folder, a pipe, too large, a link
        hint = "this is not a file of qvm's own: move it away; `qvm doctor` checks the machine"
    return QvmError(f"{where}{error.strerror or error}", machine=machine, hint=hint)
