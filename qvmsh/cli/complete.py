"""Completion: the possible endings of the last word of a command line. One engine for every shell.

complete(["start", "--lo"]).rows        # [("--loadvm", "resume from this saved state ...")]
complete(["-C", ""]).kind               # "dir": the shell completes folder names itself
"""

from __future__ import annotations

import os

from qvmsh.cli.parse import COMMON, Entry, shared, verb_of
from qvmsh.commands.index import ALIASES, COMMANDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.monitor_completion import Vocabulary

    Row = tuple[str, str]

FILES, FOLDERS = "file", "dir"


class Completions:
    """The completions of a word.

    Args:
        rows: the words, each with a description (or "").
        kind: `file` or `dir` if names of those fit as well; else "".
    """

    __slots__ = ("kind", "rows")

    def __init__(self, rows: Sequence[Row] = (), kind: str = "") -> None:
        self.rows = list(rows)
        self.kind = kind

    def starting(self, start: str) -> Completions:
        return Completions([row for row in self.rows if row[0].startswith(start)], self.kind)


class Surroundings:
    """The machine that a command line is about, opened only if a word needs it.

    Args:
        here: finds it if the words name none; None = there is none.
    """

    def __init__(
        self, environ: Mapping[str, str] = os.environ, here: Callable[[], BaseMachine | None] | None = None
    ) -> None:
        self.environ = environ
        self._here = here

    def machine(self, common: Mapping[str, str]) -> BaseMachine | None:
        from qvmsh.config import locate
        from qvmsh.errors import QvmError
        from qvmsh.machine import registry
        from qvmsh.machine.machine import BaseMachine

        try:
            directory = common.get("directory")
            if "machine" in common:
                directory = registry.find(common["machine"], self.environ)
            if directory is None and self._here is not None:
                return self._here()
            return BaseMachine(locate.find(directory, self.environ, os.getcwd()), environ=self.environ)
        except (OSError, QvmError):
            return None

    def vocabulary(self, vm: BaseMachine) -> Vocabulary | None:
        from qvmsh.machine.terminal import completion

        return completion.of(vm)


def complete(words: Sequence[str], surroundings: Surroundings | None = None) -> Completions:
    """The completions of the last of `words` (everything after `qvm`); none if it is unknown."""
    from qvmsh.errors import QvmError, printable

    surroundings = surroundings or Surroundings()
    try:
        found = _Line(surroundings).complete(list(words[:-1]), words[-1] if words else "")
    except (OSError, QvmError, KeyError, ValueError):  # a machine that does not answer has no completions
        return Completions()
    # names of snapshots and machines come from untrusted images and folders
    rows = [(word, printable(text)) for word, text in found.rows if word.isprintable()]
    return Completions(rows, found.kind)


