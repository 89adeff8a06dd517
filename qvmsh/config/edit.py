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

__all__ = ("assign", "assign_in_file", "assignment", "quote")


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
