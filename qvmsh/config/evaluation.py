"""Evaluate the values of a document: expansion, in the order of the file.

    document = parse("VM_MACHINE_NAME=demo\nDATA=~/vm/$VM_MACHINE_NAME\n", ".vmrc")
    values = {"HOME": "/home/guido"}
    evaluate(document, values)      # []; values["DATA"] is now "/home/guido/vm/demo"

Nothing is executed. Values that contain each other double with each line, so their total size is
limited, as is each value (by the system's limit for an environment variable).
"""

from __future__ import annotations

import os

from qvmsh.config.syntax import MAX_PROBLEMS, Expansion, Problem, Tilde

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from qvmsh.config.syntax import Assignment, Document, Part

MAX_VALUE_BYTES = 131072 - 1
"""Linux' limit for one `NAME=value` of an environment (MAX_ARG_STRLEN, with its NUL)."""
MAX_TOTAL = 8 << 20
"""Limit of the characters produced while the values of one configuration are evaluated."""


class _TooLarge(Exception):
    pass


def evaluate(
    document: Document,
    environ: dict[str, str],
    *,
    default: Callable[[str], str] | None = None,
    assigned: Callable[[str, str, int, int], None] | None = None,
    budget: Budget | None = None,
) -> list[Problem]:
    """Evaluate the values of `document` in the order of the file and put them into `environ`.

    Args:
        document: the result of `parse`.
        environ: values that are set already; changed in place.
        default: returns the default of an unset variable: `$NAME` uses it, while
            `${NAME:-word}` and the like treat the variable as unset.
        assigned: called after each assignment with name, value, line and column.
        budget: limit for all values, shared among files.

    Returns:
        Problems found by the evaluation: `${NAME:?word}`, values that are too large.
    """
    return _Evaluator(document, environ, default, assigned, budget or Budget()).run()


class Budget:
    """The characters that may still be produced, a limit for doubling values."""

    __slots__ = ("left",)

    def __init__(self, left: int = MAX_TOTAL) -> None:
        self.left = left


class _Evaluator:
    def __init__(
        self,
        document: Document,
        values: dict[str, str],
        default: Callable[[str], str] | None,
        assigned: Callable[[str, str, int, int], None] | None,
        budget: Budget,
    ) -> None:
        self.document = document
        self.values = values
        self.default = default
        self.assigned = assigned
        self.budget = budget
        self.problems: list[Problem] = []
        self._homes: dict[str, str] = {}

    def run(self) -> list[Problem]:
        rows, at = self.document.assignments, 0
        while at < len(rows) and len(self.problems) < MAX_PROBLEMS:
            first, end = rows[at], at + 1
            while first.is_export and end < len(rows) and rows[end].statement == first.statement:
                end += 1
            try:  # bash expands all words of an `export` before it assigns any
                values = [(row, self._value(row)) for row in rows[at:end]]
            except _TooLarge:
                break
            for row, value in values:
                if value is not None:
                    self._assign(row.name, value, row.line, row.column)
            at = end
        return self.problems

    def _problem(self, line: int, column: int, message: str, hint: str | None, name: str) -> None:
        self.problems.append(Problem(self.document.file, line, column, message, hint, name))

    def _value(self, row: Assignment) -> str | None:
        """The value of one assignment; None if it may not be assigned."""
        try:
            value = self._join(row.parts)
        except _TooLarge:
            hint = "values that contain each other double each time"
            self._problem(row.line, row.column, "the values are too large in total", hint, row.name)
            raise
        limit = MAX_VALUE_BYTES - len(row.name) - 1
        if len(value) * 4 > limit and len(value.encode("utf-8", "surrogateescape")) > limit:
            message = f"the value of {row.name} is longer than the limit of {limit} bytes"
            self._problem(row.line, row.column, message, "put it into a file and name the file", row.name)
            return None
        return value

    def _assign(self, name: str, value: str, line: int, column: int) -> None:
        self.values[name] = value
        if self.assigned:
            self.assigned(name, value, line, column)

    def _join(self, parts: list[Part]) -> str:
        if len(parts) == 1 and type(parts[0]) is str and len(parts[0]) <= self.budget.left:
            self.budget.left -= len(parts[0])
            return parts[0]
        pieces = []
        for part in parts:
            if isinstance(part, Expansion):
                piece = self._expand(part)
            elif isinstance(part, Tilde):
                piece = self._home(part.user)
            else:
                piece = part
            self.budget.left -= len(piece)
            if self.budget.left < 0:
                raise _TooLarge
            pieces.append(piece)
        return "".join(pieces)

    def _expand(self, part: Expansion) -> str:
        value = self.values.get(part.name)
        if value is None:
            value = _own(part.name)
        if not part.operator:
            if value is None:
                return self.default(part.name) if self.default else ""
            return value
        is_set = bool(value) if part.is_colon else value is not None
        if part.operator == "+":
            return self._join(part.word) if is_set else ""
        if is_set:
            assert value is not None
            return value
        word = self._join(part.word)
        if part.operator == "=":
            self._assign(part.name, word, part.line, part.column)
        elif part.operator == "?":
            message = f"{part.name}: {word or ('not set or empty' if part.is_colon else 'not set')}"
            if len(self.problems) < MAX_PROBLEMS:
                hint = f"set {part.name} before this line"
                self._problem(part.line, part.column, message[:400], hint, part.name)
            return ""
        return word

    def _home(self, user: str) -> str:
        home = self._homes.get(user) if user else self.values.get("HOME")
        if home is None:
            import pwd

            try:
                home = (pwd.getpwnam(user) if user else pwd.getpwuid(os.getuid())).pw_dir
            except (KeyError, ValueError):
                home = "~" + user
            if user:
                self._homes[user] = home
        return home


def _own(name: str) -> str | None:
    """The value of a few variables that bash sets itself."""
    if name == "UID":
        return str(os.getuid())
    if name == "EUID":
        return str(os.geteuid())
    if name == "HOSTNAME":
        return os.uname().nodename
    return None
