"""The man page, from the table of commands and their docstrings.

    python -m qvmsh.cli.man          # writes rc/man/qvm.1; tests/unit/cli/test_man.py checks it
    man -l rc/man/qvm.1

Source: man(7), groff_man(7).
"""

from __future__ import annotations

import os
import re

from qvmsh._version import VERSION
from qvmsh.cli import help as texts
from qvmsh.cli.parse import COMMON, Entry
from qvmsh.commands.index import ALIASES, COMMANDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

PAGE = os.path.join(os.path.dirname(__file__), "..", "..", "rc", "man", "qvm.1")

SYNOPSIS = (
    "qvm [-C DIR | -M NAME] [--set NAME=VALUE] [--json] [-v|-q] [--debug] VERB [options] [words]",
    "qvm [options] SCRIPT [words]",
)

DESCRIPTION = """\
A directory with a `.vmrc` is a virtual machine, and qvm is its shell. Every command below works in
several ways, with the same names, arguments, results and errors: as `qvm VERB`; as a word and as a
Python function in `qvm sh`; in a script whose first line is `#!/usr/bin/env qvm`; and as a method of
`qvmsh.Machine` in any Python program.

The machine is the one in the directory after -C, the known one after -M, else in `$VM_HOME`, else in the
current directory; parent directories are not searched. Commands with [MACHINE ...] take any number: a word
with a `/` or a `.` is a directory; any other word is the machine in `./WORD` if there is one, else the known
machine of that name (VM_MACHINE_NAME). If several known machines have the name, nothing is done and their
directories are listed. A script is a file with a `/` in its name."""

EXIT = (
    ("0", "done"),
    ("1", "failed; for `status`: not ready"),
    ("2", "usage or configuration"),
    ("3", "wrong state, or locked by another command"),
    ("124", "the deadline passed"),
    ("125", "the guest was not reached (`ssh`; otherwise its status is that of the guest's command)"),
    ("130", "Ctrl-C"),
    ("143", "SIGTERM"),
)

FILES = (
    (".vmrc", "the machine's configuration: shell assignments; read, never executed"),
    ("NAME-seed, NAME-base, NAME-backing", "the seed, its copy, and the overlay that is written to"),
    (".qvm/", "persistent state: identity, known hosts, logs, the pid file that a running QEMU locks"),
    ("$XDG_RUNTIME_DIR/qvm/", "sockets of running machines"),
    ("~/.config/qvm/vmrc, /etc/qvm/vmrc", "configuration for all machines of a user, or of the host"),
    ("~/.local/share/qvm/", "the list of known machines, the shell's history"),
    ("PREFIX/share/doc/qvm/", "README.md, guides in docs/, example scripts; rc/vmrc to start from"),
)

ENVIRONMENT = (
    ("VM_HOME", "the machine's directory if neither -C nor -M is given"),
    ("VM_...", "any variable of the configuration; files override it (`qvm config --explain`)"),
)

EXAMPLES = (
    ("qvm create demo && cd demo && qvm start", "create a machine from the built-in image and start it"),
    ("qvm ssh uname -a", "run a command in the guest"),
    ("qvm stop --savevm ready; qvm start --loadvm ready", "save the whole state; resume from there"),
    ("qvm sh", "open the machine's shell"),
    ("source <(qvm completion bash)", "complete qvm's words in bash"),
)


def page() -> str:
    """The page's source."""
    parts = [
        f'.TH QVM 1 "" "qvm {VERSION}" "User Commands"',
        ".SH NAME",
        r"qvm \- the shell for QEMU virtual machines",
        ".SH SYNOPSIS",
        *"\n.br\n".join(map(_plain, SYNOPSIS)).split("\n"),
        ".SH DESCRIPTION",
        *_paragraphs(DESCRIPTION.splitlines()),
        ".SH COMMON OPTIONS",
        *_options(COMMON),
        ".SH COMMANDS",
    ]
    for group, title in texts.TOPICS.items():
        verbs = [verb for verb, row in COMMANDS.items() if row[2] == group]
        if verbs:
            parts.append(f".SS {_plain(title)}")
        for verb in verbs:
            parts += _command(verb)
    for title, rows in (("EXIT STATUS", EXIT), ("FILES", FILES), ("ENVIRONMENT", ENVIRONMENT)):
        parts += [f".SH {title}", *_rows(rows)]
    parts += [".SH EXAMPLES", *_rows(EXAMPLES)]
    parts += [".SH SEE ALSO", ".BR qemu-system-x86_64 (1),", ".BR qemu-img (1),", ".BR ssh (1)"]
    return "\n".join(parts) + "\n"


def _command(verb: str) -> list[str]:
    entry = Entry(verb)
    module = __import__(f"qvmsh.commands.{entry.module}", fromlist=["_"])
    usage = texts.usage(entry).removeprefix("usage: ")
    others = [alias for alias, meant in ALIASES.items() if meant == verb]
    doc = texts.description(getattr(module, entry.function).__doc__ or entry.summary)
    parts = [".TP", rf"\fB{_plain(usage)}\fR", *_paragraphs(doc, is_indented=True)]
    if others:
        parts += [".IP", f"Also: {_text(', '.join(f'`{each}`' for each in others))}."]
    rows = [(name.upper(), text) for name, _, _, text, _ in entry.positionals]
    if rows or entry.options:
        parts += [".RS", *_rows(rows), *_options(entry.options), ".RE"]
    return parts


def _options(options: Iterable[tuple[Any, ...]]) -> list[str]:
    return _rows((texts.flags(row), row[4]) for row in options)


def _rows(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [line for left, right in rows for line in (".TP", rf"\fB{_plain(left)}\fR", _text(right))]


def _paragraphs(lines: Iterable[str], *, is_indented: bool = False) -> list[str]:
    found: list[str] = []
    for line in lines:
        if line:
            found.append(_text(line))
        else:
            found.append(".IP" if is_indented else ".PP")
    return found


def _text(line: str) -> str:
    """A line of prose; text in backquotes is bold."""
    return re.sub(r"`([^`]*)`", r"\\fB\1\\fR", _plain(line))


def _plain(line: str) -> str:
    """`line` with the characters escaped that troff would interpret."""
    line = line.replace("\\", r"\(rs").replace("-", r"\-").replace("'", r"\(aq").replace("^", r"\(ha")
    line = line.replace("~", r"\(ti")
    return rf"\&{line}" if line.startswith(".") else line


if __name__ == "__main__":
    os.makedirs(os.path.dirname(PAGE), exist_ok=True)
    with open(PAGE, "w") as file:
        file.write(page())
