"""The trash: each deletion has a folder of its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from qvmsh.machine import registry
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.shelf import own_files, trash
from tests.support.world import bare_environ, write_vmrc


def test_two_of_one_name_at_one_moment_are_two_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = bare_environ(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 1.0e9)
    for name in ("a", "b"):
        write_vmrc(tmp_path / name / "web", "web")
        (tmp_path / name / "web/.qvm").mkdir()
        vm = BaseMachine(tmp_path / name / "web", environ=environ)
        registry.remember(vm)
        trash.put(vm, own_files.of(vm))
    found = trash.entries(environ)
    assert {each.directory for each in found} == {str(tmp_path / "a/web"), str(tmp_path / "b/web")}
    assert len({each.path for each in found}) == 2
