"""The configuration commands: show, check, change and export.

change(vm, [("VM_MACHINE_MEM", "2048")])      # Changed: it is in .vmrc
"""

from __future__ import annotations

import os

from qvmsh.config import edit, files, layers, ssh_options, trust
from qvmsh.config.spelling import near
from qvmsh.config.syntax import Problem, is_name
from qvmsh.config.variables import VARIABLES, meant
from qvmsh.config.words import quote
from qvmsh.errors import EXIT_OK, EXIT_USAGE, ConfigError, QvmError, UsageError
from qvmsh.host import ssh_check
from qvmsh.machine import registry
from qvmsh.machine.guest.shares import plan
from qvmsh.machine.reports import Report, Verdict, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from qvmsh.config.settings import Settings
    from qvmsh.host.files import Source
    from qvmsh.machine.machine import BaseMachine


class Values(Report):
    """Result of `config` and `config NAME`: values, with their origins if requested.

    Its text is `NAME=value` lines that a shell and qvm can read back (those that a file may not set
    are comments), or the bare value of the one name that was requested.
    """

    __slots__ = ("has_origins", "is_bare", "names", "settings")

    def __init__(
        self, settings: Settings, names: Sequence[str], *, is_bare: bool = False, has_origins: bool = False
    ) -> None:
        self.settings = settings
        self.names = list(names)
        self.is_bare = is_bare
        self.has_origins = has_origins

    @property
    def exit_status(self) -> int:  # type: ignore[override]  # a constant in the base
        return EXIT_USAGE if self.settings.problems else EXIT_OK

    def __str__(self) -> str:
        if self.is_bare:
            return "\n".join(self.settings[name] for name in self.names)
        lines = []
        for name in self.names:
            value = self.settings[name]
            mark = "# " if _cannot_be_read_back(name) else ""
            lines.append(f"{mark}{name}={quote(value) if value else ''}")
        if not self.has_origins:
            return "\n".join(lines)
        width = max((len(line) for line in lines if len(line) <= 60), default=0)
        rows = zip(self.names, lines, strict=True)
        return "\n".join(f"{line:{width}}  # {self.settings.origin(name)}" for name, line in rows)

    def as_json(self) -> dict[str, Any]:
        """`values` maps each name to `value` (raw), `typed`, and `origin` (layer, file, line, column)."""
        return {
            "machine": self.settings.directory,
            "values": {name: self._row(name) for name in self.names},
            "problems": [problem.as_json() for problem in self.settings.problems],
            "warnings": [warning.as_json() for warning in self.settings.warnings],
        }

    def _row(self, name: str) -> dict[str, Any]:
        origin = self.settings.origin(name)
        try:
            typed = self.settings.value(name)
        except ConfigError:  # the problem says so
            typed = self.settings[name]
        where = {"layer": origin.layer, "file": origin.file, "line": origin.line, "column": origin.column}
        return {"value": self.settings[name], "typed": typed, "origin": where}


class CheckResult(Verdict):
    """Result of `config --check`: all problems and warnings; exit status 2 if there is a problem."""

    __slots__ = ("machine", "problems", "warnings")
    failure = EXIT_USAGE

    def __init__(self, machine: str, problems: list[Problem], warnings: list[Problem]) -> None:
        self.machine = machine
        self.problems = problems
        self.warnings = warnings

    def __bool__(self) -> bool:
        return not self.problems

    def shown(self) -> list[str]:
        lines = [str(problem) for problem in self.problems]
        lines += [f"warning: {warning}" for warning in self.warnings]
        count = len(self.problems)
        shown = files.shown(os.path.join(self.machine, files.VMRC))
        end = plural(count, "problem") if count else "ok"
        return [*lines, f"{shown}: {end}"]

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "problems": [problem.as_json() for problem in self.problems],
            "warnings": [warning.as_json() for warning in self.warnings],
        }


