"""Commands in texts about a machine elsewhere: they name it, and nothing else changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qvmsh.cli import elsewhere
from qvmsh.cli.main import main
from qvmsh.machine import registry
from qvmsh.machine.machine import BaseMachine
from tests.support.world import bare_environ, write_vmrc


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a known machine; the current one is another's."""
    for name, value in bare_environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    write_vmrc(tmp_path / "vms/web", "web")
    write_vmrc(tmp_path / "vms/db", "db")
    registry.remember(BaseMachine(tmp_path / "vms/web", environ=os.environ))
    monkeypatch.chdir(tmp_path / "vms/db")
    return tmp_path / "vms/web"


def named(text: str, directory: Path) -> str:
    return elsewhere.named(text, str(directory), elsewhere.here(os.environ), os.environ)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("`qvm stop` first", "`qvm stop web` first"),
        ("`qvm start --loadvm 'a b'` resumes it", "`qvm start --loadvm 'a b' web` resumes it"),
        ("`qvm snapshot delete` removes it", "`qvm -M web snapshot delete` removes it"),
        (
            "`qvm snapshot save NAME --keep N` begins one",
            "`qvm -M web snapshot save NAME --keep N` begins one",
        ),
        (
            "`qvm stop`, then `qvm config VM_SERIAL=yes`",
            "`qvm stop web`, then `qvm -M web config VM_SERIAL=yes`",
        ),
        ("`qvm rename NEW`", "`qvm -M web rename NEW`"),
        ("`qvm rename db NEW`", "`qvm rename db NEW`"),
    ],
)
def test_command_elsewhere_names_the_machine(web: Path, text: str, wanted: str) -> None:
    assert named(text, web) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "`qvm list` shows all", "`qvm stop db`", "`qvm -M db stop`", "`qvm console -C /vm/db`",
        "`qvm stop --all`", "`cd /vm/db && qvm start`", "`qvm create NAME` creates one", "`qvm nosuch`",
        "qvm stop", "`stop`",
    ],
)  # fmt: skip
def test_other_commands_stay_as_they_are(web: Path, text: str) -> None:
    assert named(text, web) == text


def test_command_for_the_machine_here_needs_no_name(web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(web)
    assert named("`qvm stop` first", web) == "`qvm stop` first"
    monkeypatch.chdir("/")
    assert named("`qvm stop` first", web) == "`qvm stop web` first"
    monkeypatch.setenv("VM_HOME", str(web))
    assert named("`qvm stop` first", web) == "`qvm stop` first"


def test_name_of_two_machines_is_not_used(web: Path) -> None:
    other = web.parent / "a b"
    write_vmrc(other, "web")
    assert named("`qvm stop`, `qvm ssh`", other) == f"`qvm stop '{other}'`, `qvm -C '{other}' ssh`"
    registry.remember(BaseMachine(other, environ=os.environ))
    assert named("`qvm stop`, `qvm ssh`", web) == f"`qvm stop {web}`, `qvm -C {web} ssh`"


def test_name_that_is_also_a_directory_here_is_no_word(web: Path) -> None:
    write_vmrc(Path("web"), "other")
    assert named("`qvm stop`, `qvm ssh`", web) == f"`qvm stop {web}`, `qvm -M web ssh`"


def test_errors_and_reports_of_a_named_machine_name_it(web: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for typed in (["pause", "web"], ["-M", "web", "ssh"], ["-C", "../web", "ssh"], ["console", "web"]):
        assert main(typed) == 3
        assert "hint: `qvm start web` starts it\n" in capsys.readouterr().err
    assert main(["-C", ".", "ssh"]) == 3
    assert "hint: `qvm start` starts it\n" in capsys.readouterr().err
    assert main(["-M", "web", "--json", "pause"]) == 3
    assert "`qvm start web` starts it" in capsys.readouterr().out


def test_settings_are_printed_as_they_are(web: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_vmrc(web, "web", VM_PRE_START="echo `qvm status`")
    assert main(["-M", "web", "config", "VM_PRE_START"]) == 0
    assert capsys.readouterr().out == "echo `qvm status`\n"
