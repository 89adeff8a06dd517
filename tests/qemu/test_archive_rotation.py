"""archive --keep and --keep-days: what goes, what stays, and that the last good state always does."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Vm
from test_archive import archived, byte, name_of, nothing_left, states, write, write_live

Blank = Callable[..., Vm]

DAY_S = 86400.0


def names(vm: Vm) -> list[str]:
    return [f"{row['archive']}/{row['stamp']}" for row in states(vm)]


def age(vm: Vm, name: str, days: float) -> None:
    """Let a state be so old."""
    folder, _, stamp = name.partition("/")
    path = vm.directory / folder / "manifest.json"
    found = json.loads(path.read_text())
    for point in found["points"]:
        if point["stamp"] == stamp:
            point["time"] = time.time() - days * DAY_S
    path.write_text(json.dumps(found))


def removed(vm: Vm, *words: str) -> list[str]:
    report: dict[str, Any] = json.loads(vm.ok("--json", "archive", *words).out)
    return list(report["removed"])


def damage(path: Path) -> None:
    """As a bad disk does it: the size stays, a byte changes."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 0xFF]))


@pytest.fixture
def vm(blank: Blank) -> Vm:
    """Off, with five states of 10, 8, 6, 4 and 2 days ago; nothing has changed since the last."""
    made = blank()
    for at in range(5):
        write(made, at + 1, "0")
        age(made, name_of(archived(made)), 10 - 2 * at)
    return made


def test_keep_and_keep_days_alone_and_together(vm: Vm) -> None:
    every = names(vm)
    assert removed(vm, "--keep", "9") == []
    assert removed(vm, "--keep-days", "30") == []
    assert removed(vm, "--keep-days", "9") == every[:1]
    assert removed(vm, "--keep", "3") == every[1:2]
    # together they keep what either keeps: the newest two, and what is younger than 7 days
    assert removed(vm, "--keep", "2", "--keep-days", "7") == []
    assert removed(vm, "--keep", "2", "--keep-days", "1") == every[2:3]
    assert removed(vm, "--keep-days", "0.5") == every[3:4]  # the last one stays, however old
    assert names(vm) == every[4:]
    vm.ok("archive", "--verify")
    files = {path.name for path in (vm.directory / every[4].partition("/")[0]).iterdir()}
    stamp = every[4].partition("/")[2]
    assert files == {
        "demo-base.qcow2", f"demo-backing-{stamp}.qcow2", f"demo-settings-{stamp}.tar", "manifest.json",
    }  # fmt: skip
    nothing_left(vm)


@pytest.mark.parametrize(
    "words",
    [
        ["--keep", "0"], ["--keep", "-1"], ["--keep", "many"], ["--keep", "1.5"], ["--keep", ""], ["--keep"],
        ["--keep-days", "0"], ["--keep-days", "-2"], ["--keep-days", "week"], ["--keep-days", "nan"],
        ["--keep-days", "inf"], ["--keep-days", "-inf"], ["--keep", "0", "--keep-days", "1"],
        ["--keep", "2", "--list"], ["--keep-days", "2", "--verify"],
    ],
)  # fmt: skip
def test_keep_of_nothing_or_of_no_number_is_refused(blank: Blank, words: list[str]) -> None:
    vm = blank()
    archived(vm)
    before = names(vm)
    write(vm, 9, "0")
    refused = vm.qvm("archive", *words)
    assert refused.status == 2, str(refused)
    assert "Traceback" not in refused.err
    assert "0 or more" not in refused.err
    assert "0.0" not in refused.err
    assert names(vm) == before


def test_last_good_state_stays_where_newer_ones_are_damaged(vm: Vm) -> None:
    every = names(vm)
    folder = vm.directory / every[4].partition("/")[0]
    for name in every[3:]:
        damage(folder / f"demo-backing-{name.partition('/')[2]}.qcow2")
    told = vm.ok("--json", "archive", "--keep", "1", "--keep-days", "0.001")
    assert told.err.count("its checksum differs; an older state is kept for it") == 2
    assert names(vm) == every[2:]
    vm.ok("restore", "--force", every[2])
    assert byte(vm, "0") == 3
    assert vm.qvm("restore", "--force", every[4]).status == 1


