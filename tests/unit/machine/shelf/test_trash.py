"""The trash: each deletion has a folder of its own."""

from __future__ import annotations

import os
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


def deleted(tmp_path: Path, environ: dict[str, str]) -> trash.Entry:
    write_vmrc(tmp_path / "web", "web")
    (tmp_path / "web/.qvm").mkdir()
    vm = BaseMachine(tmp_path / "web", environ=environ)
    registry.remember(vm)
    return trash.put(vm, own_files.of(vm))


def test_what_one_removes_no_other_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = deleted(tmp_path, bare_environ(tmp_path))
    seen = []
    real = trash.remove_tree

    def meanwhile(path: str, name: str) -> None:
        trash.remove_left(os.path.dirname(path))
        seen.append(os.path.exists(path))
        real(path, name)

    monkeypatch.setattr(trash, "remove_tree", meanwhile)
    assert trash.remove(entry)
    assert seen == [True]
    assert os.listdir(os.path.dirname(entry.path)) == []
    assert not trash.remove(entry), "another command listed it before it was gone"


def test_what_a_killed_removal_left_is_removed(tmp_path: Path) -> None:
    entry = deleted(tmp_path, bare_environ(tmp_path))
    above = os.path.dirname(entry.path)
    os.rename(entry.path, os.path.join(above, ".removing-0123abcd"))
    Path(above, ".removing-89abcdef").touch()
    trash.remove_left(above)
    assert os.listdir(above) == [".removing-89abcdef"]
