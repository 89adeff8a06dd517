"""The human monitor's commands as a running QEMU lists them: parsed, and completed.

    commands(human("help"))["savevm"].parameters       # ("tag",)
    Completions(human, ask).of("info sta")             # [Word("stats", ...), Word("status", ...)]

Source: QEMU hmp-commands.hx: a line `NAME|ALIAS ARGUMENTS -- HELP`, with continuation lines below it.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from qvmsh.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Ask = Callable[[str, dict[str, Any]], Any]


@dataclass(frozen=True)
class Command:
    """One command of the monitor.

    Args:
        name: as it is typed.
        flags: its options, each with its dash.
        parameters: the names of its positional arguments, without their brackets.
        usage: its arguments as QEMU shows them.
        help: one line.
    """

    name: str
    flags: tuple[str, ...]
    parameters: tuple[str, ...]
    usage: str
    help: str


@dataclass(frozen=True)
class Word:
    """One completion: the whole word, and what it means."""

    text: str
    meaning: str = ""


def commands(text: str, prefix: str = "") -> dict[str, Command]:
    """The commands in QEMU's answer to `help` (with `prefix` "info ": to `help info`)."""
    entries: list[str] = []
    for line in text.splitlines():
        if entries and (not line or line[0] in " \t[" or " -- " not in entries[-1]):
            entries[-1] += " " + line.strip()
        else:
            entries.append(line.strip())
    found = {}
    for entry in entries:
        head, mark, meaning = entry.partition("-- ")
        names, _, usage = head.strip().removeprefix(prefix).partition(" ")
        if not mark or not names:
            continue
        if usage.split(" ", 1)[0] == names:  # `getfd getfd name`
            usage = usage.partition(" ")[2]
        flags, parameters = _arguments(usage)
        for name in names.split("|"):
            found[name] = Command(name, flags, parameters, usage.strip(), _first(meaning))
    return found


def _first(meaning: str) -> str:
    text = " ".join(meaning.split())
    return text if len(text) <= 70 else text[:69] + "…"