class _Line:
    """One command line and the options that its words have set so far."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings
        self.common: dict[str, str] = {}

    def complete(self, before: list[str], last: str) -> Completions:
        rows = {flag: row for row in COMMON for flag in row[2]}
        rest, waiting, _ = self._options(before, rows, has_rest=True)
        if waiting is not None:
            return self._value(waiting, last)
        if not rest:
            if last.startswith("-"):
                return self._flags(COMMON, (), last)
            found = _verbs((), last)
            return Completions(found, FILES if "/" in last else "")
        verb = verb_of(rest)
        if verb is None:
            return Completions(_verbs(rest, last))
        entry, words = Entry(verb[0]), rest[verb[1] :]
        if (
            not words
            and not last.startswith("-")
            and any(name.startswith(f"{verb[0]} ") for name in COMMANDS)
        ):
            also = self._word(entry, [], last)
            return Completions([*_verbs(rest, last), *also.rows], also.kind)
        return self._after_verb(entry, words, last)

    def _after_verb(self, entry: Entry, before: list[str], last: str) -> Completions:
        rows = {flag: row for row in (*shared(entry), *entry.options) for flag in row[2]}
        has_rest = entry.words in ("rest", "qemu")
        words, waiting, given = self._options(before, rows, has_rest=has_rest)
        if waiting is not None:
            return self._value(waiting, last)
        is_ended = "--" in before or (has_rest and bool(words))
        if last.startswith("-") and not is_ended:
            flag, mark, value = last.partition("=")
            if mark and flag in rows and rows[flag][3]:
                found = self._value(rows[flag], value)
                return Completions([(f"{flag}={word}", text) for word, text in found.rows], found.kind)
            return self._flags((*entry.options, *shared(entry)), given, last)
        return self._word(entry, words, last)

    def _options(
        self, words: list[str], rows: dict[str, tuple[Any, ...]], *, has_rest: bool
    ) -> tuple[list[str], tuple[Any, ...] | None, set[str]]:
        """Other words than options; the option that waits for its value; the parameters given."""
        rest: list[str] = []
        given: set[str] = set()
        words = list(words)
        while words:
            word = words.pop(0)
            if word == "--":
                return rest + words, None, given
            if not word.startswith("-") or word == "-":
                rest.append(word)
                if has_rest:
                    return rest + words, None, given
                continue
            flag, mark, value = word.partition("=")
            row = rows.get(flag)
            if row is None:
                continue
            given.add(row[0])
            if row[3]:
                if not mark:
                    if not words:
                        return rest, row, given
                    value = words.pop(0)
                if row in COMMON:
                    self.common[row[0]] = value
        return rest, None, given

    def _flags(
        self, rows: Sequence[tuple[Any, ...]], given: set[str] | tuple[str, ...], last: str
    ) -> Completions:
        """Options that may still be given: one flag each, the long one unless a short one was started."""
        excluded = {other for row in rows if row[0] in given for other in row[7]}
        excluded |= {row[0] for row in rows if set(row[7]) & set(given)}
        found: list[Row] = []
        taken: set[str] = set()
        for row in rows:
            flags = [flag for flag in row[2] if flag not in taken]
            taken.update(flags)
            if row[0] in excluded or (row[0] in given and row[1] != "list"):
                continue
            own = next((flag for flag in flags if flag.startswith("--")), flags[0] if flags else "")
            starts = [flag for flag in flags if flag.startswith(last)]
            if starts:
                found.append((own if own in starts else starts[0], row[4]))
        return Completions(found)

    def _value(self, row: tuple[Any, ...], last: str) -> Completions:
        """The value of an option."""
        if row[5]:
            return Completions([(choice, "") for choice in row[5]]).starting(last)
        return self._of_kind(row[6], last)

    def _word(self, entry: Entry, before: list[str], last: str) -> Completions:
        """A word that is not an option."""
        if entry.words == "machines":
            return self._of_kind("machine", last)
        if not entry.positionals:
            return Completions()
        if entry.words == "first" and not before:
            return self._of_kind("machine", last)
        before = before[1:] if entry.words == "first" and len(before) > len(entry.positionals) - 1 else before
        positional = entry.positionals[min(len(before), len(entry.positionals) - 1)]
        if len(before) >= len(entry.positionals) and not positional[2]:
            return Completions()
        kind = positional[4]
        if isinstance(kind, tuple):
            return Completions([(choice, "") for choice in kind]).starting(last)
        if kind in ("hmp", "qmp"):
            return self._of_monitor(kind, [*before, last])
        if kind == "script" and before:
            return Completions(kind=FILES)
        if kind == "agent":
            return Completions() if before else Completions(self._of_agent()).starting(last)
        return self._of_kind(kind, last)

    def _of_monitor(self, kind: str, words: list[str]) -> Completions:
        vm = self.surroundings.machine(self.common)
        vocabulary = self.surroundings.vocabulary(vm) if vm is not None else None
        if vocabulary is None:
            return Completions()
        found = vocabulary.human(words) if kind == "hmp" else vocabulary.machine(words)
        return Completions(found, "" if found or kind == "qmp" else FILES if len(words) > 1 else "")

    def _of_agent(self) -> list[Row]:
        from qvmsh.machine.terminal import completion

        vm = self.surroundings.machine(self.common)
        return completion.agent_commands(vm) if vm is not None else []

    def _of_kind(self, kind: str | None, last: str) -> Completions:
        if kind in (FILES, "script"):
            return Completions(kind=FILES)
        if kind == FOLDERS:
            return Completions(kind=FOLDERS)
        if kind == "image":
            from qvmsh.images import builtin

            rows = [(name, "built in") for name in builtin.BUILTIN]
            return Completions(Completions(rows).starting(last).rows, FILES)
        if kind == "builtin":
            from qvmsh.images import builtin

            return Completions([(name, "built in") for name in builtin.BUILTIN]).starting(last)
        if kind == "machine":
            return Completions(
                self._machines(has_folders=True), FOLDERS if last[:1] in (".", "~") or "/" in last else ""
            ).starting(last)
        if kind == "known":
            return Completions(self._machines(has_folders=False)).starting(last)
        if kind in ("variable", "assignment"):
            return self._variables(last, is_set=kind == "assignment")
        if kind == "label":
            return Completions(self._labels()).starting(last)
        if kind == "deleted":
            from qvmsh.machine.shelf import trash

            gone = trash.entries(self.surroundings.environ)
            return Completions([(each.name, each.directory) for each in gone]).starting(last)
        if kind == "disk":
            from qvmsh.machine.storage import volumes

            vm = self.surroundings.machine(self.common)
            found = volumes.configured(vm) if vm else ()
            return Completions([(each.id, each.name) for each in found]).starting(last)
        if kind == "archive":
            return Completions(self._archives(), FOLDERS).starting(last)
        if kind == "snapshot":
            from qvmsh.machine.terminal import completion

            vm = self.surroundings.machine(self.common)
            return Completions(completion.snapshots(vm) if vm else ()).starting(last)
        return Completions()

    def _machines(self, *, has_folders: bool) -> list[Row]:
        """The names of exactly one known machine, and the machines in the current folder."""
        from qvmsh.machine import registry

        named = registry.machines(self.surroundings.environ).items()
        found = {name: directories[0] for name, directories in named if len(directories) == 1}
        try:
            for each in os.scandir(".") if has_folders else ():
                if os.path.lexists(os.path.join(each.path, ".vmrc")):
                    found[each.name] = "in this folder"
        except OSError:
            pass
        return sorted(found.items())

    def _labels(self) -> list[Row]:
        """The labels of the known machines (VM_LABELS), with how many have each."""
        from qvmsh.machine import registry

        counts: dict[str, int] = {}
        for directory in registry.directories(self.surroundings.environ):
            for label in registry.labels(directory, self.surroundings.environ):
                counts[label] = counts.get(label, 0) + 1
        return [(label, f"{count} machines" if count > 1 else "") for label, count in sorted(counts.items())]

    def _archives(self) -> list[Row]:
        """The states of the machine's archives on this host, the newest first."""
        from qvmsh.machine.archive import maintenance

        vm = self.surroundings.machine(self.common)
        if vm is None or "://" in vm.settings.text("VM_ARCHIVE"):
            return []
        found = maintenance.index_of(vm).archives()
        states = [(f"{each.folder}/{point.stamp}", "") for each in found for point in each.done]
        return [("latest", "the newest state"), *reversed(states)] if states else []

    def _variables(self, last: str, *, is_set: bool) -> Completions:
        """Names of variables, with a `=` if `is_set`; after a `=`, their values."""
        from qvmsh.config.variables import VARIABLES

        name, mark, _ = last.partition("=")
        if mark:
            declared = VARIABLES.get(name)
            if declared is None:
                return Completions()
            choices = ("yes", "no") if declared.kind == "boolean" else declared.allowed
            found = [(f"{name}={choice}", "") for choice in choices]
            is_path = declared.kind in ("path", "program")
            return Completions(found, FILES if is_path else "").starting(last)
        end = "=" if is_set else ""
        rows = [(each.name + end, each.help) for each in VARIABLES.values() if not (is_set and each.computed)]
        return Completions(rows).starting(last)


def _verbs(before: Sequence[str], last: str) -> list[Row]:
    """Verbs that continue like this, or else other spellings; each word once."""
    head = "".join(f"{word} " for word in before)
    found: dict[str, str] = {}
    for verb, row in COMMANDS.items():
        if verb.startswith(head + last):
            word, mark, _ = verb[len(head) :].partition(" ")
            found.setdefault(word, row[7] if not mark else f"{word} ...")
    if not found and last:
        found = {alias[len(head) :]: verb for alias, verb in ALIASES.items() if alias.startswith(head + last)}
    return sorted(found.items())


def short(text: str, width: int = 70) -> str:
    """`text` shortened for a completion menu."""
    line = text.split("\n", 1)[0].replace("\t", " ")
    return line if len(line) <= width else line[: width - 3].rstrip() + "..."
