"""Recovery of interrupted work: the table of modules, and the record of a machine that is being created."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import pytest

from qvmsh.machine import journal
from qvmsh.machine.journal import Kind, Phase, Record
from qvmsh.machine.work import creation_folder, recovery

MAKING = [kind for kind in Kind if str(kind.value[0]) == "making"]


@pytest.mark.parametrize("kind", [each for each in Kind if each not in MAKING])
def test_table_names_a_module_that_fits_for_each_kind(kind: Kind) -> None:
    module = importlib.import_module(recovery.MODULES[kind])
    assert [*inspect.signature(module.recover).parameters] == ["journal"]
    assert [*inspect.signature(module.left).parameters] == ["vm", "record"]


def test_table_of_moves_names_modules_that_fit() -> None:
    for name in (*creation_folder.MOVING.values(), creation_folder.COPYING):
        assert [*inspect.signature(importlib.import_module(name).recover).parameters] == ["record", "environ"]


@pytest.mark.parametrize("kind", MAKING)
@pytest.mark.parametrize("phase", [Phase.BEGIN, Phase.READY])
def test_record_of_a_creation_is_read_back(tmp_path: Path, kind: Kind, phase: Phase) -> None:
    path = str(tmp_path / "0123abcd")
    record = Record(
        kind, phase, folder="/home/guido/.demo.part-0123abcd", directory="/home/guido/demo",
        source="/vm/demo", uuid="5:7",
    )  # fmt: skip
    journal.write_creation(path, record)
    assert journal.read_creation(path) == record


NOTE = {"verb": "restore", "path": "/vm/.demo.part-0123abcd", "since": 1.5, "pid": 7, "is_whole": True}


def test_record_of_a_creation_by_an_older_qvm_is_read(tmp_path: Path) -> None:
    path = tmp_path / "0123abcd"
    path.write_text(json.dumps(NOTE))
    wanted = Record(Kind.RESTORE_NEW, Phase.READY, since=1.5, pid=7, folder="/vm/.demo.part-0123abcd")
    assert journal.read_creation(str(path)) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"verb": "re', *(json.dumps(NOTE | {key: [1]}) for key in ("verb", "path", "since", "pid"))],
)
def test_record_of_a_creation_that_is_invalid_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "0123abcd"
    path.write_text(text)
    assert journal.read_creation(str(path)) is None
    assert journal.read_creation(str(tmp_path / "missing")) is None
