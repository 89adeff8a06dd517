"""`.qvm/snapshots.json` with any content, and the tree that is drawn of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.reports import SnapshotList

BROKEN = {
    "empty": "",
    "cut off": '{"snapshots": [{"name": "a"',
    "no text": "\x00\x01",
    "a list": "[]",
    "no list": '{"snapshots": null}',
    "no name": '{"snapshots": [{"nam": "a"}, "a", 7, null, {"name": ""}]}',
    "deep": "[" * 100000,
}

WHOLE: dict[str, Any] = {
    "name": "a", "time": "2026-11-21T10:00:00+00:00", "disks": ["/vm/a.qcow2"], "message": "told",
    "parent": "b", "memory": True, "vmstate_bytes": 7,
    "frozen": None, "qemu": "7.2.22", "machine": "pc-i440fx-7.2",
    "arguments": ["qemu", "-m"], "settings": {"VM_MACHINE_MEM": "64"}, "host_keys": "",
    "images": [{
        "id": "disk0", "file": "/vm/a.qcow2", "date_s": 5, "vmstate_bytes": 7,
        "base": {"file": "/vm/base.qcow2", "size_bytes": 5, "mtime_ns": 6},
    }],
}  # fmt: skip

EDITED: dict[str, list[Any]] = {
    "images": ["x", [{"id": "disk0"}], [None], ["x"], [WHOLE["images"][0] | {"base": {"file": 5}}],
               [WHOLE["images"][0] | {"base": 7}], [WHOLE["images"][0] | {"date_s": "x"}]],
    "parent": [7, ["b"], "a"],
    "disks": ["abc", [1], {}],
    "settings": [[], {"VM_MACHINE_MEM": 3}, "x"],
    "time": [5, []],
    "message": [["x"], 5],
    "arguments": [[1], "x"],
    "vmstate_bytes": ["many", 1.5],
    "memory": ["yes", 5],
    "frozen": ["no", 5],
    "host_keys": [{}, 5],
    "qemu": [7.2],
    "machine": [5],
}  # fmt: skip


def read(tmp_path: Path, text: str) -> Catalogue:
    machine = BaseMachine(tmp_path)
    Path(machine.state_folder(), "snapshots.json").write_text(text)
    return Catalogue.read(machine)


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_read_of_an_invalid_file_is_empty_and_keeps_a_copy(tmp_path: Path, text: str) -> None:
    found = read(tmp_path, text)
    assert (found.entries, found.head) == ({}, "")
    assert not list((tmp_path / ".qvm").glob("*.unreadable"))
    found.write()
    assert (tmp_path / ".qvm/snapshots.json.unreadable").read_text() == text
    assert json.loads((tmp_path / ".qvm/snapshots.json").read_text())["snapshots"] == []


def test_what_makes_sense_is_read_as_it_is(tmp_path: Path) -> None:
    found = read(tmp_path, json.dumps({"snapshots": [WHOLE], "head": "a"}))
    assert (found.entries, found.head) == ({"a": WHOLE}, "a")
    found.write()
    assert not list((tmp_path / ".qvm").glob("*.unreadable"))


@pytest.mark.parametrize(("field", "value"), [(name, each) for name, row in EDITED.items() for each in row])
def test_field_that_makes_no_sense_is_left_out_alone(tmp_path: Path, field: str, value: object) -> None:
    found = read(tmp_path, json.dumps({"snapshots": [WHOLE | {field: value}], "head": "a"}))
    assert found.entries == {"a": {key: each for key, each in WHOLE.items() if key != field}}
    found.write()
    assert (tmp_path / ".qvm/snapshots.json.unreadable").exists()


def test_tree_of_a_thousand_nights_has_no_long_line() -> None:
    rows = [
        {
            "name": f"night{at}", "time": "2026-11-21T10:00:00+00:00", "memory": False, "vmstate_bytes": 0,
            "disks": ["disk0"], "missing": [], "without": [], "parent": f"night{at - 1}" if at else None,
            "message": "", "stale": False, "foreign": False,
        }
        for at in range(3000)
    ]  # fmt: skip
    output = str(SnapshotList("demo", [], rows, "night2999", "")).splitlines()
    assert len(output) == 3001
    assert max(map(len, output)) < 100
    assert output[2].startswith("  night1 ")


def test_names_and_messages_are_harmless_and_stay_in_columns() -> None:
    row = {
        "time": "2026-11-21T10:00:00+00:00", "memory": False, "vmstate_bytes": 0, "disks": ["disk0"],
        "missing": [], "without": [], "parent": None, "stale": False, "foreign": True,
    }  # fmt: skip
    rows = [row | {"name": "\x1b[2Jx", "message": "a\x07"}, row | {"name": "日本", "message": "b"}]
    output = str(SnapshotList("demo", [], rows, "", ""))
    assert "\x1b" not in output
    assert "\x07" not in output
    head, one, two = output.splitlines()
    assert (one.index("2026"), two.index("2026")) == (head.index("DATE"), head.index("DATE") - 2)
