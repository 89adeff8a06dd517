"""A manifest is read only if every value in it is what it must be; one that is wrong stops no command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from qvmsh.errors import QvmError, UsageError
from qvmsh.machine.archive.index import ArchiveIndex, parse
from qvmsh.machine.archive.model import Archive, Part, Point
from qvmsh.machine.archive.stores import Folder

FOLDER, OTHER = "demo-20250102030405", "demo-20250203040506"
UUID = "3a4f2a4e-9c8b-4a57-8d2e-0123456789ab"


def manifest() -> dict[str, Any]:
    base = Part("main", "demo-base.qcow2", "qcow2", "demo-base.qcow2", 10, 10)
    top = Part("main", "demo-backing.qcow2", "qcow2", "demo-backing.qcow2", 10, 10, tags=["1 a 5.0"])
    point = Point("20250102030405", 1735787045.0, "off", [top])
    archive = Archive(FOLDER, "demo", {"main": [base]}, [point], UUID, "/vm/demo")
    found: dict[str, Any] = json.loads(json.dumps(archive.as_json()))
    return found


def put(root: Path, folder: str, text: str | bytes) -> None:
    (root / folder).mkdir(exist_ok=True)
    (root / folder / "manifest.json").write_bytes(text.encode() if isinstance(text, str) else text)


def test_manifest_that_was_written_is_read_as_it_was() -> None:
    found = parse(FOLDER, json.dumps(manifest()))
    assert found.as_json() == manifest()
    assert found.points[0].parts[0].tags == ["1 a 5.0"]


def part(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["points"][0]["parts"][0].update(values)


def layer(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["layers"]["main"][0].update(values)


def point(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found["points"][0].update(values)


def top(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda found: found.update(values)


@pytest.mark.parametrize(
    "harm",
    [
        part(name="../../etc/passwd"), part(name="/etc/passwd"), part(name=".."), part(name="."),
        part(name=".hidden"), part(name="a/b"), part(name="a\0b"), part(name="manifest.json"),
        part(name="x" * 300), part(name="x.part"), part(name=""), part(name=None), part(name=7),
        part(name="x", left_out="why"), part(role="../main"), part(role="disk0"), part(role=""), part(role=3),
        part(format="-qcow2"), part(format="../x"), part(format=""), part(source="../up"),
        part(source="/a/../b"), part(source="a/../../b"), part(source="a\0"),
        part(source=".vmrc"), part(source=".qvm/uuid"), part(size_bytes=-1),
        part(size_bytes=1.5), part(size_bytes="10"), part(size_bytes=True), part(source_mtime_ns=2**80),
        part(of="..", name="x"), part(of="2025"), part(tags="1 a"), part(tags=[1]), part(tags=None),
        part(more="x"), layer(name="../base"), layer(role="disk1"), layer(of="20250102030405"),
        layer(name="", left_out="gone"), point(stamp="../x"), point(stamp="2025010203040é"),
        point(time="now"), point(time=float("nan")), point(time=float("inf")), point(time=1e30),
        point(parts={}), point(parts=[1]), point(parts=[]), point(is_done="yes"), point(snapshots="a"),
        point(consistency=1),
        point(more=1), top(qvm=2), top(qvm="1"), top(layers=[]), top(layers={"main": {}}), top(points={}),
        top(points=["x"]), top(machine=5), top(uuid=None), top(directory=1),
        lambda found: found.pop("points"), lambda found: found["points"].append(found["points"][0]),
        lambda found: found["points"][0]["parts"].append(found["points"][0]["parts"][0]),
        lambda found: found["points"][0]["parts"][0].pop("name"),
    ],
)  # fmt: skip
def test_manifest_with_a_wrong_value_is_refused_with_words(
    tmp_path: Path, harm: Callable[[dict[str, Any]], None]
) -> None:
    found = manifest()
    harm(found)
    put(tmp_path, FOLDER, json.dumps(found))
    with pytest.raises(QvmError, match=r"manifest\.json cannot be read: .") as output:
        ArchiveIndex(Folder(str(tmp_path)), "demo").read(FOLDER)
    assert output.value.hint


def test_manifest_that_is_not_json_reports_the_place(tmp_path: Path) -> None:
    put(tmp_path, FOLDER, '{\n "qvm": 1,\n x')
    with pytest.raises(QvmError, match=r"cannot be read: it is not JSON \(line 3, column 2\)$"):
        ArchiveIndex(Folder(str(tmp_path)), "demo").read(FOLDER)


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "7", '"x"', "{}", b"\xff\xfe\x00", "[" * 100000, json.dumps(manifest())[:-40],
     '{"qvm": 1e999}', '{"qvm": ' + "9" * 5000 + "}"],
    ids=range(12),
)  # fmt: skip
def test_manifest_of_garbage_does_not_hide_the_other_archives(tmp_path: Path, text: str | bytes) -> None:
    put(tmp_path, FOLDER, text)
    put(tmp_path, OTHER, json.dumps(manifest()))
    index = ArchiveIndex(Folder(str(tmp_path)), "demo")
    assert [each.folder for each in index.archives()] == [OTHER]
    assert FOLDER in index.unreadable[0].what
    assert index.find("latest")[0].folder == OTHER
    with pytest.raises(QvmError, match=FOLDER):
        index.find(FOLDER)


def test_manifest_that_is_not_a_file_is_refused_at_once(tmp_path: Path) -> None:
    """A FIFO would hold a reader for ever."""
    (tmp_path / FOLDER).mkdir()
    os.mkfifo(tmp_path / FOLDER / "manifest.json")
    (tmp_path / OTHER / "manifest.json").mkdir(parents=True)
    index = ArchiveIndex(Folder(str(tmp_path)), "demo")
    assert index.archives() == []
    assert sorted(each.what.rpartition(": ")[2] for each in index.unreadable) == [
        "it is a directory",
        "it is not a regular file",
    ]


def test_manifest_keeps_names_that_are_not_utf_8(tmp_path: Path) -> None:
    found = parse(FOLDER, json.dumps(manifest()))
    odd = os.fsdecode(b"d\xff\n.raw")
    found.points[0].parts.append(Part("disk1", "demo-disk1.raw", "raw", odd))
    (tmp_path / FOLDER).mkdir()
    index = ArchiveIndex(Folder(str(tmp_path)), "demo")
    index.write(found)
    assert index.read(FOLDER).points[0].parts[1].source == odd


def test_layout_file_both_plain_and_compressed_counts_once(tmp_path: Path) -> None:
    """An interrupted compression leaves both; the plain one goes only when the other is whole."""
    (tmp_path / FOLDER).mkdir()
    names = ["demo-base.qcow2", "demo-base.qcow2.gz", "demo-backing-20250301000000.qcow2.xz", "notes.txt"]
    for name in [*names, "demo-backing-20250301000000.qcow2"]:
        (tmp_path / FOLDER / name).write_bytes(b"x")
    found = ArchiveIndex(Folder(str(tmp_path)), "demo").read(FOLDER)
    assert [each.name for each in found.layers["main"]] == ["demo-base.qcow2"]
    assert [[each.name for each in point.parts] for point in found.points] == [
        ["demo-backing-20250301000000.qcow2"]
    ]


@pytest.mark.parametrize(
    "word", ["", "/", "..", "../..", "a\nb", "demo", "2025", "x" * 5000, "-", FOLDER + "/1"]
)
def test_word_that_means_no_state_is_refused(tmp_path: Path, word: str) -> None:
    put(tmp_path, FOLDER, json.dumps(manifest()))
    second = manifest()
    second["points"][0]["stamp"] = "20250203040506"
    put(tmp_path, OTHER, json.dumps(second))
    with pytest.raises(UsageError) as output:
        ArchiveIndex(Folder(str(tmp_path)), "demo").find(word)
    assert "\n" not in "".join(output.value.lines())


def test_latest_is_the_machines_own_where_two_have_one_name(tmp_path: Path) -> None:
    mine = manifest()
    theirs = manifest() | {"uuid": UUID.replace("3", "4")}
    theirs["points"][0] |= {"time": 1800000000.0}
    put(tmp_path, FOLDER, json.dumps(mine))
    put(tmp_path, OTHER, json.dumps(theirs))
    store = Folder(str(tmp_path))
    assert ArchiveIndex(store, "demo", uuid=UUID).find("latest")[0].folder == FOLDER
    assert ArchiveIndex(store, "demo").find("latest")[0].folder == OTHER
    assert ArchiveIndex(store, "demo", uuid=UUID).find(OTHER)[0].folder == OTHER


def test_incomplete_folders_are_each_machines_own(tmp_path: Path) -> None:
    index = ArchiveIndex(Folder(str(tmp_path)), "demo", uuid=UUID)
    assert index.is_part_folder(index.part_folder(FOLDER))
    for name, uuid in (("demo", UUID.replace("3", "4")), ("demo-x", UUID)):
        other = ArchiveIndex(Folder(str(tmp_path)), name, uuid=uuid)
        assert not index.is_part_folder(other.part_folder(f"{name}-20250102030405"))
    assert not index.is_part_folder(FOLDER)


def test_parts_have_no_member_that_the_manifest_does_not_judge() -> None:
    assert {type(value) for value in asdict(Part("main", "x", "raw")).values()} <= {str, int, list}


def test_latest_is_what_was_made_last_whatever_the_clock_was(tmp_path: Path) -> None:
    first, second, other = manifest(), manifest(), manifest()
    first["points"][0] |= {"time": 4102444800.0, "number": 1}
    second["points"][0] |= {"time": 1800000000.0, "number": 2, "stamp": "20270115080000"}
    other["uuid"] = ""  # of `vm`, which counts nothing
    first["points"] += second["points"]
    put(tmp_path, FOLDER, json.dumps(first))
    put(tmp_path, OTHER, json.dumps(other))
    for uuid in (UUID, ""):
        assert ArchiveIndex(Folder(str(tmp_path)), "demo", uuid=uuid).find("latest")[1].number == 2


def test_manifest_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    """It would hide all states of the archive."""
    (tmp_path / FOLDER).mkdir()
    index = ArchiveIndex(Folder(str(tmp_path)), "demo", uuid=UUID)
    found = parse(FOLDER, json.dumps(manifest()))
    index.write(found)
    assert not index.is_full(found)
    tags = [f"{number} {'n' * 1020} 5.0" for number in range(15 << 10)]
    found.points[0].parts[0].tags = tags
    index.write(found)
    assert index.read(FOLDER).points[0].parts[0].tags == tags
    assert index.is_full(found)
    found.points[0].parts[0].tags = [*tags, *tags]
    with pytest.raises(QvmError, match="cannot hold more states"):
        index.write(found)
    assert index.read(FOLDER).points[0].parts[0].tags == tags
