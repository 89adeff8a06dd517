"""The help texts, drawn from the index of commands."""

from __future__ import annotations

import os

from qvmsh.cli.parse import COMMON, Entry, shared
from qvmsh.commands.index import COMMANDS
from qvmsh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TOPICS = {
    "daily": "Daily",
    "guest": "The guest",
    "monitor": "QEMU's monitor",
    "images": "Images",
    "configuration": "Configuration",
    "shell": "The shell",
}

OPENING = """\
qvm: the shell for QEMU virtual machines. A directory with a .vmrc is a machine.

usage: qvm [-C DIR | -M NAME] [--set NAME=VALUE] [--json] [-v|-q] [--debug] VERB [options] [words]
       qvm [options] SCRIPT [words]      a file with a / in its name runs in the machine's context
"""

CLOSING = """\
`qvm help VERB` explains a verb; `qvm -V` prints the version. Exit status: 0 done, 1 failed (`status`: not
ready), 2 usage or configuration, 3 wrong state or locked, 124 deadline, 125 guest not reached, 130 Ctrl-C,
143 SIGTERM.
"""


def overview() -> str:
    """The text of `qvm --help`: the verbs by topic, one per line."""
    width = max(map(len, COMMANDS)) + 2
    parts = [OPENING]
    for group, title in TOPICS.items():
        rows = [f"  {verb:{width}}{row[7]}" for verb, row in COMMANDS.items() if row[2] == group]
        if rows:
            parts.append(f"{title}:\n" + "\n".join(rows) + "\n")
    rows = _table([(flags(row), row[4]) for row in COMMON], width=width + 2)
    parts.append("Options, before or after the verb:\n" + "\n".join(rows) + "\n")
    return "\n".join([*parts, CLOSING])


def of_family(first: str) -> str:
    """The text of `qvm snapshot --help`: the verbs that begin with that word; "" for none."""
    rows = [(verb, row[7]) for verb, row in COMMANDS.items() if verb.startswith(f"{first} ")]
    lines = [f"  {verb:{max(len(verb) for verb, _ in rows) + 2}}{text}" for verb, text in rows]
    return "\n".join([*lines, "", f"`qvm {rows[0][0]} --help` explains one.", ""]) if rows else ""


def unknown_command(words: list[str]) -> UsageError:
    """The error for words that do not begin with a command, with a suggestion."""
    from qvmsh.cli import hints

    first = words[0]
    longer = sorted(verb for verb in COMMANDS if verb.startswith(first + " "))
    if longer:
        is_unknown = words[1:] and not words[1].startswith("-")
        what = f"{first} has no verb {words[1]!r}" if is_unknown else f"{first}: a verb is missing"
        seconds = [verb.partition(" ")[2] for verb in longer]
        hint = hints.for_second_word(first, words[1], seconds) if is_unknown else None
        return UsageError(what, hint=hint or "`qvm " + "`, `qvm ".join(longer) + "`")
    hint = hints.for_turned_words(words) or hints.for_verb(words)
    if os.path.isfile(first):
        hint = f"a script needs a slash in its name: `qvm ./{first}`"
    return UsageError(f"unknown command {first!r}", hint=hint or "`qvm --help` lists the verbs")


def usage(entry: Entry) -> str:
    """The usage line: `usage: qvm start [options] [MACHINE ...]`."""
    words = ["[options]"] if entry.options else []
    if entry.words == "machines":
        words.append("[MACHINE ...]")
    if entry.words == "first":
        words.append("[MACHINE]")
    for name, required, is_rest, _, _ in entry.positionals:
        shown = name.rstrip("s").upper() if is_rest else name.upper()
        words.append(f"[{shown} ...]" if is_rest else shown if required else f"[{shown}]")
    return f"usage: qvm {entry.verb} {' '.join(words)}".rstrip()


def of_command(verb: str) -> str:
    """The text of `qvm VERB --help`."""
    entry = Entry(verb)
    module = __import__(f"qvmsh.commands.{entry.module}", fromlist=["_"])
    lines = [usage(entry), ""]
    lines += description(getattr(module, entry.function).__doc__ or entry.summary)
    if entry.positionals:
        lines += ["", "words:"]
        lines += _table([(row[0].upper(), row[3]) for row in entry.positionals])
    if entry.options:
        lines += ["", "options:"]
        lines += _table([(flags(row), row[4]) for row in entry.options])
    lines += ["", "common options:"]
    taken = {flag for row in entry.options for flag in row[2]}
    lines += _table([(flags(row, taken), row[4]) for row in shared(entry) if set(row[2]) - taken])
    return "\n".join(lines) + "\n"


def flags(row: tuple[Any, ...], taken: set[str] | frozenset[str] = frozenset()) -> str:
    text = ", ".join(flag for flag in row[2] if flag not in taken)
    return f"{text} {row[3]}" if row[3] else text


def description(doc: str) -> list[str]:
    """The paragraphs of a docstring before its sections."""
    lines = [line.strip() for line in doc.strip().splitlines()]
    for at, line in enumerate(lines):
        if line in ("Args:", "Returns:", "Raises:", "Source:") or line.startswith("Source: "):
            lines = lines[:at]
            break
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _table(rows: list[tuple[str, str]], width: int = 30, line: int = 100) -> list[str]:
    """Two columns, the second folded."""
    shown = []
    for left, right in rows:
        words, folded = right.split(), [""]
        for word in words:
            if len(folded[-1]) + len(word) + 1 > line - width and folded[-1]:
                folded.append("")
            folded[-1] = f"{folded[-1]} {word}".strip()
        head = f"  {left}"
        if len(head) >= width:
            shown.append(head)
            head = ""
        shown.append(f"{head:{width}}{folded[0]}".rstrip())
        shown += [" " * width + more for more in folded[1:]]
    return shown
