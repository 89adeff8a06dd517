"""The types of the grammar of `.vmrc`: statements, expansions, problems, and special characters.

The grammar itself is in `config.grammar`, the messages about everything else in `config.faults`.
"""

from __future__ import annotations

from qvmsh.config.words import CONTROLS
from qvmsh.errors import printable

TYPE_CHECKING = False

MAX_PROBLEMS = 100
MAX_DEPTH = 40
NAME_START = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
NAME_CHARS = NAME_START | frozenset("0123456789")
END = "\0"  # appended to the text, so that no look-ahead needs a test for its end
IN_VALUE = frozenset(END + " \t\n\r;|&<>()\\'\"$`~:")
"""What ends the plain characters of a value."""
_NOT_SIMPLE = (IN_VALUE - {":"}) | CONTROLS
QUOTING = frozenset("\\'\"$`")
SHELL_OWN = frozenset(
    (
        *("_", "BASH", "BASHOPTS", "BASHPID", "COMP_WORDBREAKS", "DIRSTACK", "EPOCHREALTIME", "EPOCHSECONDS"),
        *("EUID", "FUNCNAME", "GROUPS", "HISTCMD", "IFS", "LINENO", "OPTARG", "OPTERR", "OPTIND"),
        *("PIPESTATUS", "POSIXLY_CORRECT", "PPID", "PS4", "RANDOM", "SECONDS", "SHELLOPTS", "SHLVL"),
        *("SRANDOM", "UID"),
    )
)
"""Names that a shell sets itself or that change how it parses: they cannot be settings."""
READABLE_OWN = frozenset(("EUID", "HOSTNAME", "UID"))


class Problem:
    """One problem: what is wrong, where, and what to write instead.

    Args:
        file: its shortest name; or `environment` or `--set`.
        line, column: counted from 1; 0 if there is no place.
        message: what is wrong.
        hint: what to do about it, None if there is nothing to add.
        name: the variable concerned, "" if there is none.
    """

    __slots__ = ("column", "file", "hint", "line", "message", "name")

    def __init__(
        self, file: str, line: int, column: int, message: str, hint: str | None = None, name: str = ""
    ) -> None:
        self.file = file
        self.line = line
        self.column = column
        self.message = message
        self.hint = hint
        self.name = name

    def __str__(self) -> str:
        return printable(self.without_hint + (f"; {self.hint}" if self.hint else ""))

    @property
    def without_hint(self) -> str:
        """Place and message, without the hint."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}"

    def __repr__(self) -> str:
        return f"Problem({str(self)!r})"

    def as_json(self) -> dict[str, object]:
        """The problem as a dict of JSON values."""
        return {name: getattr(self, name) for name in ("file", "line", "column", "name", "message", "hint")}


class Tilde:
    """`~` or `~user` where the shell expands it."""

    __slots__ = ("user",)

    def __init__(self, user: str) -> None:
        self.user = user


class Expansion:
    """`$NAME` or `${NAME...}`.

    Args:
        name: the variable.
        operator: "" or one of `- = + ?`.
        is_colon: an empty value counts as unset (`:-` and the like).
        word: the parts of the word after the operator.
        line, column: of the `$`.
    """

    __slots__ = ("column", "is_colon", "line", "name", "operator", "word")

    def __init__(self, name: str, line: int, column: int) -> None:
        self.name = name
        self.operator = ""
        self.is_colon = False
        self.word: list[str | Tilde | Expansion] = []
        self.line = line
        self.column = column


if TYPE_CHECKING:
    Part = str | Tilde | Expansion


class Assignment:
    """One `NAME=value` of the text.

    Args:
        name: the variable.
        parts: its value, not yet expanded.
        line, column: of the name.
        start, end: of the value in the text (offsets).
        statement: number of the statement; the words of one `export` are expanded together.
        is_export: it follows `export`.
    """

    __slots__ = ("column", "end", "is_export", "line", "name", "parts", "start", "statement")

    def __init__(self, name: str, line: int, column: int, statement: int, is_export: bool) -> None:
        self.name = name
        self.line = line
        self.column = column
        self.statement = statement
        self.is_export = is_export
        self.parts: list[Part] = []
        self.start = self.end = 0


class Document:
    """A parsed file: its assignments in their order, and its problems."""

    __slots__ = ("assignments", "file", "problems")

    def __init__(self, file: str) -> None:
        self.file = file
        self.assignments: list[Assignment] = []
        self.problems: list[Problem] = []


def is_name(text: str) -> bool:
    """True if `text` can be the name of a variable."""
    return bool(text) and text[0] in NAME_START and all(c in NAME_CHARS for c in text)


def simple_line(line: str) -> tuple[str, str] | None:
    """Name and value of a line that is one assignment and has nothing to expand, to quote or to refuse."""
    name, mark, value = line.partition("=")
    is_name = mark and name.isascii() and name.isidentifier()
    if not is_name or not _NOT_SIMPLE.isdisjoint(value) or name in SHELL_OWN or name.startswith("BASH_"):
        return None
    return name, value


class Cursor:
    """A position in a text."""

    def __init__(self, text: str) -> None:
        self.text = text + END
        self.size = len(text)
        self.at = 0
        self._counted = (0, 1, 0)  # an offset, its line, and where that line begins

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset; linear time in total for ascending offsets."""
        known, line, begin = self._counted
        if offset < known:
            known, line, begin = 0, 1, 0
        count = self.text.count("\n", known, offset)
        if count:
            line += count
            begin = self.text.rfind("\n", known, offset) + 1
        self._counted = (offset, line, begin)
        return line, offset - begin + 1

    def blanks(self) -> None:
        """Skip blanks and continued lines."""
        text, at = self.text, self.at
        while True:
            char = text[at]
            if char in " \t":
                at += 1
            elif char == "\\" and text[at + 1] == "\n":
                at += 2
            else:
                break
        self.at = at

    def skip(self, at: int) -> int:
        """The offset after any continued line ends at `at`."""
        text = self.text
        while text[at] == "\\" and text[at + 1] == "\n":
            at += 2
        return at

    def to_line_end(self) -> None:
        """Skip the rest of the line."""
        end = self.text.find("\n", self.at)
        self.at = self.size if end < 0 else end


class Unclosed(Exception):
    """The text ended inside something that began at `offset`."""

    def __init__(self, offset: int, what: str, hint: str) -> None:
        super().__init__(what)
        self.offset = offset
        self.what = what
        self.hint = hint


class Abandoned(Exception):
    """The rest of the line cannot be read; the problem has been noted."""


class Full(Exception):
    """MAX_PROBLEMS is reached."""
