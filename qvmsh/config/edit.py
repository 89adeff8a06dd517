"""Change one value of a `.vmrc` and keep every other byte.

assign("VM_MACHINE_MEM=1024  # MiB\n", "VM_MACHINE_MEM", "2048")     # "VM_MACHINE_MEM=2048  # MiB\n"
"""

from __future__ import annotations

import os

from qvmsh.config import files
from qvmsh.config.grammar import parse
from qvmsh.config.syntax import is_name
from qvmsh.config.words import quote
from qvmsh.errors import ConfigError, UsageError
from qvmsh.host.files import sync_folder, unique

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("assign", "assign_in_file", "assignment", "quote", "with_line", "without_line")


def assign(text: str, name: str, value: str) -> str:
    """Return `text` with `name` set to `value`.

    The last assignment of the name is changed, since it is the effective one; its `export` and its
    comment are kept. If there is none, a line is added at the end.

    Raises:
        UsageError: `name` is not a valid name, or `value` cannot be quoted.
        ConfigError: the text is so broken that the new value would not be read.
    """
    if not is_name(name):
        raise UsageError(f"{name!r} is not a valid variable name")
    try:
        quoted = quote(value) if value else ""
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    document = parse(text, files.VMRC)
    rows = [row for row in document.assignments if row.name == name]
    if rows:
        changed = text[: rows[-1].start] + quoted + text[rows[-1].end :]
    else:
        changed = _whole_lines(text) + f"{name}={quoted}\n"
    _require_readable(changed, name, value)
    return changed


def with_line(text: str, name: str, line: str, *, has_more: bool = False) -> Iterator[str]:
    """Texts in which the value of `name` has one more line, the nicest first.

    The value itself stays as it is written: its expansions, its blanks, its order. What a text means is for
    the caller to check, since that is up to the value's quotes.

    Args:
        has_more: if the text does not set it, its value comes from elsewhere, and is kept.
    """
    rows = [row for row in parse(text, files.VMRC).assignments if row.name == name]
    if has_more and not rows:
        yield f'{_whole_lines(text)}{name}="${name}\n{_in_double(line)}"\n'
        return
    if not rows or not any(not isinstance(part, str) or part.strip() for part in rows[-1].parts):
        yield assign(text, name, line)
        return
    head, raw, tail = text[: rows[-1].start], text[rows[-1].start : rows[-1].end], text[rows[-1].end :]
    mark = raw[0]
    if mark in "'\"" and raw[-1] == mark and len(raw) > 1 and (mark == '"' or "'" not in line):
        own = line if mark == "'" else _in_double(line)
        body, _, end = raw[1:-1].rpartition("\n")
        if not end.strip() and body.strip():  # the closing quote has a line of its own
            last = next(each for each in reversed(body.split("\n")) if each.strip())
            indent = last[: len(last) - len(last.lstrip())]
            yield f"{head}{mark}{body}\n{indent}{own}\n{end}{mark}{tail}"
        yield f"{head}{raw[:-1]}\n{own}{mark}{tail}"
    if all(isinstance(part, str) for part in rows[-1].parts) and mark not in "'\"":
        yield assign(text, name, f"{''.join(map(str, rows[-1].parts))}\n{line}")
    more = "\n" + line
    yield f"{head}{raw}{quote(more)}{tail}"


def without_line(text: str, name: str) -> Iterator[str]:
    """Texts in which the value of `name` lacks one line of what is written, each line in turn.

    As for `with_line`, the caller checks what they mean.
    """
    rows = [row for row in parse(text, files.VMRC).assignments if row.name == name]
    if not rows:
        return
    start, lines = rows[-1].start, text[rows[-1].start : rows[-1].end].split("\n")
    for at, line in enumerate(lines):
        begin = start + len(line) - len(line.lstrip("'\""))
        end = start + len(line.rstrip("'\"")) if begin < start + len(line) else begin
        if at and begin == start:  # with the line end before it, else with the one after it
            begin -= 1
        elif at < len(lines) - 1 and end == start + len(line):
            end += 1
        yield text[:begin] + text[end:]
        start += len(line) + 1


def _in_double(line: str) -> str:
    """`line` inside of double quotes."""
    return "".join(f"\\{each}" if each in '\\"$`' else each for each in line)


def assignment(word: str) -> tuple[str, str]:
    """Name and value of a `--set`.

    Raises:
        UsageError: the word is not NAME=VALUE.
    """
    name, mark, value = word.partition("=")
    if not mark or not name:
        raise UsageError(f"--set {word}: must be NAME=VALUE")
    return name, value


def _whole_lines(text: str) -> str:
    """`text` with a line end, so that a line can be added."""
    if text.endswith("\\\n"):
        return text + "\n"  # the last line is continued
    return text if not text or text.endswith("\n") else text + "\n"


def _require_readable(text: str, name: str, value: str) -> None:
    """Make sure that the new text sets the value, whatever surrounds the change."""
    document = parse(text, files.VMRC)
    rows = [row for row in document.assignments if row.name == name]
    literal = [part for part in rows[-1].parts if isinstance(part, str)] if rows else []
    if rows and len(literal) == len(rows[-1].parts) and "".join(literal) == value:
        return
    raise ConfigError(
        f"cannot set {name}: the file has problems that would hide the new value",
        details=[str(problem) for problem in document.problems],
        problems=tuple(document.problems),
        hint="correct them first: `qvm config edit`",
    )


def assign_in_file(path: str, name: str, value: str) -> None:
    """Set `name` to `value` in the file, atomically.

    A link is followed; mode and owner are kept. See `assign`.

    Raises:
        UsageError, ConfigError: see `assign`. The file did not change.
        OSError: it cannot be written. The file did not change.
    """
    try:
        source = files.read(path)
    except files.Unreadable as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    replace(path, assign(source.text, name, value))


def replace(path: str, text: str) -> None:
    """Replace an existing file's content: write a temporary file, sync, rename."""
    target = os.path.realpath(path)
    status = os.stat(target)
    part = unique(os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.part"))
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            own = os.fstat(fd)
            if (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
                os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, status.st_mode & 0o7777)
            file.flush()
            os.fsync(fd)
        os.rename(part, target)
    except BaseException:
        os.unlink(part)
        raise
    sync_folder(os.path.dirname(target))
