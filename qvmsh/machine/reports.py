"""What commands give back: a value for Python, a text for people, a dict for `--json`.

A report has `shown()`, the lines that are printed (none: nothing is), `as_json()`, and `exit_status`. What
is data and no report (a value, a log, an argument list) has a `__str__` of its own that changes nothing.
"""

from __future__ import annotations

import time

from qvmsh.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def stamp(seconds: float) -> str:
    """A time as `--json` gives it: ISO 8601 of the host's zone, which it names (`...T14:02:51+01:00`)."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
    return f"{text[:-2]}:{text[-2:]}"


def shown(text: str) -> str:
    """A time of `stamp` for people."""
    return text[:19].replace("T", " ")


class Report:
    """The base of all reports; its slots are the keys of its JSON."""

    __slots__: tuple[str, ...] = ()
    exit_status = 0

    def as_json(self) -> dict[str, Any]:
        """The report as a dict of JSON values."""
        return {name.lstrip("_"): getattr(self, name) for name in self.__slots__}

    def shown(self) -> list[str]:
        """The lines that a person reads; names and guest data in them are not cleaned yet."""
        return [repr(self)]

    def __str__(self) -> str:
        """The report as printed: no name or value in it drives the terminal, or begins a line."""
        return "\n".join(map(printable, self.shown()))

    def __repr__(self) -> str:
        """The values in the order in which they were given, without how they are printed."""
        code = type(self).__init__.__code__
        given = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
        names = sorted(self.__slots__, key=lambda name: given.index(name) if name in given else len(given))
        rows = [(name, getattr(self, name)) for name in names if name != "is_quiet" and name[0] != "_"]
        empty: tuple[Any, ...] = (None, "", (), [], {})
        inside = ", ".join(f"{name}={value!r}" for name, value in rows if value not in empty)
        return f"{type(self).__name__}({inside})"


def plural(count: int, what: str) -> str:
    """A number with its noun: `1 disk`, `2 disks`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def lasting(seconds: float) -> str:
    """How long something has lasted, for people: `45 s`, `12 min`, `3 h 4 min`, `5 d 3 h`."""
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min" if minutes else f"{int(seconds)} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


class Verdict(Report):
    """A report that is true if all is well; the exit status says so too."""

    __slots__ = ()
    failure = 1

    @property
    def exit_status(self) -> int:  # type: ignore[override]  # a constant in the base
        return 0 if self else self.failure


class Answers(Report):
    """Result of `qmp`: in JSON `return` (one command), `returns` (several) or `events`.

    In Python `answers`, and `value` for one command. Its text is JSON, a line each; "" if printed already.
    """

    __slots__ = ("answers", "is_events", "is_one", "is_printed", "machine")

    def __init__(
        self, machine: str, answers: Sequence[Any], *, is_events: bool, is_one: bool, is_printed: bool
    ) -> None:
        self.machine = machine
        self.answers = list(answers)
        self.is_events = is_events
        self.is_one = is_one
        self.is_printed = is_printed

    @property
    def value(self) -> Any:
        """What the one command returned."""
        return self.answers[0]

    def __getitem__(self, key: Any) -> Any:
        return self.answers[0][key] if self.is_one else self.answers[key]

    def __iter__(self) -> Any:
        return iter(self.value if self.is_one else self.answers)

    def __len__(self) -> int:
        return len(self.value if self.is_one else self.answers)

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        from json import dumps

        return "" if self.is_printed else "\n".join(dumps(each, ensure_ascii=False) for each in self.answers)

    def as_json(self) -> dict[str, Any]:
        """`return` (one command), `returns` (several), or `events`."""
        if self.is_one:
            return {"machine": self.machine, "return": self.value}
        return {"machine": self.machine, "events" if self.is_events else "returns": self.answers}


class Ended(Report):
    """Result of `run`: QEMU's own exit status."""

    __slots__ = ("exit_status", "machine")

    def __init__(self, machine: str, exit_status: int) -> None:
        self.machine = machine
        self.exit_status = exit_status

    def shown(self) -> list[str]:
        return []


class CommandLine(Report):
    """Result of `dryrun`: `argv`, a list of strings; `before`, those of programs that must run first."""

    __slots__ = ("argv", "before", "machine")

    def __init__(self, machine: str, argv: Sequence[str], before: Sequence[Sequence[str]] = ()) -> None:
        self.machine = machine
        self.argv = list(argv)
        self.before = [list(each) for each in before]

    def __str__(self) -> str:
        import shlex

        from qvmsh.qemu.commandline import for_a_shell

        return "\n".join([*map(shlex.join, self.before), for_a_shell(self.argv)])


class Steps(Report):
    """Result of `init`, `create`: what was done, a line each."""

    __slots__ = ("directory", "dry_run", "machine", "steps")

    def __init__(
        self, machine: str, steps: Sequence[str], *, is_dry: bool = False, directory: str | None = None
    ) -> None:
        self.directory = directory
        self.machine = machine
        self.steps = list(steps)
        self.dry_run = is_dry

    def shown(self) -> list[str]:
        would = "would create " if self.dry_run else ""
        return [f"{self.machine}: {would}{step}" for step in self.steps]
