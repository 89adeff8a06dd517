"""From words to a call: the one argument parser, driven by the index of commands.

bind("start", ["--no-wait", "demo"]).options       # {'wait': False}
"""

from __future__ import annotations

from qvmsh.commands.index import ALIASES, COMMANDS
from qvmsh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

COMMON = (
    ("directory", "text", ("-C",), "DIR", "the machine in DIR, as after `cd DIR`", (), "dir", (), None),
    ("machine", "text", ("-M",), "NAME", "the machine that `qvm list` shows as NAME", (), "known", (), None),
    (
        "set", "list", ("--set",), "NAME=VALUE",
        "set a variable for this command only; overrides every file", (), "assignment", (), (),
    ),
    ("json", "yes", ("--json",), "", "print the result as JSON", (), None, (), False),
    ("verbose", "yes", ("-v", "--verbose"), "", "print what is being done", (), None, (), False),
    ("silent", "yes", ("-q", "--quiet"), "", "print only errors and results", (), None, (), False),
    ("debug", "yes", ("--debug",), "", "print tracebacks, programs run, the wire log", (), None, (), False),
    ("help", "yes", ("-h", "--help"), "", "show this help", (), None, (), False),
)  # fmt: skip
"""The options that every command takes, in the form of the index."""

MACHINES = (
    (
        "label", "list", ("--label",), "LABEL",
        "the known machines with this label (VM_LABELS); several labels must all match",
        (), "label", (), (),
    ),
    (
        "all", "yes", ("--all",), "",
        "every known machine that the command has something to do for (`stop`: those that run)",
        (), None, (), False,
    ),
    (
        "parallel", "integer", ("--parallel",), "N",
        "work on at most N machines at a time (default: as many as the host has processors, at least 4)",
        (), None, (), None,
    ),
)  # fmt: skip
"""The options of the commands that take several machines."""


class Entry:
    """One command of the index, with names instead of positions."""

    __slots__ = (
        "function", "group", "machine", "module", "options", "positionals", "summary", "takes_io", "terminal",
        "verb", "words",
    )  # fmt: skip

    def __init__(self, verb: str) -> None:
        self.verb = verb
        row: tuple[Any, ...] = COMMANDS[verb]
        self.module: str
        self.function: str
        self.words: str
        self.machine: str
        (self.module, self.function, self.group, self.words, self.terminal) = row[:5]
        (self.machine, self.takes_io, self.summary, self.options, self.positionals) = row[5:]


class Bound:
    """A parsed command line: options and words for the function, and the common options."""

    __slots__ = ("common", "entry", "options", "words")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.options: dict[str, Any] = {}
        self.common: dict[str, Any] = {}
        self.words: list[str] = []


def verb_of(words: Sequence[str]) -> tuple[str, int] | None:
    """The verb that `words` begin with and how many words it has; None if there is none."""
    for count in (2, 1):
        name = " ".join(words[:count])
        name = ALIASES.get(name, name)
        if len(words) >= count and name in COMMANDS:
            return name, count
    return None


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is probably a misspelling of."""
    import difflib

    bare = {each.lstrip("-"): each for each in known}  # common dashes do not count
    near = difflib.get_close_matches(word.lstrip("-"), list(bare), 1, 0.6)
    return bare[near[0]] if near else None


RANGED = ("session list", "session save")
"""Commands whose words may be `-7`: up to that line."""


def bind(verb: str, words: Sequence[str]) -> Bound:
    """Bind the words after a verb.

    Raises:
        UsageError: an unknown option, a missing or wrong value, too many or too few words.
    """
    entry = Entry(verb)
    bound = Bound(entry)
    rows = (*entry.options, *shared(entry))
    flags: dict[str, tuple[Any, ...]] = {}
    for row in reversed(rows):  # a command's own flag wins over a common one
        flags.update(dict.fromkeys(row[2], row))
    bound.words = _options(verb, list(words), flags, bound, words_are=entry.words)
    _exclusive(verb, entry, bound)
    if not bound.common.get("help"):
        _count(entry, bound)
    return bound


def shared(entry: Entry) -> tuple[tuple[Any, ...], ...]:
    """The options that a command has besides its own."""
    return (*MACHINES, *COMMON) if entry.words == "machines" else COMMON


def common(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The common options before the verb, and the rest of the words."""
    flags = {flag: row for row in COMMON for flag in row[2]}
    holder = Bound.__new__(Bound)
    holder.options, holder.common = {}, {}
    rest = _options("", list(words), flags, holder, words_are="rest")
    return holder.common, rest


def _options(
    verb: str, words: list[str], flags: dict[str, tuple[Any, ...]], bound: Bound, *, words_are: str
) -> list[str]:
    """Take the options out of `words` and return the other words.

    For `rest` the first word ends the options. For `qemu` so does an option with one dash that is
    not one of qvm's: it is QEMU's (`qvm run -b -device e1000`).
    """
    rest: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return rest + words
        is_range = verb in RANGED and word[1:].isdecimal()
        if not word.startswith("-") or word == "-" or is_range:
            rest.append(word)
            if words_are in ("rest", "qemu"):
                return rest + words
        elif words_are == "qemu" and not word.startswith("--") and word not in flags:
            return [word, *words]
        elif word.startswith("--"):
            flag, mark, value = word.partition("=")
            row = _row(verb, flag, flags)
            _store(verb, row, flag, value if mark else None, words, bound)
            if row[1] == "last":
                return rest + words
        elif _short(verb, word, flags, words, bound):
            return rest + words
    return rest


