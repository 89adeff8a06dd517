"""The settings that name files, and a `.vmrc` that means the same files from another place.

    named(vm)                                     # [("VM_DISKS", "data.qcow2"), ("VM_CDROM", "/isos/a.iso")]
    relocatable(vm, Shift("/vm/web", "/big/web"), text, "move")
    for_copy(vm, text, "/big/.twin.part", "/big/twin", "clone")

In a `.vmrc` that names the machine's own directory by its whole path, `$VM_HOME` takes the place of that: it
means the same before the directory is moved and after, so the file can be written at any time before.
"""

from __future__ import annotations

import os
import re

from qvmsh.config import edit, files, layers, shares
from qvmsh.config.evaluation import evaluate
from qvmsh.config.grammar import parse
from qvmsh.config.settings import ENVIRONMENT
from qvmsh.config.syntax import NAME_CHARS, Expansion
from qvmsh.errors import StateError
from qvmsh.machine.storage import supplies
from qvmsh.machine.storage.shift import INSIDE, OTHER, SAME, Shift
from qvmsh.qemu import drives as qemu_drives

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qvmsh.config.settings import Settings
    from qvmsh.config.syntax import Assignment, Part
    from qvmsh.machine.machine import BaseMachine

PATHS = ("VM_ARCHIVE", "VM_CDROM", "VM_ERRLOG", "VM_INITRD", "VM_KERNEL", "VM_LOG", "VM_SSH_IDENTITY")
"""The variables that are a path, seen from the machine's directory; VM_INCLUDE is seen from its file."""
WORDS = ("VM_QEMU_ARGS", "VM_QEMU_EXTRA")
"""The variables that are words for QEMU, whose `file=` are paths."""
PROGRAMS = ("VM_QEMU_BIN", "VM_QEMU_IMG", "VM_PRE_START", "VM_POST_STOP")
"""The variables whose first word may be such a path."""
OF_THE_GUEST = ("VM_APPEND",)
"""The variables whose paths are not the host's."""
HOME = "VM_HOME"
_BEFORE, _AFTER = r"(?<![\w.~/+@%\-])", r"(?![\w.~+@%\-])"
"""What is not beside a path: it would be part of a longer one."""


def named(vm: BaseMachine) -> list[tuple[str, str]]:
    """Variable and path, as it is written, of each file that the settings name, but for VM_INCLUDE."""
    settings = vm.settings
    found = [(name, settings.text(name)) for name in PATHS]
    found += [(name, word) for name in PROGRAMS for word in settings.words(name)[:1] if "/" in word]
    found += [("VM_DISKS", each.name) for each in supplies.additional_disks(vm)]
    found += [("VM_SHARE", each.path) for each in shares.parse_all(settings.text("VM_SHARE"))]
    for variable in WORDS:
        found += [(variable, each.file) for each in qemu_drives.drives(settings.words(variable))]
    return [(name, path) for name, path in found if path and "://" not in path]


def relocatable(vm: BaseMachine, shift: Shift, text: str, verb: str) -> str:
    """The `.vmrc` so that it means the same files here and where the directory will be.

    Args:
        text: the `.vmrc` that counts; perhaps not the one on the disk.
        verb: for the errors: `move`.

    Raises:
        StateError: a setting would mean another file there, and cannot be rewritten.
    """
    if shift.is_still:
        return text
    vm = vm.as_written()
    spelled = _spelled(vm.with_vmrc(text), shift, verb)
    before = layers.load(vm.directory, vm.environ, text=text)
    text = _literal(text, spelled)
    for _ in range(len(before.names()) + 1):
        wrong = _different(
            before, layers.load(vm.directory, vm.environ, text=text, place=shift.target), spelled
        )
        if wrong is None:
            return text
        name, settings = wrong
        frozen = _frozen(text, name, settings, vm, spelled)
        if frozen in (None, text):
            raise _refusal(vm, verb, name, settings.origin(name).place[0], before[name])
        text = frozen or text
    raise StateError(f"cannot {verb}: the paths in .vmrc cannot be rewritten", machine=vm.name)


def for_copy(vm: BaseMachine, text: str, part: str, target: str, verb: str) -> str:
    """The `.vmrc` of a copy: it means the copy's files where it meant the machine's, and the same others.

    Args:
        text: the machine's `.vmrc`.
        part: where the copy is made.
        target: where it will be.

    Raises:
        StateError: a setting would mean another file there, and cannot be rewritten.
    """
    shift = Shift(vm.directory, target)
    if shift.is_still:
        return text
    vm = vm.as_written()
    for name, ways in _leading_out(vm.with_vmrc(text), shift, Shift(vm.directory, part)).items():
        text = _replaced(vm, text, name, ways)
    return relocatable(vm, shift, text, verb)


