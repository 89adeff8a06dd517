"""What `doctor` looks at: a list of small checks of the host and, if there is one, of a machine.

    print(diagnose(vm, QUIET, os.environ))

A check is a generator of findings. One that fails with a QvmError is itself a finding, so
that a broken machine is still checked as far as possible. What `--fix` repairs is in `repair`.
"""

from __future__ import annotations

import os

from qvmsh.errors import QvmError, printable
from qvmsh.io import QUIET
from qvmsh.machine.doctor import host_checks, machine_checks, repair
from qvmsh.machine.doctor.findings import ERROR, OK, Case, Finding
from qvmsh.machine.reports import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from qvmsh.io import Io
    from qvmsh.machine.doctor.findings import Check
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.probe import Choice


class Diagnosis(Verdict):
    """Result of `doctor`; exit status 1 if one of `checks` is an error.

    Args:
        machine: its name, None if only the host was checked.
        directory: the machine's.
        accelerator: the accelerator that was chosen and how it was measured, None without a QEMU.
        checks: the findings.
        fixed: what `--fix` did, None without it.
    """

    __slots__ = ("accelerator", "checks", "directory", "fixed", "machine")

    def __init__(
        self,
        machine: str | None,
        directory: str | None,
        choice: Choice | None,
        checks: list[Finding],
        fixed: Sequence[Finding] | None = None,
    ) -> None:
        self.fixed = None if fixed is None else list(fixed)
        self.machine = machine
        self.directory = directory
        self.accelerator = choice
        self.checks = checks

    def __bool__(self) -> bool:
        return all(each.level != ERROR for each in self.checks)

    def shown(self) -> list[str]:
        rows = [*(self.fixed or ()), *self.checks]
        width = max((len(printable(each.name)) for each in rows), default=0)
        lines = ["nothing to repair"] if self.fixed == [] else []
        for each in rows:
            lines.append(f"{each.level:7}  {printable(each.name):{width}}  {printable(each.finding)}")
            if each.hint and each.level != OK:
                lines.append(f"{'':7}  hint: {printable(each.hint)}")
        return lines

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "directory": self.directory,
            "ok": bool(self),
            "accelerator": self.accelerator.as_json() if self.accelerator else None,
            "checks": [each.as_json() for each in self.checks],
            "fixed": None if self.fixed is None else [each.as_json() for each in self.fixed],
        }


def diagnose(
    vm: BaseMachine | None,
    io: Io,
    environ: Mapping[str, str],
    *,
    is_probing: bool = False,
    is_fixing: bool = False,
) -> Diagnosis:
    """Run all checks that apply; with `is_fixing`, repair what can be repaired first.

    Args:
        vm: the machine, None to look at the host alone.
        is_probing: measure the accelerators again, whatever the cache says.
    """
    fixed = repair.repair(vm.with_io(QUIET) if vm else None, environ) if is_fixing else None
    if fixed and vm:
        vm.reload()  # what was interrupted may have changed its settings
    case = Case(vm, io, environ, is_probing=is_probing)
    found: list[Finding] = []
    first = (machine_checks.vmrc,) if vm else ()  # the host's checks use the machine's values
    for check in (*first, *host_checks.HOST):
        found += _findings(check, case)
    if vm:
        is_valid = case.settings is not None
        for check in machine_checks.MACHINE if is_valid else machine_checks.BROKEN_MACHINE:
            found += _findings(check, case)
    return Diagnosis(vm.name if vm else None, vm.directory if vm else None, case.choice, found, fixed)


def _findings(check: Check, case: Case) -> list[Finding]:
    """The findings of one check; its own failure is the last of them."""
    found: list[Finding] = []
    name = check.__name__.replace("_", " ")
    try:
        found.extend(check(case))
    except QvmError as error:
        details = f": {error.details[-1]}" if error.details else ""
        found.append(Finding(name, ERROR, error.what + details, error.hint))
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        found.append(Finding(name, ERROR, f"{where}{error.strerror or error}"))
    return found
