"""The layers of the configuration, put together: later ones win.

    settings = load("/vm/demo", os.environ, [("VM_MACHINE_MEM", "2048")])
    settings.check()

built-in < environment (VM_ names) < /etc/qvm/vmrc (VM_GLOBAL_CONFIG) < the user's qvm/vmrc <
what VM_INCLUDE names, at its line < `.vmrc` < `--set`. The problems of all layers are collected.
"""

from __future__ import annotations

import os

from qvmsh.config import files
from qvmsh.config.evaluation import Budget, evaluate
from qvmsh.config.grammar import parse
from qvmsh.config.settings import CONTEXT_MARK, ENVIRONMENT, SET, Origin, Settings, checksum, default, marked
from qvmsh.config.syntax import Problem, is_name
from qvmsh.config.variables import VARIABLES, meant, shown
from qvmsh.config.words import quote
from qvmsh.errors import ConfigError

LISTS = frozenset(("words", "lines", "forwards", "disks", "arguments"))
"""Kinds of variables that hold several values."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qvmsh.host.files import Source

__all__ = ("Settings", "load", "missing", "shared_value")

MAX_FILES = 100
MAX_NESTED = 20


def load(
    directory: str,
    environ: Mapping[str, str],
    overrides: Sequence[tuple[str, str]] = (),
    *,
    text: str | None = None,
    place: str = "",
    distrusted: list[Source] | None = None,
) -> Settings:
    """Read the settings of the machine in `directory`.

    Args:
        directory: where the `.vmrc` is.
        environ: the environment's layer, and the values of `$HOME` and the like.
        overrides: name and value of each `--set`.
        text: content to use instead of that of `.vmrc`.
        place: where the directory will be, absolute: what `$VM_HOME` and `$PWD` mean then.
        distrusted: collects the files that root would refuse, instead of an error.

    Returns:
        The settings with all their problems; `Settings.check` refuses them.

    Raises:
        ConfigError: there is no `.vmrc`, it cannot be read, or root must not use it.
    """
    loader = _Loader(os.path.abspath(directory), environ, distrusted, place)
    loader.environment()
    loader.shared_file(files.global_file(environ), "global", bool(environ.get("VM_GLOBAL_CONFIG")))
    loader.shared_file(files.user_file(environ), "user", False)
    loader.vmrc(text)
    loader.overrides(overrides)
    loader.check()
    return loader.settings()


def missing(directory: str) -> ConfigError:
    """The error for a directory without `.vmrc`; one above is named in the hint."""
    above = os.path.dirname(directory)
    while True:
        if os.path.isfile(os.path.join(above, files.VMRC)):
            hint = f"there is one above: `qvm -C {above} ...`"
            break
        if above == os.path.dirname(above):
            hint = (
                "`cd` to a machine's directory, or name one: -M NAME, -C DIR; `qvm create NAME` creates one"
            )
            break
        above = os.path.dirname(above)
    if not os.path.isdir(directory):
        return ConfigError(f"there is no directory {directory}", hint=hint)
    return ConfigError(f"no .vmrc in {directory}", hint=hint)


def shared_value(path: str, name: str, environ: Mapping[str, str]) -> str:
    """The value of `name` in one shared file; "" if it has none or cannot be read."""
    try:
        source = files.read(path)
    except (FileNotFoundError, files.Unreadable):
        return ""
    values = dict(environ)
    found = ""

    def assigned(each: str, value: str, _line: int, _column: int) -> None:
        nonlocal found
        found = value if each == name else found

    evaluate(parse(source.text, path), values, assigned=assigned)
    return found


_NEEDED = {name for name, variable in VARIABLES.items() if variable.needed}
_PLACES = {name: at for at, name in enumerate(VARIABLES)}
_COMBINED = (
    "VM_QEMU_ARGS", "VM_MACHINE_ARCH", "VM_FIRMWARE", "VM_INITRD", "VM_APPEND", "VM_BOOT",
    "VM_GUEST_AGENT_METHOD", "VM_DISK_BUS", "VM_QEMU_BIN", "VM_READY",
)  # fmt: skip
"""A value of one of these is also checked together with others."""


_recent: tuple[dict[str, str], bool, dict[str, str], dict[str, str]] = ({}, False, {}, {})
"""The last environment and what it gave: many machines are read with one."""


def _inherited(environ: Mapping[str, str], is_elsewhere: bool) -> tuple[dict[str, str], dict[str, str]]:
    """What expansions see of the environment, and which of it are settings."""
    global _recent
    known = _recent
    if not (type(environ) is dict and known[1] is is_elsewhere and known[0] == environ):
        copy = dict(environ)
        values, settings, ours = dict(copy), {}, marked(copy)
        for name, value in copy.items():
            variable = VARIABLES.get(name)
            is_setting = name.startswith("VM_") and not (variable and variable.context)
            is_fixed = name == "VM_INCLUDE" or bool(variable and variable.computed)
            is_export = name in ours and checksum(value) == ours[name]
            if is_export or (is_setting and (is_elsewhere or is_fixed)):
                del values[name]
            elif is_setting and is_name(name):
                settings[name] = value
        known = _recent = (copy, is_elsewhere, values, settings)
    return dict(known[2]), dict(known[3])


class _Loader:
    def __init__(
        self, directory: str, environ: Mapping[str, str], distrusted: list[Source] | None, place: str = ""
    ) -> None:
        self.directory = directory
        self.place = place or directory
        self.environ = environ
        self.distrusted = distrusted
        self.values: dict[str, str] = {}  # for expansions
        self.origins: dict[str, Origin] = {}  # of the values that are settings
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.notes: list[Problem] = []
        self.inherited: dict[str, str] = {}
        self.budget = Budget()
        self.reading: list[tuple[str, int, int]] = []  # path, device and inode of the files in work
        self.count = 0
        self.sources: list[Source] = []  # the .vmrc and what it includes
        self.unaccepted = files.unaccepted(directory)  # of a package; None for other machines
        self.held: set[str] = set()

    # layers

    def environment(self) -> None:
        """The VM_ names of the environment, without what a qvm exported for this or another machine."""
        context = self.environ.get(CONTEXT_MARK, "")
        is_elsewhere = bool(context) and context != os.path.realpath(self.directory)
        self.values, self.inherited = _inherited(self.environ, is_elsewhere)
        for name in self.inherited:
            self.origins[name] = Origin(ENVIRONMENT)
        self.values["VM_HOME"] = self.values["PWD"] = self.place
        self.values["VM_CONFIG"] = f"{self.place}/{files.VMRC}"

    def shared_file(self, path: str, layer: str, is_named: bool) -> None:
        """A file for many machines; it must exist only if VM_GLOBAL_CONFIG names it."""
        try:
            source = files.read(path)
        except FileNotFoundError:
            if is_named:
                hint = "unset VM_GLOBAL_CONFIG, or correct it"
                self.problems.append(
                    Problem(path, 0, 0, "VM_GLOBAL_CONFIG names it, but it does not exist", hint)
                )
            return
        except files.Unreadable as error:
            self.problems.append(Problem(path, 0, 0, f"cannot be read: {error}"))
            return
        self._read(source, layer)

    def vmrc(self, text: str | None) -> None:
        path = f"{self.directory}/{files.VMRC}"
        try:
            source = files.read(path)
        except (FileNotFoundError, files.Unreadable) as error:
            if not os.path.lexists(path):
                raise missing(self.directory) from None
            why = "it is a broken link" if isinstance(error, FileNotFoundError) else str(error)
            hint = "a .vmrc is a text file with lines NAME=value"
            if "permission" in why:
                hint = f"`ls -l {path}` shows who may read it"
            raise ConfigError(f"cannot read {path}: {why}", hint=hint) from None
        if text is not None:
            source.data = text.encode("utf-8", "surrogateescape")
        self._read(source, "vmrc", is_text_ours=text is not None)

    def overrides(self, pairs: Sequence[tuple[str, str]]) -> None:
        for name, value in pairs:
            variable = VARIABLES.get(name)
            if not is_name(name):
                self._problem(SET, f"{name!r} is not a valid variable name")
            elif name == "VM_INCLUDE" or (variable and variable.context):
                self._problem(SET, f"{name} cannot be set here", "-C names the machine")
            elif variable and variable.computed:
                self._problem(SET, f"{name} is computed and cannot be set", f"set {variable.computed}")
            else:
                self.values[name] = value
                self.origins[name] = Origin(SET)

    def _problem(self, file: str, message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(file, 0, 0, message, hint))

    # files

    def _read(self, source: Source, layer: str, *, is_text_ours: bool = False) -> None:
        """Read all assignments of one file and of the files that it includes."""
        if not is_text_ours:
            self._require_trust(source)
        self.count += 1
        if layer == "vmrc" or self.sources:  # no shared file comes after it
            self.sources.append(source)
        self.reading.append((source.path, source.status.st_dev, source.status.st_ino))
        document = parse(source.text, files.shown(source.path))
        self.problems += document.problems

        def assigned(name: str, value: str, line: int, column: int) -> None:
            self._assigned(name, value, Origin(layer, source.path, line, column))

        self.problems += evaluate(
            document,
            self.values,
            default=lambda name: default(name, self.values),
            assigned=assigned,
            budget=self.budget,
        )
        self.reading.pop()

    def _require_trust(self, source: Source) -> None:
        if os.geteuid() != 0 or not source.data:  # /dev/null is writable by all, but empty
            return
        if not files.distrust(source.status, self.environ):
            return
        if self.distrusted is not None:
            self.distrusted.append(source)
            return
        from qvmsh.config import trust

        trust.require(source.path, source.status, source.data, self.environ)

    def _assigned(self, name: str, value: str, origin: Origin) -> None:
        """One assignment of a file."""
        variable = VARIABLES.get(name)
        if variable and (variable.computed or variable.context):
            self._unsettable(name, origin)
            return
        if self.unaccepted and name in self.unaccepted and self._hold(name, origin):
            return
        self.origins[name] = origin
        if "\nVM_" in value:
            message = f"the value of {name} contains a line that looks like an assignment"
            hint = "is its quote closed?"
            self.warnings.append(Problem(*origin.place, message, hint, name))
        if name == "VM_INCLUDE" and value:
            self._include(value, origin)

    def _hold(self, name: str, origin: Origin) -> bool:
        """Give a variable of an unaccepted package no effect; False in a file that is not of the package."""
        if origin.layer not in ("vmrc", "include") or not self.sources:
            return False
        self.values.pop(name, None)
        self.origins.pop(name, None)
        if name not in self.held:
            self.held.add(name)
            message = f"{name} came in a package and has no effect until `qvm allow`"
            self.warnings.append(Problem(*origin.place, message, None, name))
        return True

    def _unsettable(self, name: str, origin: Origin) -> None:
        variable = VARIABLES[name]
        file, line, column = origin.place
        if variable.computed:
            self.values.pop(name, None)
            message, hint = (f"{name} is computed and cannot be set", f"set {variable.computed} instead")
            self.problems.append(Problem(file, line, column, message, hint, name))
            return
        known = {"VM_HOME": self.place, "VM_CONFIG": os.path.join(self.place, files.VMRC)}
        self.values[name] = known.get(name) or self.environ.get(name, "")
        message = f"{name} is determined before any file is read, so this line has no effect"
        self.warnings.append(Problem(file, line, column, message, "remove it", name))

    def _include(self, value: str, origin: Origin) -> None:
        """Read the file that VM_INCLUDE names, relative to the file that names it."""
        if value.startswith("~/"):  # it was in quotes, so no shell has expanded it
            value = files.home(self.environ) + value[1:]
        path = os.path.normpath(os.path.join(os.path.dirname(origin.file), value))
        if path.startswith(self.place + "/"):  # it is still here
            path = self.directory + path[len(self.place) :]
        name, why = files.shown(path), ""
        if self.unaccepted is not None and not self._is_inside(path) and self._hold("VM_INCLUDE", origin):
            return
        try:
            source = files.read(path)
        except FileNotFoundError:
            why = f"{name} does not exist"
        except files.Unreadable as error:
            why = f"{name} cannot be read: {error}"
        else:
            key = (source.status.st_dev, source.status.st_ino)
            around = [each[0] for each in self.reading if each[1:] == key]
            if around:
                why = f"a cycle: {name} is being read already"
            elif self.count >= MAX_FILES or len(self.reading) >= MAX_NESTED:
                why = f"too many files: at most {MAX_FILES}, nested at most {MAX_NESTED} times"
        if why:
            self.problems.append(Problem(*origin.place, f"VM_INCLUDE: {why}", None, "VM_INCLUDE"))
            return
        self._read(source, "include")

    def _is_inside(self, path: str) -> bool:
        return os.path.realpath(path).startswith(os.path.realpath(self.directory) + "/")

    # checks

    def check(self) -> None:
        """Check the final values."""
        for name in sorted(_NEEDED | self.origins.keys() & VARIABLES.keys(), key=_PLACES.__getitem__):
            variable = VARIABLES[name]
            if variable.needed and not self.values.get(name):
                self._missing(name)
            elif name in self.origins and not variable.later:
                self._check(name)
        for name, origin in self.origins.items():
            self._remark(name, origin)
        self._combined()
        self._overridden()

    def _missing(self, name: str) -> None:
        file = files.shown(os.path.join(self.directory, files.VMRC))
        examples = {"VM_MACHINE_ID": "33", "VM_MACHINE_NAME": os.path.basename(self.directory) or "demo"}
        example = examples.get(name) or self.environ.get("USER") or "ACCOUNT"
        line, column = 0, 0
        if name in self.origins:
            file, line, column = self.origins[name].place
        state = "is empty" if name in self.origins else "is not set"
        hint = f"write {name}={quote(example)}"
        message = f"{name} {state}, but every machine needs it ({VARIABLES[name].help})"
        self.problems.append(Problem(file, line, column, message, hint, name))

    def _check(self, name: str) -> None:
        wrong = VARIABLES[name].check(self.values[name])
        if wrong:
            hint = f"write {name}={quote(wrong[1])} instead" if wrong[1] else None
            place = self.origins[name].place
            self.problems.append(Problem(*place, f"{name} {wrong[0]}", hint, name))

    def _remark(self, name: str, origin: Origin) -> None:
        """Warn of unknown names that resemble a known one, and of names that have no effect yet."""
        variable = VARIABLES.get(name)
        if variable is None:
            known = meant(name)
            hint = f"did you mean {known}?" if known else None
            message = f"{name} is not a variable of qvm; it is kept as your own"
            if known or name.startswith("VM_"):
                found = self.warnings if known else self.notes
                found.append(Problem(*origin.place, message, hint, name))
        elif name == "VM_NETWORK" and self.values[name]:
            message = "VM_NETWORK needs bridges, which are not supported yet"
            hint = "remove it: the guest then has user mode networking and an ssh port"
            self.problems.append(Problem(*origin.place, message, hint, name))
        elif variable.later and self.values[name]:
            message = f"{name} has no effect yet: qvm does not support {variable.later} yet"
            self.warnings.append(Problem(*origin.place, message, None, name))

    def _combined(self) -> None:
        """Find conflicts between values that are valid by themselves."""
        if self.problems or not any(name in self.origins for name in _COMBINED):
            return
        from qvmsh.config import devices

        values = {name: self.values[name] for name in self.origins}
        for name, wrong, hint in devices.conflicts(values):
            self.problems.append(Problem(*self.origins[name].place, f"{name} {wrong}", hint, name))
        for name in devices.replaced(values):
            message = f"{name} has no effect: VM_QEMU_ARGS replaces all generated hardware"
            self.warnings.append(Problem(*self.origins[name].place, message, None, name))

    def _overridden(self) -> None:
        """Warn of each value of the environment that a file overrides."""
        for name, value in self.inherited.items():
            origin, final = self.origins[name], self.values[name]
            is_list = name not in VARIABLES or VARIABLES[name].kind in LISTS
            if not origin.file or final == value or (is_list and value and value in final):
                continue
            message = f"{name}={shown(value)} is overridden by {origin}"
            hint = f"`qvm config {name}=...` changes the file, `qvm --set {name}=...` overrides every file"
            self.warnings.append(Problem(ENVIRONMENT, 0, 0, message, hint, name))

    def settings(self) -> Settings:
        values = {name: self.values[name] for name in self.origins}
        found = Settings(
            self.directory, values, self.origins, self.problems, self.warnings, self.notes, self.environ,
            self.sources,
        )  # fmt: skip
        found.held, found.is_marked = frozenset(self.held), self.unaccepted is not None
        return found
