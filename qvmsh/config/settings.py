"""The settings of one machine: every value, where it came from, and what is wrong with them.

settings.integer("VM_MACHINE_MEM")      # 2048
settings.VM_MACHINE_MEM                 # 2048
settings["VM_MACHINE_MEM"]              # "2G", as it was written
str(settings.origin("VM_MACHINE_MEM"))  # ".vmrc:5"
"""

from __future__ import annotations

import os

from qvmsh.config import files, words
from qvmsh.config.variables import VARIABLES, memory_mib
from qvmsh.errors import ConfigError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, NoReturn

    from qvmsh.config.syntax import Problem
    from qvmsh.host.files import Source

BUILT_IN, ENVIRONMENT, COMPUTED, SET = "built-in", "environment", "computed", "--set"
CONTEXT_MARK = "QVM_CONTEXT"
"""Holds the real path of the machine whose values an environment was given."""
EXPORTED_MARK = "QVM_EXPORTED"
"""Holds `NAME=checksum` for each of those values that was not set in that environment itself."""

STEERING = ("PATH", "LD_", "DYLD_", "PYTHON")
"""Prefixes of names that tell the loader and Python where code is."""


class Origin:
    """Where a value came from.

    Args:
        file: path of the file; "" if there is none.
        line, column: of the assignment; 0 if there is no file.
        layer: `built-in`, `environment`, `computed`, `global`, `user`, `include`, `vmrc`, `--set`.
    """

    __slots__ = ("column", "file", "layer", "line")

    def __init__(self, layer: str, file: str = "", line: int = 0, column: int = 0) -> None:
        self.layer = layer
        self.file = file
        self.line = line
        self.column = column

    def __str__(self) -> str:
        return f"{files.shown(self.file)}:{self.line}" if self.file else self.layer

    def __repr__(self) -> str:
        return f"Origin({self.layer!r}, {self.file!r}, {self.line}, {self.column})"

    @property
    def place(self) -> tuple[str, int, int]:
        """File, line and column as a `Problem` takes them."""
        return (files.shown(self.file) if self.file else self.layer), self.line, self.column


_OF_MACHINE_TYPE = ("VM_MACHINE_ARCH", "VM_QEMU_BIN", "VM_FIRMWARE")  # what decides VM_QEMU_MACHINE


def default(name: str, values: Mapping[str, str]) -> str:
    """The default of `name`, given the values that are set; "" for an unknown name."""
    variable = VARIABLES.get(name)
    if variable is None:
        return ""
    if variable.computed:
        machine = values.get("VM_MACHINE_NAME")
        part = values.get(variable.computed) or default(variable.computed, values)
        form = values.get("VM_FMT") or VARIABLES["VM_FMT"].default
        return f"{machine}-{part}.{form}" if machine else ""
    if variable.follows and values.get(variable.follows):
        return values[variable.follows]
    if name == "VM_QEMU_BIN" and values.get("VM_MACHINE_ARCH"):
        return f"qemu-system-{values['VM_MACHINE_ARCH']}"
    if name == "VM_QEMU_MACHINE" and not values.keys().isdisjoint(_OF_MACHINE_TYPE):
        from qvmsh.config import devices

        return devices.machine_default(values)
    return variable.default


def read_only(name: str, value: object) -> UsageError:
    """The error for `settings.NAME = value`."""
    shown = "yes" if value is True else "no" if value is False else value
    return UsageError(
        f"settings.{name} cannot be assigned: settings are read from the files",
        hint=f"`config({f'{name}={shown}'!r})` writes it to the .vmrc; "
        f"`qvm --set {name}={shown} ...` sets it for one call",
    )


