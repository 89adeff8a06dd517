"""`.qvm/snapshots.json`: what it holds, and what is done where it is broken, edited, or not to be read."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

from tests.support.world import Blank, Vm


def metadata(vm: Vm) -> dict[str, dict[str, Any]]:
    """The entries by name; the file must be JSON to the letter."""
    text = (vm.directory / ".qvm/snapshots.json").read_bytes().decode()
    return {row["name"]: row for row in json.loads(text)["snapshots"]}


def spoil(vm: Vm, text: str) -> None:
    (vm.directory / ".qvm/snapshots.json").write_text(text)


def asides(vm: Vm) -> list[str]:
    return sorted(path.read_text() for path in (vm.directory / ".qvm").glob("snapshots.json.unreadable*"))


def test_entry_has_all_the_metadata(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "data.qcow2", "16M"], cwd=vm.directory)
    vm.ok("snapshot", "save", "off", "-m", "größer\nals vorher")
    vm.ok("start", "--no-wait")
    vm.ok("snapshot", "save", "on")
    vm.ok("snapshot", "save", "disks", "--disk-only")
    found = metadata(vm)
    disks = [str(vm.directory / name) for name in ("demo-backing.qcow2", "data.qcow2")]
    version = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True).stdout.split()[2]
    off, on, alone = found["off"], found["on"], found["disks"]
    assert [each["disks"] for each in (off, on, alone)] == [disks] * 3
    assert (off["message"], on["message"]) == ("größer\nals vorher", "")
    assert [each["parent"] for each in (off, on, alone)] == [None, "off", "on"]
    assert all(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", each["time"]) for each in found.values()
    )
    assert (off["vmstate_bytes"], alone["vmstate_bytes"]) == (0, 0)
    assert on["vmstate_bytes"] > 100000
    assert [each["frozen"] for each in (off, on, alone)] == [None, None, False]
    assert off["qemu"] == on["qemu"] == version.split("(")[0]
    assert (off["machine"], on["machine"].rpartition("-")[0]) == ("", "pc-i440fx")
    assert on["arguments"][0].endswith("qemu-system-x86_64")
    assert "-blockdev" in on["arguments"]


def test_metadata_that_is_invalid_loses_only_itself(blank: Blank) -> None:
    vm = blank()
    vm.ok("snapshot", "save", "a", "-m", "told")
    text = '{"snapshots": [{"name": "a"'
    spoil(vm, text)
    for words in (["list"], ["show", "a"], ["verify"], ["diff", "a"], ["list", "--json"]):
        result = vm.ok("snapshot", *words)
        assert ".qvm/snapshots.json" in result.err, words
    assert (vm.directory / ".qvm/snapshots.json").read_text() == text  # looking changes nothing
    vm.ok("snapshot", "restore", "a")
    vm.ok("snapshot", "save", "b")
    assert asides(vm) == [text]
    assert list(metadata(vm)) == ["b"]
    spoil(vm, "again")
    vm.ok("snapshot", "delete", "a", "b")
    assert asides(vm) == sorted([text, "again"])


def test_fields_that_make_no_sense_are_left_out(blank: Blank) -> None:
    vm = blank()
    vm.ok("snapshot", "save", "a", "-m", "told")
    wrong = {
        "images": [{"id": "disk0"}],
        "parent": 7,
        "disks": "abc",
        "settings": [],
        "time": 5,
        "host_keys": 1,
    }
    spoil(vm, json.dumps({"snapshots": [metadata(vm)["a"] | wrong], "head": "a"}))
    for words in (["list"], ["show", "a"], ["verify", "a"], ["diff", "a"], ["restore", "a"]):
        result = vm.ok("snapshot", *words)
        assert "snapshots.json: time of a is invalid" in result.err, words
    assert "told" in vm.ok("snapshot", "list").out
    vm.ok("snapshot", "save", "b")
    assert set(metadata(vm)) == {"a", "b"}
    assert metadata(vm)["b"]["parent"] == "a"
    assert len(asides(vm)) == 1


def test_null_and_missing_fields_and_a_circle_of_parents(blank: Blank) -> None:
    vm = blank()
    for name in ("a", "b"):
        vm.ok("snapshot", "save", name)
    nothing: dict[str, Any] = dict.fromkeys(metadata(vm)["a"], None)
    rows = [nothing | {"name": "a", "parent": "b"}, {"name": "b", "parent": "a"}]
    spoil(vm, json.dumps({"snapshots": rows, "head": 5}))
    for words in (["show", "a"], ["verify"], ["diff", "a", "b"], ["restore", "a"]):
        vm.ok("snapshot", *words)
    shown = vm.ok("snapshot", "list").out.splitlines()[2:]
    assert sorted(line.split()[0] for line in shown) == ["a", "b"]
    vm.ok("snapshot", "delete", "a", "b")


def test_replacing_an_ancestor_makes_no_circle(blank: Blank) -> None:
    vm = blank()
    for words in (["a"], ["b"], ["a", "--replace"]):
        vm.ok("snapshot", "save", *words)
    rows = json.loads((vm.directory / ".qvm/snapshots.json").read_text())["snapshots"]
    assert {row["name"]: row["parent"] for row in rows} == {"b": None, "a": "b"}


def test_a_file_that_cannot_be_read_is_not_replaced(blank: Blank) -> None:
    vm = blank()
    vm.ok("snapshot", "save", "a")
    path = vm.directory / ".qvm/snapshots.json"
    path.rename(path.with_suffix(".mine"))
    path.mkdir()  # so that root cannot read it either
    for words in (["list"], ["save", "b"], ["restore", "a"], ["delete", "a"]):
        refused = vm.qvm("snapshot", *words)
        assert refused.status == 1, words
        assert "demo: cannot read .qvm/snapshots.json: it is a directory\nhint: " in refused.err
    path.rmdir()
    path.with_suffix(".mine").rename(path)
    assert [row["name"] for row in json.loads(vm.ok("snapshot", "list", "--json").out)["snapshots"]] == ["a"]


def test_metadata_of_a_missing_snapshot_is_stale_until_deleted(blank: Blank) -> None:
    vm = blank()
    for name in ("a", "b"):
        vm.ok("snapshot", "save", name)
    subprocess.run(["qemu-img", "snapshot", "-d", "a", "demo-backing.qcow2"], cwd=vm.directory, check=True)
    assert "stale: no image has it (`qvm snapshot delete` removes it)" in vm.ok("snapshot", "list").out
    judged = vm.qvm("snapshot", "verify", "a")
    assert (judged.status, judged.out) == (1, "demo: a: cannot be trusted\n  no image has it\n")
    for words in (["show"], ["restore"], ["diff"]):
        refused = vm.qvm("snapshot", *words, "a")
        assert (refused.status, refused.err) == (3, "qvm: demo: there is no snapshot a\nhint: there are: b\n")
    vm.ok("snapshot", "save", "a")  # the name is free
    assert metadata(vm)["a"]["parent"] == "b"
    subprocess.run(["qemu-img", "snapshot", "-d", "a", "demo-backing.qcow2"], cwd=vm.directory, check=True)
    vm.ok("snapshot", "delete", "a")
    assert list(metadata(vm)) == ["b"]


def test_directory_with_bytes_that_are_not_text_works(blank: Blank) -> None:
    vm = blank(where=b"d\xffr \xe4".decode(errors="surrogateescape"))
    vm.ok("snapshot", "save", "a")
    assert metadata(vm)["a"]["disks"] == [str(vm.directory / "demo-backing.qcow2")]
    result = vm.ok("snapshot", "restore", "a")
    assert result.err == ""


def test_snapshots_are_those_of_the_directory_wherever_it_moves(blank: Blank) -> None:
    """An interrupted save is recovered too: its journal is valid in the new place, and through a link."""
    vm = blank()
    vm.ok("snapshot", "save", "a")
    journal = {
        "what": "save", "name": "b", "phase": "begin", "disks": [["disk0", "demo-backing.qcow2"]],
        "was_running": False, "has_memory": False, "is_frozen": False, "since": "2026-11-21 10:00:00",
        "entry": metadata(vm)["a"] | {"name": "b", "parent": "a"}, "pid": 1,
    }  # fmt: skip
    subprocess.run(["qemu-img", "snapshot", "-c", "b", "demo-backing.qcow2"], cwd=vm.directory, check=True)
    (vm.directory / ".qvm/snapshot.unfinished").write_text(json.dumps(journal))
    moved = vm.world.home / "moved"
    os.rename(vm.directory, moved)
    (vm.world.home / "link").symlink_to(moved)
    result = vm.world.run("-C", "link", "snapshot", "restore", "a")
    assert (result.status, result.out[:29]) == (0, "demo: restored the snapshot a")
    assert "the save of the snapshot b, begun 2026-11-21 10:00:00, was interrupted" in result.err
    assert "was complete: it was kept" in result.err
    there = Vm(vm.world, moved)
    assert list(metadata(there)) == ["a", "b"]
    assert there.ok("snapshot", "verify").out == "demo: a: whole\ndemo: b: whole\n"


def test_journal_that_is_invalid_is_reported_and_changes_nothing(blank: Blank) -> None:
    vm = blank()
    vm.ok("snapshot", "save", "a")
    for text in ("", "[]", '{"what": "save"}', '{"what": "magic", "name": "x"}'):
        (vm.directory / ".qvm/snapshot.unfinished").write_text(text)
        refused = vm.qvm("snapshot", "save", "b")
        assert refused.status == 1
        assert "demo: cannot read .qvm/snapshot.unfinished" in refused.err
        assert "then remove that file" in refused.err
    assert "cannot read .qvm/snapshot.unfinished" in vm.ok("snapshot", "list").out
    (vm.directory / ".qvm/snapshot.unfinished").unlink()
    vm.ok("snapshot", "save", "b")
