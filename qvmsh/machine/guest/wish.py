"""A command for the guest: its words, and the script of a POSIX shell that runs them.

script(Wish(["ls", "-l", "a b"], cwd="/tmp"))       # cd -- '/tmp' || exit 126; 'ls' '-l' 'a b'; exit $?
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qvmsh.errors import UsageError

TAG = "QVM_EXEC"
"""A variable of a command that must end in time."""
WAYS = ("ssh", "agent", "serial")
"""The ways into a guest, in the order in which they are tried."""
MOST_BYTES = 120 << 10
"""The longest script: Linux gives a program words of up to 128 KiB. Source: execve(2)."""
_PLAIN = re.compile(r"[ -&(-~]*")
"""What needs no other quotes than single ones, on a line of ASCII."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


class Unusable(Exception):
    """A way does not lead into the guest; nothing has been run."""


@dataclass(frozen=True)
class Wish:
    """What is to run in the guest.

    Args:
        words: the program and its arguments, which arrive byte by byte; a text with surrogates stands for
            bytes that are no UTF-8.
        line: a line for the guest's shell instead.
        ways: the ways into the guest that may be used, in this order.
        timeout_s: how long it may take, with the way to the guest; None: as long as it likes.
        user: the account in the guest; None: that of the way.
        env: variables, `NAME=VALUE` each.
        cwd: the directory in the guest.
        data: its standard input; None: nothing.
        is_interactive: it reads the caller's standard input, and gets a terminal where that is one.
        tag: what the command is known by in the guest, so that it can be ended.
    """

    words: tuple[str, ...] = ()
    line: str | None = None
    ways: tuple[str, ...] = WAYS
    timeout_s: float | None = None
    user: str | None = None
    env: tuple[str, ...] = ()
    cwd: str | None = None
    data: bytes | None = None
    is_interactive: bool = False
    tag: str = ""

    @property
    def shown(self) -> str:
        """The command as messages show it."""
        return self.line if self.line is not None else " ".join(self.words)

    @property
    def argv(self) -> tuple[str, ...]:
        return (self.line,) if self.line is not None else self.words


def require_sound(wish: Wish) -> None:
    """Refuse what no guest could run.

    Raises:
        UsageError: the text says what.
    """
    if (wish.line is None) == (not wish.words):
        what = "both a line and words are given" if wish.words else "no command is given"
        raise UsageError(f"exec: {what}", hint="`qvm exec -- ls -l`, or `qvm exec --shell 'ls | wc -l'`")
    for way in wish.ways:
        if way not in WAYS:
            raise UsageError(f"exec: --via {way}: must be one of {', '.join(WAYS)}")
    for text in wish.env:
        name, mark, _ = text.partition("=")
        if not mark or not _NAME.fullmatch(name):
            raise UsageError(f"exec: --env {text}: must be NAME=VALUE")
    for text in (*wish.argv, *wish.env, wish.cwd or "", wish.user or ""):
        if "\0" in text:
            raise UsageError("exec: a word holds the character NUL, which no command line can hold")


def ending(tag: str) -> str:
    """A script that ends the command with this tag, and all that it has begun.

    Another account's environment cannot be read, nor that of a program with more rights (busybox often is
    setuid); what the command was begun with can, and whose child a process is.
    """
    files = "/proc/[0-9]*/environ /proc/[0-9]*/cmdline"
    pid = "2>/dev/null | cut -d/ -f3"
    return (
        f"t=$(grep -l '{TAG}[=]{tag}' {files} {pid}); a=; "
        'while [ -n "$t" ]; do a="$a $t"; n=; for p in $t; do '
        rf'n="$n $(grep -l "^PPid:[^0-9]*$p\$" /proc/[0-9]*/status {pid})"; done; t=$(echo $n); done; '
        '[ -z "$a" ] || { kill -TERM $a; sleep 1; kill -KILL $a; } 2>/dev/null; true'
    )


def script(wish: Wish, *, is_ascii: bool = False) -> str:
    """The script that runs the command and ends with its status; 128 + N where signal N ended it.

    Args:
        is_ascii: only printable ASCII: for a way that carries nothing else.

    Raises:
        UsageError: it is too long.
    """
    quoting = _Quoting(is_ascii=is_ascii)
    parts = []
    for text in wish.env:
        name, _, value = text.partition("=")
        parts.append(f"{name}={quoting.quoted(value)}; export {name};")
    if wish.cwd is not None:
        parts.append(f"cd -- {quoting.quoted(wish.cwd)} || exit 126;")
    if wish.line is not None:
        parts.append(f"eval {quoting.quoted(wish.line)}; exit $?")
    else:
        parts.append(" ".join(map(quoting.quoted, wish.words)) + "; exit $?")
    whole = " ".join([*quoting.set, *parts])
    if wish.tag:  # `ending` finds the shell itself by it
        inner = _Quoting(is_ascii=False).quoted(f"set --; {whole}")
        whole = f"exec env {TAG}={wish.tag} sh -c {inner} sh {TAG}={wish.tag}"
    require_short(whole)
    return whole


def require_short(text: str) -> None:
    """Refuse a command that cannot be given to a program.

    Raises:
        UsageError: it is too long.
    """
    count = len(text.encode(errors="surrogateescape"))
    if count > MOST_BYTES:
        raise UsageError(
            f"the command is {count >> 10} KiB long, and the guest can be given {MOST_BYTES >> 10} KiB",
            hint="`qvm put` copies a file of any size, which the command can read",
        )


class _Quoting:
    """Words of a POSIX shell; those that the line cannot hold are variables that `set` sets."""

    def __init__(self, *, is_ascii: bool) -> None:
        self.set: list[str] = []
        self._is_ascii = is_ascii

    def quoted(self, word: str) -> str:
        """The word as the shell reads it."""
        if not self._is_ascii or _PLAIN.fullmatch(word.replace("'", "")):
            return "'" + word.replace("'", "'\\''") + "'"
        name = f"_qvm{len(self.set)}"
        data = word.encode(errors="surrogateescape")
        text = "".join(chr(b) if 32 <= b < 127 and chr(b) not in "\\%'" else f"\\{b:03o}" for b in data)
        self.set.append(f"{name}=$(printf '{text}x'); {name}=${{{name}%x}};")  # the x: $() removes newlines
        return f'"${name}"'