def _arguments(usage: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    flags: list[str] = []
    parameters: list[str] = []
    for word in usage.replace("][", "] [").split():
        bare = word.strip("[]")
        if bare.startswith("-"):
            flags += bare.split("|")
        elif bare:
            parameters.append(bare)
    return tuple(flags), tuple(parameters)


class Completions:
    """How a line of the monitor can continue.

    Args:
        human: gives QEMU's answer to one line of HMP.
        ask: executes one QMP command.
    """

    def __init__(self, human: Callable[[str], str], ask: Ask) -> None:
        self._human = human
        self._ask = ask

    @functools.cached_property
    def commands(self) -> dict[str, Command]:
        return commands(self._human("help"))

    @functools.cached_property
    def infos(self) -> dict[str, Command]:
        """The subjects of `info`."""
        return commands(self._human("help info"), "info ")

    def of(self, line: str) -> list[Word]:
        """The words that the last word of `line` may become, in order."""
        words = line.split()
        last = "" if not words or line[-1].isspace() else words.pop()
        try:
            found = self._candidates(words, last)
        except (QmpError, OSError):  # QEMU does not know this command, or has gone
            return []
        kept = {word.text: word for word in found if word.text.startswith(last)}
        return [kept[text] for text in sorted(kept)]

    def _candidates(self, words: list[str], last: str) -> Iterable[Word]:
        if not words:
            return _described(self.commands)
        if words[0] in ("help", "?") and len(words) == 1:
            return _described(self.commands)
        if words[0] == "info" or words[:2] in (["help", "info"], ["?", "info"]):
            inner = words[words.index("info") + 1 :]
            if not inner:
                return _described(self.infos)
            return self._arguments(self.infos.get(inner[0]), inner[1:], last)
        return self._arguments(self.commands.get(words[0]), words[1:], last)

    def _arguments(self, command: Command | None, given: list[str], last: str) -> Iterable[Word]:
        if command is None:
            return []
        if last.startswith("-"):
            return [Word(flag) for flag in command.flags if flag not in given]
        at = sum(not word.startswith("-") for word in given)
        if at >= len(command.parameters):
            return []
        return self._values(command.name, command.parameters[at], last)

    def _values(self, command: str, parameter: str, last: str) -> Iterable[Word]:
        """Values for one parameter; most are QEMU's own objects."""
        source = {
            ("device_add", "driver,prop=value,..."): self._drivers,
            ("device_del", "device"): lambda: self._children("/machine/peripheral"),
            ("object_del", "id"): lambda: self._children("/objects"),
            ("netdev_del", "id"): lambda: self._network("netdev"),
            ("set_link", "name"): lambda: [*self._network("netdev"), *self._network("nic")],
            ("migrate_set_capability", "capability"): self._capabilities,
            ("migrate_set_parameter", "parameter"): lambda: map(
                Word, self._ask("query-migrate-parameters", {})
            ),
            ("cpu", "index"): self._processors,
        }.get((command, parameter))
        if source:
            return source()
        if command.startswith("chardev-") and parameter == "id":
            return self._chardevs()
        if command == "device_add" and parameter.startswith("driver"):
            return self._drivers()
        if parameter in ("device", "device|all"):
            return self._disks()
        if parameter == "tag":
            return self._snapshots()
        if parameter == "keys":
            return self._keys(last)
        if parameter == "path" and command.startswith("qom"):
            return self._tree(last)
        if parameter in ("filename", "file", "target", "new-image-file"):
            return _files(last)
        if "|" in parameter and parameter.replace("|", "").replace("-", "").isalnum():
            return map(Word, parameter.split("|"))
        return []

    def _disks(self) -> Iterable[Word]:
        for each in self._ask("query-block", {}):
            inserted = each.get("inserted") or {}
            name = each["device"] or inserted.get("node-name") or each.get("qdev", "")
            if name:
                yield Word(name, inserted.get("file", "empty"))

    def _snapshots(self) -> Iterable[Word]:
        for each in self._ask("query-block", {}):
            for saved in each.get("inserted", {}).get("image", {}).get("snapshots", ()):
                yield Word(saved["name"], "snapshot")

    def _chardevs(self) -> Iterable[Word]:
        return [Word(each["label"], each["filename"]) for each in self._ask("query-chardev", {})]

    def _children(self, path: str) -> Iterable[Word]:
        found = self._ask("qom-list", {"path": path})
        return [Word(each["name"], each["type"]) for each in found if each["type"].startswith("child<")]

    def _network(self, kind: str) -> Iterable[Word]:
        """The names in `info network`: cards at the margin, what they lead to behind `\\`."""
        for line in self._human("info network").splitlines():
            name, mark, what = line.strip().lstrip("\\ ").partition(": ")
            is_netdev = line.lstrip().startswith("\\") or "type=nic" not in what
            if mark and is_netdev == (kind == "netdev"):
                yield Word(name, what.partition(",model")[0])

    def _drivers(self) -> Iterable[Word]:
        found = self._ask("qom-list-types", {"implements": "device", "abstract": False})
        return [Word(each["name"], each.get("parent", "")) for each in found]

    def _capabilities(self) -> Iterable[Word]:
        return [Word(each["capability"]) for each in self._ask("query-migrate-capabilities", {})]

    def _processors(self) -> Iterable[Word]:
        return [Word(str(each["cpu-index"])) for each in self._ask("query-cpus-fast", {})]

    def _keys(self, last: str) -> Iterable[Word]:
        """Keys of `sendkey`, the last one of a combination."""
        head = last.rpartition("-")[0]
        names = _key_names(self._ask("query-qmp-schema", {}))
        return [Word(f"{head}-{name}" if head else name) for name in names]

    def _tree(self, last: str) -> Iterable[Word]:
        folder = last.rpartition("/")[0]
        found = self._ask("qom-list", {"path": folder or "/"})
        return [
            Word(f"{folder}/{each['name']}", each["type"])
            for each in found
            if each["type"].startswith(("child<", "link<"))
        ]


def _described(known: dict[str, Command]) -> Iterable[Word]:
    return [Word(each.name, f"{each.usage}  {each.help}".strip()) for each in known.values()]


def _files(last: str) -> Iterable[Word]:
    folder = os.path.dirname(last)
    try:
        entries = list(os.scandir(folder or "."))
    except OSError:
        return []
    return [Word(os.path.join(folder, each.name) + ("/" if each.is_dir() else "")) for each in entries]


def _key_names(schema: list[dict[str, Any]]) -> list[str]:
    """QEMU's names of keys: the one enumeration that has `ctrl` and `f1`."""
    for each in schema:
        values = each.get("values", ())
        if each["meta-type"] == "enum" and "ctrl" in values and "f1" in values:
            return list(values)
    return []