def _leading_out(vm: BaseMachine, *shifts: Shift) -> dict[str, dict[str, str]]:
    """The relative paths that would mean other files from new places, and the whole ones, by variable."""
    found: dict[str, dict[str, str]] = {}
    rows = [(name, text, vm.directory) for name, text in named(vm)]
    own = vm.files.vmrc
    rows += [("VM_INCLUDE", text, vm.directory) for file, text in _includes(vm.settings) if file == own]
    for name, text, folder in rows:
        path = os.path.normpath(os.path.join(folder, text))
        if text.startswith(("/", "~")):
            continue
        if any(shift.verdict(folder, text) == OTHER for shift in shifts):
            found.setdefault(name, {})[text] = path
    return found


def _replaced(vm: BaseMachine, text: str, name: str, ways: dict[str, str]) -> str:
    """`text` with other paths in the value of a variable."""
    either = "|".join(map(re.escape, sorted(ways, key=len, reverse=True)))
    pattern = re.compile(f"{_BEFORE}(?:{either}){_AFTER}")
    changed = text
    for row in reversed(parse(text, files.VMRC).assignments):
        if row.name == name:
            changed = _with(changed, row, _joined(row.parts), pattern, lambda m: ways[m[0]]) or changed
    if name == "VM_INCLUDE":
        return changed
    wanted = pattern.sub(lambda m: ways[m[0]], vm.with_vmrc(text).settings[name])
    return changed if vm.with_vmrc(changed).settings[name] == wanted else edit.assign(text, name, wanted)


def between(text: str, source: str, target: str) -> str:
    """A setting's value, with another path for the machine's directory."""
    return re.sub(f"{_BEFORE}{re.escape(source)}{_AFTER}", lambda _: target, text)


class _Spelled:
    """The ways in which the directory's path is written in the settings.

    Args:
        shift: the directory, and where it will be.
    """

    def __init__(self, shift: Shift) -> None:
        self._own = {shift.source, shift.real}
        self._more: dict[str, set[str]] = {}
        self.target = shift.target

    def add(self, name: str, text: str) -> None:
        """One more way, in one variable."""
        self._more.setdefault(name, set()).add(text)

    def lacks(self, name: str, text: str) -> bool:
        """True if a path needs one more way: it has none yet, or leads out of the directory and back."""
        return os.pardir in text.split("/") or not self.pattern(name).search(text)

    def pattern(self, name: str) -> re.Pattern[str]:
        """What is replaced in the value of a variable."""
        if name in OF_THE_GUEST:
            return re.compile(r"(?!)")
        ways = sorted(self._own | self._more.get(name, set()), key=len, reverse=True)
        return re.compile(f"{_BEFORE}(?:{'|'.join(map(re.escape, ways))}){_AFTER}")


def _spelled(vm: BaseMachine, shift: Shift, verb: str) -> _Spelled:
    """How the settings name the directory.

    StateError: one of them would mean another file from the new place.
    """
    found, settings = _Spelled(shift), vm.settings
    for name, text in named(vm):
        path = settings.located(text) if text.startswith("~") else text
        verdict = shift.verdict(vm.directory, path)
        if verdict == OTHER:
            raise other_file(vm, verb, name, text, os.path.join(vm.directory, path))
        if verdict == INSIDE and found.lacks(name, text):
            found.add(name, _prefix(vm, verb, name, text, shift))
    for file, text in _includes(settings):
        path = settings.located(text) if text.startswith("~") else text
        folder = os.path.dirname(file)
        verdict = SAME if shift.inside(file) is None else shift.verdict(folder, path)
        if verdict == OTHER:
            raise other_file(vm, verb, "VM_INCLUDE", text, os.path.join(folder, path))
        if verdict == INSIDE and file != vm.files.vmrc:
            raise _refusal(vm, verb, "VM_INCLUDE", file, text)
        if verdict == INSIDE and found.lacks("VM_INCLUDE", text):
            found.add("VM_INCLUDE", _prefix(vm, verb, "VM_INCLUDE", text, shift))
    return found