def test_archive_whose_base_is_damaged_is_no_good_state(blank: Blank) -> None:
    """The whole newer archive is lost then, so the older one stays."""
    vm = blank()
    write(vm, 1, "0")
    old = name_of(archived(vm, "--create"))
    write(vm, 2, "0")
    new = name_of(archived(vm, "--create"))
    assert new.partition("/")[0] != old.partition("/")[0]
    damage(vm.directory / new.partition("/")[0] / "demo-base.qcow2")
    assert removed(vm, "--keep", "1") == []
    assert names(vm) == [old, new]
    vm.ok("restore", "--force", old)
    assert byte(vm, "0") == 1


def test_state_whose_file_is_gone_or_cut_off_is_archived_anew(blank: Blank) -> None:
    """`nothing has changed since` would be a lie."""
    vm = blank()
    write(vm, 1, "0")
    first = archived(vm)
    path = vm.directory / first["archive"] / "demo-backing.qcow2"
    path.write_bytes(path.read_bytes()[:-100])
    second = archived(vm)
    assert name_of(second) != name_of(first)
    vm.ok("archive", "--verify")
    (vm.directory / second["archive"] / f"demo-backing-{second['stamp']}.qcow2").unlink()
    third = archived(vm, "--keep", "1")
    assert third["removed"] == [name_of(first), name_of(second)]
    vm.ok("archive", "--verify")


def test_changes_keep_all_that_they_stand_on(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    reports = []
    for value in range(1, 5):
        write_live(vm, f"-P {value} {value}M 64k")
        reports.append(archived(vm))
    assert [each["incremental"] for each in reports] == [False, True, True, True]
    assert removed(vm, "--keep", "1") == []  # a fifth one, on all the others
    assert len(names(vm)) == 5
    whole = archived(vm, "--full", "--keep", "1")
    assert len(whole["removed"]) == 5
    assert names(vm) == [name_of(whole)]
    vm.ok("kill")
    vm.ok("restore", "--force", "latest")
    assert [byte(vm, f"{value}M") for value in range(1, 5)] == [1, 2, 3, 4]
    nothing_left(vm)


def test_changes_whose_ground_is_damaged_do_not_count_as_good(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 1 1M 64k")
    first = archived(vm)
    write_live(vm, "-P 2 1M 64k")
    second = archived(vm)
    assert second["incremental"]
    last = archived(vm, "--full")
    folder = vm.directory / first["archive"]
    damage(folder / f"demo-backing-{last['stamp']}.qcow2")
    assert removed(vm, "--keep", "1") == []
    vm.ok("kill")
    vm.ok("restore", "--force", name_of(second))
    assert byte(vm, "1M") == 2


def test_rotation_leaves_others_alone(blank: Blank) -> None:
    """Archives of another machine with the same name in the same store, of `vm`, and unreadable ones."""
    vm = blank(VM_ARCHIVE="../store")
    other = blank(where="second/demo", VM_ARCHIVE="../../store")
    store = vm.world.home / "store"
    for at, each in enumerate((other, vm, other), start=1):
        write(each, at, "0")
        each.ok("archive", "--create")  # bases of different times, so folders of their own
        time.sleep(1.1)  # the folder's name has seconds
    old = store / "demo-20200101000000"
    old.mkdir()
    shutil.copy(vm.directory / "demo-base.qcow2", old)
    shutil.copy(vm.directory / "demo-backing.qcow2", old)
    broken = store / "demo-20210101000000"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    (store / ".demo-20260101000000-01234567.part").mkdir()  # another machine's work under way
    before = sorted(path.name for path in store.iterdir())
    write(vm, 9, "0")
    told = vm.ok("archive", "--create", "--keep", "1", "--keep-days", "0.00001")
    assert f"{broken}/manifest.json cannot be read" in told.err
    after = sorted(path.name for path in store.iterdir())
    gone = set(before) - set(after)
    assert len(gone) == 1  # its own earlier one
    assert len(set(after) - set(before)) == 1
    other.ok("restore", "--force", "latest")
    assert byte(other, "0") == 3  # not the other's, although that is newer
    vm.ok("restore", "latest")
    assert byte(vm, "0") == 9
