"""A word of a session as a process of its own, in a pipe or in the background.

    python -m qvmsh.shell.session.word_main DIR [NAME=VALUE ...] -- WORDS

It is about the session's machine, with its settings, unless the words name another one.
"""

from __future__ import annotations

import sys

from qvmsh.cli import parse
from qvmsh.errors import UsageError


def names_machine(words: list[str]) -> bool:
    """True if the command line says itself which machine it is about."""
    try:
        common, rest = parse.common(words)
        found = parse.verb_of(rest)
        if found is None:
            return False
        bound = parse.bind(found[0], rest[found[1] :])
    except UsageError:  # the command reports it
        return False
    common |= bound.common
    entry = bound.entry
    if any(common.get(name) for name in ("directory", "machine", "label", "all")):
        return True
    if entry.verb == "export":
        return len(bound.words) > 1 or not all(".tar" in word or word == "-" for word in bound.words)
    if entry.words == "first":
        return len(bound.words) > len(entry.positionals)
    return entry.words == "machines" and bool(bound.words)


def main() -> None:
    """Run the words as `qvm` would, for that machine."""
    at = sys.argv.index("--")
    directory, *values = sys.argv[1:at]
    words = sys.argv[at + 1 :]
    options = [] if names_machine(words) else ["-C", directory]
    if options:
        options += [word for value in values for word in ("--set", value)]
    sys.argv[1:] = [*options, *words]
    from qvmsh.cli.main import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