def other_file(vm: BaseMachine, verb: str, name: str, text: str, path: str) -> StateError:
    """The error for a path that would mean another file from the new place.

    Args:
        name: what names it.
        text: as it is written.
        path: the file that it means, absolute.
    """
    return StateError(
        f"cannot {verb}: {name} names {text}, which would be another file there", machine=vm.name,
        hint=f"name it by its whole path first: {os.path.realpath(path)}",
    )  # fmt: skip


def _refusal(vm: BaseMachine, verb: str, name: str, file: str, text: str) -> StateError:
    shown = " ".join(text.split())
    return StateError(
        f"cannot {verb}: {name} of {file} names a file in the machine's directory by its whole path: {shown}",
        machine=vm.name, hint=f"write ${HOME} instead of {vm.directory} there first",
    )  # fmt: skip


def _prefix(vm: BaseMachine, verb: str, name: str, text: str, shift: Shift) -> str:
    """The beginning of a path that is the directory itself, in another spelling.

    StateError: there is none; a link leads there.
    """
    parts = text.split("/")
    for count in range(len(parts), 0, -1):
        prefix = "/".join(parts[:count])
        if prefix and os.path.realpath(vm.settings.located(prefix)) == shift.real:
            return prefix
    raise _refusal(vm, verb, name, ".vmrc", text)


def _includes(settings: Settings) -> Iterator[tuple[str, str]]:
    """File and value of each VM_INCLUDE in the machine's own files."""
    for source in settings.sources:
        found: list[str] = []

        def assigned(name: str, value: str, _line: int, _column: int, found: list[str] = found) -> None:
            if name == "VM_INCLUDE" and value:
                found.append(value)

        values = {name: settings[name] for name in settings} | {HOME: settings.directory}
        evaluate(parse(source.text, source.path), values | {"PWD": settings.directory}, assigned=assigned)
        yield from ((source.path, value) for value in found)


# Writing


def _literal(text: str, spelled: _Spelled) -> str:
    """`text` with `$VM_HOME` in each assignment that has the directory's path literally."""
    for row in reversed(parse(text, files.VMRC).assignments):
        pattern = spelled.pattern(row.name)
        parts = _joined(row.parts)
        if any(isinstance(part, str) and pattern.search(part) for part in parts):
            text = _with(text, row, parts, pattern) or text
    return text


def _joined(parts: list[Part]) -> list[Part]:
    """The parts of a value, with one text where several are beside each other."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


def _with(
    text: str,
    row: Assignment,
    parts: list[Part],
    pattern: re.Pattern[str],
    new: Callable[[re.Match[str]], str] | None = None,
) -> str | None:
    """`text` with another value of an assignment, in double quotes; None if it cannot be written so.

    Args:
        new: what takes the place of a match; `$VM_HOME` by default.
    """
    value = ""
    for part in parts:
        if isinstance(part, str):
            at = 0
            for match in pattern.finditer(part):
                value += _quoted(part[at : match.start()])
                value += _home(match) if new is None else _quoted(new(match))
                at = match.end()
            value += _quoted(part[at:])
        elif isinstance(part, Expansion) and not part.operator:
            value += f"${{{part.name}}}"
        else:
            return None
    return f'{text[: row.start]}"{value}"{text[row.end :]}'


def _home(match: re.Match[str]) -> str:
    after = match.string[match.end() : match.end() + 1]
    return f"${{{HOME}}}" if after in NAME_CHARS and after else f"${HOME}"


def _quoted(text: str) -> str:
    """`text` inside of double quotes."""
    return re.sub(r'([\\"$`])', r"\\\1", text)


def _different(before: Settings, after: Settings, spelled: _Spelled) -> tuple[str, Settings] | None:
    """A variable whose value would not be what it is now, but for the directory; None if there is none."""
    for name in before.names():
        if before.origin(name).layer == ENVIRONMENT or name in OF_THE_GUEST:
            continue
        wanted = spelled.pattern(name).sub(lambda _: spelled.target, before[name])
        if name not in after or after[name] != wanted:
            return name, before
    return None


def _frozen(text: str, name: str, settings: Settings, vm: BaseMachine, spelled: _Spelled) -> str | None:
    """`text` with a variable's value instead of what that is made of; None if it is set in another file."""
    origin = settings.origin(name)
    if origin.file != vm.files.vmrc:
        return None
    rows = [row for row in parse(text, files.VMRC).assignments if row.name == name]
    return _with(text, rows[-1], [settings[name]], spelled.pattern(name)) if rows else None
