"""What the checks of `doctor` share: a finding, and the case that they look at."""

from __future__ import annotations

import os

from qvmsh.host import locks
from qvmsh.io import QUIET
from qvmsh.machine import state
from qvmsh.machine.reports import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from qvmsh.config.layers import Settings
    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.state import Observation
    from qvmsh.qemu.probe import Choice

    Check = Callable[["Case"], Iterator["Finding"]]

OK, WARNING, ERROR = "ok", "warning", "error"


class Finding(Report):
    """What one check found, or one repair did.

    Args:
        name: what was looked at.
        level: `ok`, `warning` (works, but), `error` (something will fail); of a repair `fixed`, or `left`
            where it could not or may not be done.
        finding: one line.
        hint: what to do about it, None where there is nothing to do.
    """

    __slots__ = ("finding", "hint", "level", "name")

    def __init__(self, name: str, level: str, finding: str, hint: str | None = None) -> None:
        self.name = name
        self.level = level
        self.finding = finding
        self.hint = hint


class Case:
    """What the checks look at, and what earlier ones found out for later ones."""

    def __init__(
        self, vm: BaseMachine | None, io: Io, environ: Mapping[str, str], *, is_probing: bool
    ) -> None:
        self.vm = vm.with_io(QUIET) if vm else None  # its warnings are findings here
        self.io = io
        self.environ = environ
        self.is_probing = is_probing
        self.settings: Settings | None = None
        self.qemu: str | None = None
        self.choice: Choice | None = None
        self._seen: Observation | None = None

    def text(self, variable: str, default: str) -> str:
        """The variable's value: the machine's, else the environment's, else `default`."""
        if self.settings is not None:
            return self.settings.text(variable) or default
        return self.environ.get(variable) or default

    @property
    def folder(self) -> str:
        return self.vm.directory if self.vm else os.getcwd()

    @property
    def machine(self) -> BaseMachine:
        """The machine, for checks that are only made where there is one."""
        assert self.vm is not None
        return self.vm

    @property
    def seen(self) -> Observation:
        """The machine's state, read once: a QEMU that does not answer costs a second each time."""
        if self._seen is None:
            self._seen = state.observe(self.machine)
        return self._seen

    @property
    def is_at_rest(self) -> bool:
        """True if no QEMU runs and no command is at work on the machine."""
        return not self.seen.is_live and locks.working(self.machine.files.work_lock) is None