class CheckResults(Verdict):
    """Result of `config --check DIR...`: each `.vmrc` checked; exit status 2 if one has problems."""

    __slots__ = ("machines",)
    failure = EXIT_USAGE

    def __init__(self, machines: Sequence[CheckResult]) -> None:
        self.machines = list(machines)

    def __bool__(self) -> bool:
        return all(self.machines)

    def shown(self) -> list[str]:
        lines = [str(problem) for each in self.machines for problem in each.problems]
        lines += [f"warning: {warning}" for each in self.machines for warning in each.warnings]
        count = sum(len(each.problems) for each in self.machines)
        wrong = sum(not each for each in self.machines)
        end = f"{plural(count, 'problem')}, in {wrong} of them" if count else "ok"
        return [*lines, f"{plural(len(self.machines), 'file')}: {end}"]

    def as_json(self) -> dict[str, Any]:
        return {"ok": bool(self), "machines": [each.as_json() for each in self.machines]}


class Changed(Report):
    """Result of `config NAME=value`: the file and its new values."""

    __slots__ = ("file", "values")

    def __init__(self, file: str, values: dict[str, str]) -> None:
        self.file = file
        self.values = values

    def shown(self) -> list[str]:
        return []


class Environment(Report):
    """Result of `env`: the environment of child processes, as lines that a shell can `eval`.

    `unset` lists values of another machine that are still in the environment.
    """

    __slots__ = ("environment", "unset")

    def __init__(self, environment: dict[str, str], unset: Sequence[str]) -> None:
        self.environment = environment
        self.unset = list(unset)

    def __str__(self) -> str:
        lines = [f"unset {name}" for name in self.unset]
        lines += [f"export {name}={quote(value)}" for name, value in self.environment.items()]
        return "\n".join(lines)


class Allowed(Report):
    """Result of `allow`: the accepted files, each with its fingerprint."""

    __slots__ = ("files", "machine")

    def __init__(self, machine: str, accepted: dict[str, str]) -> None:
        self.machine = machine
        self.files = accepted

    def shown(self) -> list[str]:
        return [f"accepted {path} with its current content ({token})" for path, token in self.files.items()]


def _cannot_be_read_back(name: str) -> bool:
    """True for a value that a file may not set, or that would act a second time."""
    return name == "VM_INCLUDE" or (name in VARIABLES and bool(VARIABLES[name].computed))


def check(vm: BaseMachine) -> CheckResult:
    """All problems and warnings of all layers."""
    return _check(vm.directory, vm.environ, vm.overrides)


def _check(
    directory: str, environ: Mapping[str, str], overrides: Sequence[tuple[str, str]] = ()
) -> CheckResult:
    found = layers.load(directory, environ, overrides)
    return CheckResult(
        found.directory,
        [*found.problems, *_of_ssh(found)],
        [*found.warnings, *found.notes, *_shares(found, environ)],
    )


def _of_ssh(settings: Settings) -> list[Problem]:
    """What ssh says of the keywords in VM_SSH_OPTIONS; their values are not used for it."""
    try:
        rows = ssh_options.keywords(settings.ssh_options())
    except (ConfigError, ValueError):  # it is a problem already
        return []
    found = []
    for key, value in rows:
        wrong = ssh_check.complaint([f"-o{key}={value}"])
        if wrong:
            close = near(key.lower(), ssh_check.keywords()) if "option: " in wrong else None
            hint = f"did you mean {close}?" if close else None
            message = f"VM_SSH_OPTIONS: ssh does not take {quote(f'{key}={value}')}: {wrong}"
            place = settings.origin("VM_SSH_OPTIONS").place
            found.append(Problem(*place, message, hint, "VM_SSH_OPTIONS"))
    return found


