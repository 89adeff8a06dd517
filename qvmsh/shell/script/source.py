"""The text of a script."""

from __future__ import annotations

from qvmsh.errors import UsageError


def read(path: str) -> bytes:
    """The content of a script.

    Raises:
        UsageError: it is not there, a folder, or closed to this user.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"sh: {path}: {error.strerror}") from None