class Settings:
    """All values of one machine. Created by `layers.load`; problems are refused only by `check`.

    Args:
        directory: the machine's directory, absolute.
        values: raw values that some layer has set.
        origins: where each of these came from.
        problems: the problems of all layers.
        warnings: remarks that are not problems.
        notes: remarks for `config --check` only: VM_ names of the user's own.
        environ: the environment that it was loaded in.
        sources: the `.vmrc` and the files that it includes, as they were read.

    `held` are the variables that have no effect until `qvm allow`; `is_marked`: the machine came in a
    package that was not accepted yet.
    """

    __slots__ = (
        "_environ", "_is_accepted", "_origins", "_values",
        "directory", "held", "is_marked", "notes", "problems", "sources", "warnings",
    )  # fmt: skip

    def __init__(
        self,
        directory: str,
        values: dict[str, str],
        origins: dict[str, Origin],
        problems: list[Problem],
        warnings: list[Problem],
        notes: list[Problem],
        environ: Mapping[str, str],
        sources: list[Source],
    ) -> None:
        self.directory = directory
        self._values = values
        self._origins = origins
        self.problems = problems
        self.warnings = warnings
        self.notes = notes
        self._environ = environ
        self.sources = sources
        self.held: frozenset[str] = frozenset()
        self.is_marked = False
        self._is_accepted = False

    def __repr__(self) -> str:
        return f"Settings({self.directory!r}, {len(self._values)} set, {len(self.problems)} problems)"

    # raw values

    def __getitem__(self, name: str) -> str:
        """The value as written; an empty one means the default.

        Raises:
            KeyError: it is not set and has no default.
        """
        value = self._values.get(name, "")
        if value:
            return value
        variable = VARIABLES.get(name)
        if variable is None or variable.later or variable.context:
            return self._values[name]
        return default(name, self._values)

    def __contains__(self, name: object) -> bool:
        if name in self._values:
            return True
        variable = VARIABLES.get(name) if isinstance(name, str) else None
        return variable is not None and not (variable.later or variable.context or variable.needed)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """Every name that has a value: those of the table in its order, then the user's own."""
        return [name for name in VARIABLES if name in self] + [
            name for name in self._values if name not in VARIABLES
        ]

    def origin(self, name: str) -> Origin:
        """Where the value of `name` came from."""
        if self._values.get(name) or (name in self._values and name not in VARIABLES):
            return self._origins[name]
        variable = VARIABLES[name]
        if variable.follows and self._values.get(variable.follows):
            return self._origins[variable.follows]
        return Origin(COMPUTED if variable.computed else BUILT_IN)

    def is_set(self, name: str) -> bool:
        """True if it is set (an empty value counts as not set)."""
        return (
            bool(self._values.get(name)) and not VARIABLES[name].computed
            if name in VARIABLES
            else (name in self._values)
        )

    # what may be run

    @property
    def is_accepted(self) -> bool:
        """True if the user has accepted the machine's files: by `qvm allow`, or by this command."""
        if not self._is_accepted and not self.is_marked:
            from qvmsh.config import trust

            rows = [(each.path, each.data) for each in self.sources]
            self._is_accepted = all(trust.is_allowed(path, data, self._environ) for path, data in rows)
        return self._is_accepted

    def accept(self) -> None:
        """Let this command run what the machine's files name; the caller checks `trust.refusal` first."""
        self._is_accepted = True

    def may_run(self, name: str) -> bool:
        """True if the program in `name` may be run; not in a command that only looks.

        Values of other layers are the user's own, or root's.
        """
        return self.origin(name).file not in {each.path for each in self.sources} or self.is_accepted

    # typed values

    def text(self, name: str) -> str:
        """The value as text."""
        return self[name]

    def integer(self, name: str) -> int:
        """The value of a number; of a memory size, in MiB."""
        value = self._valid(name)
        is_memory = name in VARIABLES and VARIABLES[name].kind == "memory"
        return memory_mib(value) if is_memory else int(value)

    def number(self, name: str) -> float:
        """The value of a number that may have a fraction."""
        return float(self._valid(name))

    def boolean(self, name: str) -> bool:
        """The value of a yes or no."""
        return VARIABLES[name].canonical(self._valid(name)) == "yes"

    def words(self, name: str) -> list[str]:
        """The value as words, split as a shell would."""
        return words.split(self._valid(name))

    def ssh_options(self) -> list[str]:
        """VM_SSH_OPTIONS as words for ssh."""
        from qvmsh.config import ssh_options

        return ssh_options.arguments(self._valid("VM_SSH_OPTIONS"))

    def lines(self, name: str) -> list[str]:
        """The value as a list of its lines, without blanks around them and without empty ones."""
        return [line.strip() for line in self[name].split("\n") if line.strip()]

    def path(self, name: str) -> str:
        """The value as an absolute path ("" stays ""); a relative one starts at the machine's directory."""
        return self.located(self[name])

    def located(self, value: str) -> str:
        """The absolute path of `value`, as for `path`."""
        if not value:
            return ""
        if value == "~" or value.startswith("~/"):  # it was in quotes, so no shell has expanded it
            value = files.home(self._environ) + value[1:]
        return os.path.join(self.directory, value)

    @property
    def architecture(self) -> str:
        """The guest's architecture, as QEMU calls it."""
        from qvmsh.config import devices

        return devices.architecture(self._values)

    def value(self, name: str) -> str | int | float | bool | list[str]:
        """The value in the Python type of its kind; "" for a number that is not set."""
        variable = VARIABLES.get(name)
        kind = variable.kind if variable else "text"
        if not self[name] and kind in ("integer", "memory", "number"):
            return ""
        if kind in ("integer", "memory"):
            return self.integer(name)
        if kind == "number":
            return self.number(name)
        if kind == "boolean":
            return self.boolean(name)
        if kind in ("words", "arguments"):
            return self.words(name)
        if kind == "ssh options":
            return self.ssh_options()
        if kind in ("lines", "forwards", "disks", "shares"):
            return self.lines(name)
        return self.path(name) if kind == "path" else self.text(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self:
            raise AttributeError(f"{name} is not set", name=name, obj=self)
        return self.value(name)

    def __setattr__(self, name: str, value: object) -> None:
        if name not in Settings.__slots__:
            raise read_only(name, value)
        object.__setattr__(self, name, value)

    def __setitem__(self, name: str, value: object) -> NoReturn:
        raise read_only(name, value)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.names()]

    def _valid(self, name: str) -> str:
        """The raw value, checked against the table.

        ConfigError: it is invalid; only possible if `check` was not called.
        """
        value = self[name]
        variable = VARIABLES.get(name)
        is_checked = variable is None or not (self.problems or variable.later)  # by `layers.load`
        wrong = None if is_checked or variable is None else variable.check(value)
        if wrong:
            raise ConfigError(f"{name} {wrong[0]}", hint="`qvm config --check` lists all problems")
        return value

    # all together

    def check(self) -> None:
        """Refuse settings with problems.

        Raises:
            ConfigError: its `problems` are all of them, its details a line for each.
        """
        if not self.problems:
            return
        name = self._values.get("VM_MACHINE_NAME") or os.path.basename(self.directory)
        count, first = len(self.problems), self.problems[0]
        raise ConfigError(
            first.without_hint if count == 1 else f"the configuration has {count} problems",
            machine=name,
            details=[] if count == 1 else [str(problem) for problem in self.problems],
            problems=tuple(self.problems),
            hint=(first.hint if count == 1 else None) or "`qvm config NAME=value` sets a value",
        )

    def exported(self) -> dict[str, str]:
        """The environment of children: VM_ values, the user's own names, the directory, the marks.

        Without the names of `withheld`.
        Numbers of MiB are digits and booleans are yes or no, so that scripts can rely on it.
        """
        found = {}
        withheld = self.withheld()
        for name in self.names():
            is_default = name.endswith("_DEFAULT") and name not in self._values
            if is_default or name == "VM_INCLUDE" or name in withheld:
                continue
            variable = VARIABLES.get(name)
            value = self[name]
            is_right = variable and value and not (name in self._values and variable.check(value))
            found[name] = variable.canonical(value) if variable and is_right else value
        found["VM_HOME"] = self.directory
        found["VM_CONFIG"] = os.path.join(self.directory, files.VMRC)
        marks = [f"{name}={checksum(value)}" for name, value in found.items() if self._is_ours(name)]
        found[CONTEXT_MARK] = os.path.realpath(self.directory)
        found[EXPORTED_MARK] = " ".join(marks)
        return found

    def withheld(self) -> list[str]:
        """Own names that children do not get before `qvm allow`, since they affect programs.

        They are names that change the environment (PATH), or that the loader or Python uses; in
        a directory of another account, all names that are not VM_ names.
        """
        own = [name for name in self._values if not name.startswith("VM_") and not self.may_run(name)]
        if not own:
            return []
        from qvmsh.config import trust

        if trust.refusal(self):
            return own
        known = self._environ.keys() - marked(self._environ).keys()
        return [name for name in own if name in known or name.startswith(STEERING)]

    def withheld_warning(self) -> list[str]:
        """A warning if names of the machine's files are left out of the environment."""
        names = ", ".join(self.withheld())
        return [f"not exported until `qvm allow`: {names} of .vmrc"] if names else []

    def stale(self) -> list[str]:
        """Names of the environment that belong to another machine and must be unset."""
        is_elsewhere = self._environ.get(CONTEXT_MARK, "") not in ("", os.path.realpath(self.directory))
        ours = marked(self._environ)
        if not ours and not is_elsewhere:
            return []
        known, found = {*self.exported(), *self.withheld()}, []
        for name, value in self._environ.items():
            variable = VARIABLES.get(name)
            is_setting = name.startswith("VM_") and not (variable and variable.context)
            is_export = name in ours and ours[name] == checksum(value)
            if name not in known and (is_export or (is_elsewhere and is_setting)):
                found.append(name)
        return found

    def _is_ours(self, name: str) -> bool:
        """True if an exported value was not set in the environment itself."""
        if name in self._values and self._origins[name].layer == ENVIRONMENT:
            return False
        known = name.startswith("VM_") or name not in self._environ
        return known or name in marked(self._environ)


def checksum(value: str) -> str:
    """A short checksum to recognize an exported value."""
    number = int.from_bytes(value.encode("utf-8", "surrogateescape"), "big")
    return f"{number % 0xFFFF_FFFB:08x}"  # a prime; `binascii` costs a small script more than its run


def marked(environ: Mapping[str, str]) -> dict[str, str]:
    """The names that a qvm has exported into this environment, with their checksums."""
    text = environ.get(EXPORTED_MARK, "")
    return {name: mark for name, _, mark in (word.partition("=") for word in text.split(" ")) if mark}
