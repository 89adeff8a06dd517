"""What was typed in a session, and the script that it makes.

    lines = Lines(context, is_python=False)
    lines.note("start --no-wait", 0)
    lines.save("again.xsh", ["1-"])

A script ends with the first line that fails, so lines that failed are comments in it.
"""

from __future__ import annotations

import os
import re

from qvmsh.errors import QvmError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from qvmsh.shell.session.io import Session

OWN = re.compile(r"(^|[;&|])\s*(vm\s+)?session\s+(list|save)\b|\bsession\.(list|save)\(")
"""Commands about the session itself are not kept."""


class Line:
    """One input, perhaps of several lines.

    Args:
        number: from 1.
        text: as typed.
        status: its exit status; None while it runs.
        cwd: the current directory before it.
        machine: the session's machine before it.
    """

    __slots__ = ("cwd", "machine", "number", "status", "text")

    def __init__(self, number: int, text: str, cwd: str, machine: str | None) -> None:
        self.number = number
        self.text = text
        self.status: int | None = None
        self.cwd = cwd
        self.machine = machine

    def as_row(self) -> dict[str, Any]:
        return {"number": self.number, "text": self.text, "status": self.status}


class Lines:
    """What was typed, in order.

    Args:
        is_python: the lines are plain Python (`--ui python`), else xonsh.
    """

    def __init__(self, context: Session, *, is_python: bool = False) -> None:
        self._context = context
        self.is_python = is_python
        self._rows: list[Line] = []
        self._begun: Line | None = None
        self._start = context.directory

    def begin(self, text: str) -> None:
        """Note that a line is about to run."""
        try:
            cwd = os.getcwd()
        except OSError:
            cwd = ""
        self._begun = Line(0, text.strip("\n"), cwd, self._context.directory)

    def end(self, status: int) -> None:
        """Note how the line that runs has ended."""
        line, self._begun = self._begun, None
        if line is None or not line.text.strip() or OWN.search(line.text):
            return
        line.status = status
        line.number = len(self._rows) + 1
        self._rows.append(line)

    def chosen(self, ranges: Sequence[str]) -> list[Line]:
        """The lines that `ranges` name, each once and in order; all for none.

        Raises:
            UsageError: a range is wrong, or there are no such lines.
        """
        if not self._rows:
            raise UsageError("nothing was typed in this session yet")
        if not ranges:
            return list(self._rows)
        wanted: set[int] = set()
        for word in ranges:
            wanted |= self._numbers(word)
        return [row for row in self._rows if row.number in wanted]

    def _numbers(self, word: str) -> set[int]:
        first, mark, last = word.partition("-")
        count = len(self._rows)
        if not (first + last).isdecimal() or (first and not first.isdecimal()):
            raise UsageError(f"{word!r} is not a range of lines", hint="write 3, 3-7, 3- or -7")
        low = int(first or 1)
        high = int(last or count) if mark else low
        if not 1 <= low <= high or low > count or (high > count and bool(last or not mark)):
            raise UsageError(
                f"there are no lines {word}", hint=f"`session list` shows the numbers: 1 to {count}"
            )
        return set(range(low, high + 1))

    def save(self, file: str, ranges: Sequence[str], *, is_forced: bool) -> tuple[str, int, int]:
        """Write a script; returns its path, how many lines it has, and how many of them are comments.

        Raises:
            UsageError: as `chosen`, or the file is there.
            QvmError: it cannot be written.
        """
        rows = self.chosen(ranges)
        path = os.path.abspath(os.path.expanduser(file))
        text = self._script(path, rows)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if is_forced else os.O_EXCL)
        try:
            fd = os.open(path, flags, 0o777)
            with open(fd, "w", encoding="utf-8", errors="surrogateescape") as out:
                out.write(text)
                mode = os.fstat(fd).st_mode
                os.fchmod(fd, mode | (mode & 0o444) >> 2)
        except FileExistsError:
            raise UsageError(f"{path} already exists", hint="`session save --force` replaces it") from None
        except OSError as error:
            raise QvmError(f"{path} cannot be written: {error.strerror}") from None
        return path, len(rows), sum(1 for row in rows if row.status)

    def _script(self, path: str, rows: Sequence[Line]) -> str:
        is_xonsh = not self.is_python
        by_name = is_xonsh == path.endswith(".xsh")
        head = "#!/usr/bin/env -S qvm sh" + ("" if by_name or not is_xonsh else " --xonsh")
        return "\n".join([head, *self._way_there(rows[0]), *_texts(rows, is_python=self.is_python)]) + "\n"

    def _way_there(self, first: Line) -> list[str]:
        """The lines that bring a script to the directory and machine of its first line."""
        lines = []
        if first.machine is not None and first.machine != self._start:
            lines.append(f"use({first.machine!r})")
        if first.cwd and first.cwd != first.machine and (first.machine or first.number > 1):
            lines += ["import os", f"os.chdir({first.cwd!r})"]
        return lines


def _texts(rows: Iterable[Line], *, is_python: bool) -> list[str]:
    found: list[str] = []
    has_await = False
    for row in rows:
        text = row.text.rstrip()
        if row.status:
            found.append(f"# status {row.status}:")
            found += [f"#   {line}" for line in text.splitlines()]
            continue
        if is_python:
            new = _without_await(text)
            has_await |= new != text
            text = new
        found.append(text)
    if has_await:
        found[:0] = ["import asyncio", f"{WAIT} = asyncio.new_event_loop().run_until_complete"]
    return found


WAIT = "wait_for"


def _without_await(text: str) -> str:
    """Python with `await` outside functions, rewritten for a script, where it is not allowed."""
    import ast

    try:
        tree = compile(text, "<line>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except (SyntaxError, ValueError):
        return text
    awaits: list[ast.Await] = []

    def look(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Await):
                awaits.append(child)
            look(child)

    look(tree)
    lines = [line.encode() for line in text.splitlines(keepends=True)]
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    data = b"".join(lines)
    edits: list[tuple[int, int, bytes]] = []
    for node in awaits:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        inside = begin + len("await")
        inside += len(data[inside:]) - len(data[inside:].lstrip(b" \t"))
        edits += [(begin, inside, f"{WAIT}(".encode()), (end, end, b")")]
    for begin, end, new in sorted(edits, reverse=True):
        data = data[:begin] + new + data[end:]
    return data.decode()