def _short(verb: str, word: str, flags: dict[str, tuple[Any, ...]], words: list[str], bound: Bound) -> bool:
    """`-s`, several in one word (`-qs`), or one with its value (`-n5`); True if it ends the options."""
    for at in range(1, len(word)):
        flag = f"-{word[at]}"
        row = _row(verb, flag, flags)
        if row[1] not in ("yes", "no"):
            _store(verb, row, flag, word[at + 1 :] or None, words, bound)
            return bool(row[1] == "last")
        _store(verb, row, flag, None, words, bound)
    return False


def _row(verb: str, flag: str, flags: dict[str, tuple[Any, ...]]) -> tuple[Any, ...]:
    if flag in flags:
        return flags[flag]
    near = suggestion(flag, flags)
    hint = f"did you mean {near}?" if near else f"`qvm {verb} --help` lists the options".replace("  ", " ")
    raise UsageError(f"{verb}: unknown option {flag}" if verb else f"unknown option {flag}", hint=hint)


def _store(
    verb: str, row: tuple[Any, ...], flag: str, value: str | None, words: list[str], bound: Bound
) -> None:
    name, kind, metavar, choices = row[0], row[1], row[3], row[5]
    target = bound.common if row in COMMON or row in MACHINES else bound.options
    where = f"{verb}: {flag}" if verb else flag
    if kind in ("yes", "no"):
        if value is not None:
            raise UsageError(f"{where} takes no value")
        target[name] = kind == "yes"
        return
    if value is None:
        if not words:
            hint = f"`qvm {verb} --help` explains it".replace("  ", " ")
            raise UsageError(f"{where} needs a value: {flag} {metavar}", hint=hint)
        value = words.pop(0)
    if choices and value not in choices:
        raise UsageError(f"{where} {value}: must be one of {', '.join(choices)}")
    if kind == "list":
        target[name] = (*target.get(name, ()), value)
    else:
        target[name] = _number(verb, flag, kind, value) if kind in ("integer", "number") else value


def _number(verb: str, flag: str, kind: str, value: str) -> int | float:
    try:
        number = int(value) if kind == "integer" else float(value)
    except ValueError:
        what = "a whole number" if kind == "integer" else "a number"
        raise UsageError(f"{verb}: {flag} {value}: must be {what}") from None
    if number != number or abs(number) == float("inf"):
        raise UsageError(f"{verb}: {flag} {value}: must be finite")
    if number < 0:
        raise UsageError(f"{verb}: {flag} {value}: must not be negative")
    return number


def _exclusive(verb: str, entry: Entry, bound: Bound) -> None:
    for row in entry.options:
        for other in row[7]:
            if bound.options.get(row[0]) and bound.options.get(other):
                raise UsageError(
                    f"{verb}: --{row[0].replace('_', '-')} and --{other.replace('_', '-')} exclude each other"
                )


def _count(entry: Entry, bound: Bound) -> None:
    """The words of a command must be as many as its function takes."""
    if entry.words == "machines":
        return
    required = [row[0] for row in entry.positionals if row[1]]
    takes_rest = any(row[2] for row in entry.positionals)
    if len(bound.words) < len(required):
        missing = required[len(bound.words)].upper()
        raise UsageError(
            f"{entry.verb}: {missing} is missing", hint=f"`qvm {entry.verb} --help` shows the usage"
        )
    most = len(entry.positionals) + (entry.words == "first")
    if not takes_rest and len(bound.words) > most:
        extra = bound.words[most]
        hint = f"`qvm {entry.verb} --help` shows the usage"
        if entry.machine != "none" and not {"directory", "machine"} & bound.common.keys():
            from qvmsh.cli import machine_words

            hint = machine_words.instead(entry.verb, bound.words, extra) or hint
        raise UsageError(f"{entry.verb}: unexpected argument {extra!r}", hint=hint)


def require_one_machine(bound: Bound) -> None:
    """Refuse two machines at once, and an empty name: a wrong guess could kill the wrong one.

    Raises:
        UsageError: the machine is ambiguous.
    """
    common, verb = bound.common, bound.entry.verb
    for name, flag in (("directory", "-C"), ("machine", "-M")):
        if common.get(name) == "":
            raise UsageError(f"{verb}: {flag} is empty: which machine?")
        if common.get(name) is not None and bound.entry.words == "machines" and bound.words:
            raise UsageError(
                f"{verb}: which machine: {flag} {common[name]}, or {' '.join(bound.words)}?",
                hint=f"leave out {flag} or the words",
            )
    named = " ".join(bound.words) or common.get("directory") or common.get("machine")
    _require_one_selection(bound, named)
    if common.get("directory") is not None and common.get("machine") is not None:
        raise UsageError(f"{verb}: -C and -M exclude each other")


def _require_one_selection(bound: Bound, named: str | None) -> None:
    """Refuse two of: names, `--label`, `--all`."""
    labels = bound.common.get("label")
    given = {
        f"{named}": named is not None and named != "",
        f"those labelled {' '.join(labels or ())}": labels,
        "all": bound.common.get("all"),
    }
    found = [text for text, is_given in given.items() if is_given]
    if len(found) > 1 and bound.entry.words == "machines":
        hint = "leave out --all or the rest" if bound.common.get("all") else "leave out --label or the name"
        raise UsageError(f"{bound.entry.verb}: which machines: {', or '.join(found)}?", hint=hint)
    if bound.common.get("parallel") == 0:
        raise UsageError(f"{bound.entry.verb}: --parallel 0: must be at least 1")
