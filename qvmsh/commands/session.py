"""`session list`, `session save`: list the lines typed in this shell, or save them as a script."""

from __future__ import annotations

from qvmsh.commands import command
from qvmsh.errors import UsageError
from qvmsh.io import QUIET
from qvmsh.machine.overview.session import SessionLines, SessionSaved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.io import Io, Lines


@command(group="shell", name="session list")
def session_list(*ranges: str, io: Io = QUIET) -> SessionLines:
    """List the lines typed in this shell, with numbers.

    A line that failed is shown with its exit status.

    Args:
        ranges: only these lines: 3, 3-7, 3-, -7.

    Raises:
        UsageError: this is not an interactive shell, or there are no such lines.
    """
    return SessionLines([row.as_row() for row in _lines(io, "list").chosen(ranges)])


@command(group="shell", name="session save")
def session_save(
    file: Annotated[str, Opt(complete="file")],
    *ranges: str,
    force: Annotated[bool, Opt("-f")] = False,
    io: Io = QUIET,
) -> SessionSaved:
    """Save the lines typed in this shell as a script.

    It holds the lines as they were typed; lines that failed become comments.

    Args:
        file: the script.
        ranges: only these lines: 3, 3-7, 3-, -7 (`session list` shows the numbers).
        force: replace an existing file.

    Raises:
        UsageError: this is not an interactive shell, there are no such lines, or the file exists.
    """
    path, count, failed = _lines(io, "save").save(file, ranges, is_forced=force)
    return SessionSaved(path, count, failed)


def _lines(io: Io, verb: str) -> Lines:
    found = None if io.session is None else io.session.lines
    if found is None:
        hint = "use it at the prompt of `qvm sh`"
        raise UsageError(f"session {verb}: this is not an interactive shell", hint=hint)
    return found