def _shares(settings: Settings, environ: Mapping[str, str]) -> list[Problem]:
    """The shares that would not work on this host."""
    wrong = []
    try:
        lines = plan.of_settings(settings, environ)
    except ValueError:  # it is a problem already
        return []
    for line in lines:
        what, hint = plan.fault(settings.directory, environ, line)
        if what:
            place = settings.origin("VM_SHARE").place
            wrong.append(Problem(*place, f"VM_SHARE: {line.tag}: {what}", hint, "VM_SHARE"))
    return wrong


def check_trees(
    folders: Sequence[str], environ: Mapping[str, str], overrides: Sequence[tuple[str, str]] = ()
) -> CheckResults:
    """All problems and warnings of every `.vmrc` in and below `folders` (links are not followed).

    Raises:
        UsageError: there is no such folder, or no `.vmrc` in or below it.
    """
    found: list[CheckResult] = []
    for directory in dict.fromkeys(each for folder in folders for each in _machines_below(folder)):
        try:
            found.append(_check(directory, environ, overrides))
        except ConfigError as error:  # it cannot be read, or root may not use it
            path = os.path.join(directory, files.VMRC)
            found.append(CheckResult(directory, [Problem(path, 0, 0, error.what, error.hint)], []))
    return CheckResults(found)


def _machines_below(folder: str) -> list[str]:
    """Every directory with a `.vmrc`, `folder` first."""
    if "=" in folder and not os.path.isdir(folder):
        raise UsageError(
            f"config --check: {folder}: takes directories, not values",
            hint=f"`qvm config {folder}` checks a value before it is set",
        )
    if os.path.basename(folder) == files.VMRC and os.path.isfile(folder):
        folder = os.path.dirname(folder)
    elif not os.path.isdir(folder):
        raise UsageError(f"config --check: there is no directory {folder}")
    found = []

    def unreadable(error: OSError) -> None:
        raise UsageError(f"config --check: cannot read {error.filename}: {error.strerror}")

    for where, folders, names in os.walk(os.path.abspath(folder), onerror=unreadable):
        folders[:] = sorted(name for name in folders if name != ".qvm")
        if files.VMRC in names:
            found.append(where)
    if not found:
        raise UsageError(f"config --check: there is no .vmrc in or below {folder}")
    return found


def show(vm: BaseMachine, names: Sequence[str] = (), *, has_origins: bool = False) -> Values:
    """The values of `names`, or of all names.

    Raises:
        UsageError: a name has no value.
    """
    settings = vm.loaded
    for problem in settings.problems:
        vm.io.warn(str(problem))
    for name in names:
        if name not in settings:
            raise _unknown(name, vm.environ)
    is_bare = len(names) == 1 and not has_origins
    return Values(settings, names or settings.names(), is_bare=is_bare, has_origins=has_origins)


def _unknown(name: str, environ: Mapping[str, str]) -> UsageError:
    variable = VARIABLES.get(name)
    if variable is not None:
        return UsageError(f"{name} is not set", hint=f"{name}: {variable.help}")
    better = meant(name)
    hint = f"did you mean {better}?" if better else "`qvm config` lists all names that have a value"
    if any(row.name == name for row in registry.rows(environ)):
        hint = f"that is a machine: `qvm -M {quote(name)} config edit` opens its file"
    return UsageError(f"{name} is not set, and is not a variable of qvm", hint=hint)


def change(vm: BaseMachine, pairs: Sequence[tuple[str, str]]) -> Changed:
    """Set values in the `.vmrc`; all of them, or none.

    The new text is checked before it is written, so that an invalid value changes nothing.
    Concurrent calls wait for each other.

    Raises:
        UsageError: a name cannot be set.
        ConfigError: a value is invalid, or another line would override it.
    """
    for name, _ in pairs:
        _require_settable(name)

    def changed(text: str) -> str:
        for name, value in pairs:
            text = edit.assign(text, name, value)
        return text

    rewrite(vm, changed, dict(pairs))
    return Changed(vm.files.vmrc, dict(pairs))


