"""docs/exit-status.md: what each exit status means, and the errors that have it, from `qvmsh/errors.py`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from markdown import WRITTEN, prose, table

from qvmsh import errors
from qvmsh.cli.man import EXIT

PAGE = "exit-status.md"

OPENING = """\
`ssh` returns the exit status of the command in the guest, and `run` that of QEMU. A command for several
machines returns the largest of all.
"""

ERRORS = """\
## Errors

An error is one line on standard error, `qvm: MACHINE: what failed: why`, then indented details if there are
any, then `hint:` with what to do next. In Python it is an exception of `qvmsh.errors`; with `--json` its
name is the `kind` of the [error](json.md#errors).
"""


def page() -> str:
    """The text of the page."""
    lines = ["# Exit statuses", "", WRITTEN.format("`qvmsh/errors.py`"), *table(("status", "meaning"), EXIT)]
    rows = [(f"`{each.__name__}`", parent(each), status(each), first(each)) for each in tree()]
    lines += ["", OPENING, ERRORS, *table(("error", "is a", "status", "when"), rows)]
    return "\n".join(lines) + "\n"


def tree(kind: type[errors.QvmError] = errors.QvmError) -> Iterator[type[errors.QvmError]]:
    """All classes of errors that `qvmsh.errors` defines, parents first."""
    yield kind
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from tree(each)


def parent(kind: type[errors.QvmError]) -> str:
    return f"`{kind.__mro__[1].__name__}`"


def status(kind: type[errors.QvmError]) -> str:
    return "that of the program" if kind is errors.CommandError else str(kind.status)


def first(kind: type[errors.QvmError]) -> str:
    """The first line of the docstring."""
    return prose((inspect.getdoc(kind) or "").splitlines()[0])
