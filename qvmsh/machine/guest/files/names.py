"""Paths and names of `put` and `get`, on both sides.

guest_path("~/a b", "put")                  # "./a b"
part_name("disk.img", 1024)                 # ".disk.img.part-1f0c2a77"
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from qvmsh.errors import QvmError, UsageError

STREAM = "-"
"""The word for standard input or standard output."""
RESUME = "`qvm status` shows the machine's state; `qvm {} --resume` continues it"


@dataclass(frozen=True)
class Wish:
    """What is to be copied.

    Args:
        sources: paths, or `-` alone for standard input.
        target: a path, or `-` for standard output.
        ways: the ways that may be used, in this order.
        is_resumed: continue what an interrupted copy has left.
        timeout_s: how long it may take; None: as long as something moves.
    """

    sources: tuple[str, ...]
    target: str
    ways: tuple[str, ...]
    is_resumed: bool = False
    timeout_s: float | None = None


def wish_of(
    verb: str,
    words: tuple[str | os.PathLike[str], ...],
    ways: tuple[str, ...],
    *,
    is_resumed: bool,
    timeout_s: float | None,
) -> Wish:
    """The wish of a command's words.

    Raises:
        UsageError: a source or the target is missing, or a word cannot be a path.
    """
    texts = tuple(os.fspath(each) for each in words)
    if len(texts) < 2:
        what = "the target is missing" if texts else "nothing to copy is given"
        raise UsageError(f"{verb}: {what}", hint=f"`qvm {verb} SOURCE... TARGET`")
    for text in texts:
        if not text or "\0" in text:
            raise UsageError(f"{verb}: a path is empty, or holds the character NUL")
    return Wish(texts[:-1], texts[-1], ways, is_resumed, timeout_s)


def guest_path(text: str) -> str:
    """A path in the guest, absolute or beginning with `./`; `~` is the account's home, where all begin."""
    if text == "~" or text.startswith("~/"):
        text = "." + text[1:]
    return text if text.startswith(("/", "./")) or text == "." else f"./{text}"


def part_name(name: str, *facts: object) -> str:
    """The name of what is not complete yet: always the same for the same content, so that it is found."""
    mark = hashlib.sha256(repr((name, *facts)).encode()).hexdigest()[:8]
    return f".{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:60]}.part-{mark}"


def split(path: str) -> tuple[str, str]:
    """Folder and name of a path; the slashes at its end do not count."""
    folder, name = os.path.split(path.rstrip("/"))
    return folder or ("/" if path.startswith("/") else "."), name


def is_number(text: str) -> bool:
    """True for digits that stand for a size or the like, in what a guest sends."""
    return text.isascii() and text.isdigit() and len(text) < 20


def require_different(verb: str, names: dict[str, str], name: str, source: str) -> None:
    """Note the name that a source gets.

    Raises:
        UsageError: another source has it.
    """
    if name in names:
        raise UsageError(
            f"{verb}: {names[name]} and {source} have the same name, so one would replace the other"
        )
    names[name] = source


def in_use(machine: str, folder: str) -> QvmError:
    """The error where two processes would write to the same part."""
    return QvmError(
        f"another process copies the same file to {folder}; nothing was copied", machine=machine,
        hint="wait for its end",
    )  # fmt: skip
