"""Commands in texts about a machine that is not the one here: they name it.

    named("`qvm stop` first", "/vm/web", None, os.environ)     # "`qvm stop web` first"
    named("`qvm config VM_SERIAL=yes` adds one", ...)          # "`qvm -M web config VM_SERIAL=yes` adds one"

The code below the door writes them as they are typed in the machine's directory. Typed elsewhere they would
be about another machine, or about none.
"""

from __future__ import annotations

import contextlib
import os
import re

from qvmsh.cli.parse import Entry, bind, verb_of
from qvmsh.config.words import quote, split, typed
from qvmsh.errors import QvmError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CALL = re.compile(r"`qvm (?P<words>[a-z][^`]*)`")
"""A command in a text that names no machine by an option in front of its verb."""


def named(text: str, directory: str, here: str | None, environ: Mapping[str, str]) -> str:
    """The text, in which commands for the machine in `directory` name it.

    Args:
        here: the directory of the machine that commands are about without a name, None for none.
    """
    if here is not None and os.path.realpath(here) == os.path.realpath(directory):
        return text
    word, option = _names(directory, environ)

    def call(match: re.Match[str]) -> str:
        words = match["words"]
        how = _form(words)
        return {"word": f"`qvm {words} {word}`", "option": f"`qvm {option} {words}`"}.get(how, match[0])

    return CALL.sub(call, text)


def here(environ: Mapping[str, str]) -> str | None:
    """The directory of the machine that a command is about without a name; None for none."""
    from qvmsh.config import locate

    try:
        return locate.find(None, environ, os.getcwd())
    except (OSError, QvmError):
        return None


def _form(words: str) -> str:
    """How a command names its machine: by a `word` behind it, by an `option`, or "": it needs none."""
    try:
        parts = split(words)
    except ValueError:
        return ""
    found = verb_of(parts)
    if found is None or Entry(found[0]).machine == "none":
        return ""
    verb, count = found
    entry = Entry(verb)
    try:
        bound = bind(verb, parts[count:])
    except UsageError:  # `--keep N`
        return "option"
    if bound.common.get("directory") or bound.common.get("machine"):
        return ""
    if entry.words == "machines":
        return "" if bound.words or bound.common.keys() & {"all", "label"} else "word"
    return "" if entry.words == "first" and len(bound.words) > len(entry.positionals) else "option"


def _names(directory: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The machine as a word, and as an option: by its name, if that means no other one.

    What root has started as the machine's owner goes by the directory: root's own list may differ.
    """
    from qvmsh.machine import registry

    place = os.path.realpath(directory)
    for row in registry.rows(environ) if registry.news < 0 else ():
        if os.path.realpath(row.directory) != place:
            continue
        with contextlib.suppress(UsageError):
            if os.path.realpath(registry.find(row.name, environ)) == place:
                name = quote(row.name)
                is_word = os.path.realpath(registry.resolve(row.name, environ)) == place
                return name if is_word else typed(directory), f"-M {name}"
    return typed(directory), f"-C {typed(directory)}"
