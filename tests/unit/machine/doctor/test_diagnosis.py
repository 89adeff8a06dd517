"""How `doctor` reports, and its checks that look at nothing but text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qvmsh.errors import ImageError
from qvmsh.io import QUIET
from qvmsh.machine.doctor import diagnosis, host_checks
from qvmsh.machine.doctor.diagnosis import Diagnosis
from qvmsh.machine.doctor.findings import Case, Finding


def report(*checks: Finding) -> Diagnosis:
    return Diagnosis("demo", "/vm/demo", None, list(checks))


def test_str_of_a_diagnosis_is_aligned_with_hints_at_problems() -> None:
    text = str(
        report(
            Finding("ssh", "ok", "9.2p1 (/usr/bin/ssh)", "not shown"),
            Finding("demo-base.qcow2", "warning", "leaks", "mend it"),
            Finding("rights", "error", "bad"),
        )
    )
    assert text.splitlines() == [
        "ok       ssh              9.2p1 (/usr/bin/ssh)",
        "warning  demo-base.qcow2  leaks",
        "         hint: mend it",
        "error    rights           bad",
    ]


def test_str_of_a_diagnosis_lets_no_control_character_through() -> None:
    text = str(report(Finding("a\x1b[31m", "warning", "two\nlines", "and\ra hint")))
    assert text.replace("\n", "").isprintable()
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize(("level", "status"), [("ok", 0), ("warning", 0), ("error", 1)])
def test_exit_status_is_1_only_with_an_error(level: str, status: int) -> None:
    found = report(Finding("x", "ok", "fine"), Finding("y", level, "so so"))
    assert found.exit_status == status
    assert bool(found) is (status == 0)
    assert found.as_json()["ok"] is (status == 0)


def test_as_json_holds_every_finding_whole() -> None:
    value = report(Finding("x", "warning", "text", "do this")).as_json()
    assert value["checks"] == [{"name": "x", "level": "warning", "finding": "text", "hint": "do this"}]
    assert (value["machine"], value["directory"], value["accelerator"]) == ("demo", "/vm/demo", None)


def test_findings_of_a_failing_check_end_with_its_error() -> None:
    def some_check(_case: Case) -> Iterator[Finding]:
        yield Finding("first", "ok", "seen")
        raise ImageError("cannot read it", hint="try", details=["qemu-img says so"])

    def other_check(_case: Case) -> Iterator[Finding]:
        yield from ()
        raise PermissionError(13, "Permission denied", "/vm/x")

    case = Case(None, QUIET, {}, is_probing=False)
    first, second = diagnosis._findings(some_check, case)
    assert (first.name, second.name, second.level) == ("first", "some check", "error")
    assert (second.finding, second.hint) == ("cannot read it: qemu-img says so", "try")
    (only,) = diagnosis._findings(other_check, case)
    assert only.finding == "/vm/x: Permission denied"


@pytest.mark.parametrize(
    ("line", "name", "bounds"),
    [
        ("xonsh<0.26,>=0.25", "xonsh", ["<0.26", ">=0.25"]),
        ("rich>=13", "rich", [">=13"]),
        ("prompt_toolkit", "prompt_toolkit", []),
        ("colorama>=0.4 ; sys_platform == 'win32'", "colorama", [">=0.4"]),
        ("sh (>=2)", "sh", [">=2"]),
        ("pytest>=8; extra == 'test'", "", []),
    ],
)
def test_requirement_is_split_into_name_and_bounds(line: str, name: str, bounds: list[str]) -> None:
    assert host_checks._requirement(line) == (name, bounds)


@pytest.mark.parametrize(
    ("version", "bound", "within"),
    [
        ("0.25.0", "<0.26", True),
        ("0.26.0", "<0.26", False),
        ("0.26", "<0.26", False),
        ("0.10.1", ">=0.9", True),
        ("2.0.6", ">=2.0.7", False),
        ("13.0", ">=13", True),
        ("1.0", "!=1.0", True),
    ],
)
def test_is_within_compares_numbers_not_text(version: str, bound: str, within: bool) -> None:
    assert host_checks._is_within(version, bound) is within
