"""docs/commands.md: every command with its words and options, from the index and the docstrings."""

from __future__ import annotations

from importlib import import_module

from markdown import WRITTEN, prose, table

from qvmsh.cli import help as texts
from qvmsh.cli.parse import COMMON, MACHINES, Entry
from qvmsh.commands.index import ALIASES, COMMANDS

PAGE = "commands.md"

OPENING = """\
`qvm [-C DIR | -M NAME] [--set NAME=VALUE] [--json] [-v|-q] [--debug] VERB [options] [words]`

Options may stand before or after the words; in `cmd`, `completion`, `dryrun`, `qmp`, `run`, `sh` and `ssh`
they come before the first word. The machine is the one in the directory after `-C`, the known machine after
`-M`, else the one in `$VM_HOME`, else the one in the current directory. Commands with `[MACHINE ...]` take
several machines and work on them in parallel: a word with a `/` or a `.` is a directory; any other word is
`./WORD` if that is a machine, else the known machine of that name. If several known machines have the name,
qvm prints their directories and does nothing.

`qvm VERB --help` prints the section of a verb. See also [exit statuses](exit-status.md) and
[JSON](json.md).
"""


def page() -> str:
    """The text of the page."""
    parts = ["# Commands\n", WRITTEN.format("`qvmsh/commands/`"), OPENING]
    rows = [(f"[`{verb}`](#{verb.replace(' ', '-')})", prose(row[7])) for verb, row in COMMANDS.items()]
    parts.append("\n".join(table(("verb", ""), rows)) + "\n")
    parts.append("## Common options\n\n" + "\n".join(_options((*COMMON, *MACHINES))) + "\n")
    parts.append("`--label` belongs to the commands that take several machines.\n")
    return "\n".join([*parts, *(_section(verb) for verb in COMMANDS)])


def _section(verb: str) -> str:
    entry = Entry(verb)
    module = import_module(f"qvmsh.commands.{entry.module}")
    lines = [f"## {verb}", "", f"`{texts.usage(entry).removeprefix('usage: ')}`", ""]
    lines.append(prose("\n".join(texts.description(getattr(module, entry.function).__doc__))))
    others = [f"`{alias}`" for alias, meant in ALIASES.items() if meant == verb]
    if others:
        lines += ["", f"Also: {', '.join(others)}."]
    if entry.positionals:
        rows = [(f"`{name.upper()}`", prose(text)) for name, _, _, text, _ in entry.positionals]
        lines += ["", *table(("word", ""), rows)]
    if entry.options:
        lines += ["", *_options(entry.options)]
    return "\n".join(lines) + "\n"


def _options(options: tuple[tuple[object, ...], ...]) -> list[str]:
    return table(("option", ""), [(f"`{texts.flags(row)}`", prose(str(row[4]))) for row in options])