def rewrite(vm: BaseMachine, changed: Callable[[str], str], wanted: Mapping[str, str]) -> None:
    """Replace the text of the `.vmrc`, if the new one is no worse.

    Args:
        changed: makes the new text of the present one.
        wanted: the values that must come out.

    Raises:
        ConfigError, UsageError: the new text is not right. The file did not change.
    """
    path = vm.files.vmrc
    before = layers.load(vm.directory, vm.environ)
    try:
        held = lock(os.path.dirname(os.path.realpath(path)))
        try:
            text = files.read(path).text
            new = changed(text)
            _require_better(before, layers.load(vm.directory, vm.environ, text=new), wanted)
            if new != text:
                edit.replace(path, new)
        finally:
            os.close(held)
    except OSError as error:
        raise QvmError(f"cannot write {path}: {error.strerror}", hint="the file did not change") from None
    except files.Unreadable as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    vm.reload()


def _require_settable(name: str) -> None:
    variable = VARIABLES.get(name)
    if not is_name(name):
        raise UsageError(f"{name!r} is not a valid variable name")
    if variable and variable.computed:
        raise UsageError(f"{name} is computed and cannot be set", hint=f"set {variable.computed}")
    if variable and variable.context:
        raise UsageError(f"{name} is determined before any file is read, so a file cannot set it")
    better = None if variable or not name.startswith("VM_") else meant(name)
    if better:
        raise UsageError(f"{name} is not a variable of qvm", hint=f"did you mean {better}?")


def lock(folder: str) -> int:
    """A lock on the folder while the descriptor is open; it leaves nothing behind."""
    import fcntl

    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _require_better(before: Settings, after: Settings, wanted: Mapping[str, str]) -> None:
    """Refuse a change that adds a problem, or that another line would override."""
    known = {(problem.name, problem.message) for problem in before.problems}
    fresh = [each for each in after.problems if (each.name, each.message) not in known]
    wrong = fresh or [each for each in after.problems if each.name in wanted]
    if wrong:
        raise ConfigError(
            "nothing was changed: " + wrong[0].message,
            details=[str(problem) for problem in wrong[1:]],
            problems=tuple(wrong),
            hint=wrong[0].hint,
        )
    for name, value in wanted.items():
        if value and after[name] != value:
            raise ConfigError(
                f"nothing was changed: {after.origin(name)} would override the new value of {name}",
                hint=f"change it there: it sets {name}={quote(after[name])}",
            )


def environment(vm: BaseMachine) -> Environment:
    """The values that `eval "$(qvm env)"` exports in a shell.

    Raises:
        ConfigError: the configuration has problems.
    """
    settings = vm.settings
    for warning in settings.withheld_warning():
        vm.io.warn(warning)
    return Environment(settings.exported(), settings.stale())


def allow(vm: BaseMachine) -> Allowed:
    """Accept the machine's `.vmrc` with the files that it includes, and its `.qvmrc.xsh`.

    Raises:
        ConfigError: there is no `.vmrc`.
    """
    found: list[Source] = []  # for root also a shared file of another account
    found += layers.load(vm.directory, vm.environ, distrusted=found).sources
    mark = os.path.join(vm.directory, files.MARK)
    if os.path.lexists(mark):  # it came in a package: what it names counts from here on
        os.unlink(mark)
        found.clear()
        found += layers.load(vm.directory, vm.environ, distrusted=found).sources
    accepted = {each.path: trust.allow(each.path, each.data, vm.environ) for each in found}
    vm.reload()
    code = _code(vm)
    if code is not None:
        accepted[code[0]] = trust.allow(*code, vm.environ, trust.CODE)
    return Allowed(vm.directory, accepted)


def _code(vm: BaseMachine) -> tuple[str, bytes] | None:
    """Path and content of the machine's `.qvmrc.xsh`; None if there is none."""
    path = os.path.join(vm.directory, trust.RC)
    try:
        return path, files.read(path).data
    except FileNotFoundError:
        return None
    except files.Unreadable as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
