"""archive --keep and --keep-days: what goes, what stays, and that the last good state always does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.archives import (
    archived_states,
    damage,
    make_archive,
    require_nothing_left,
    state_name,
    state_names,
)
from tests.support.counting import NO_WAITING
from tests.support.disks import read_byte, write_byte, write_live
from tests.support.programs import qemu_img
from tests.support.world import Blank, Vm, World, copy_of, create_blank

DAY_S = 86400.0


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
    return list(make_archive(vm, *words)["removed"])


@pytest.fixture(scope="module")
def archived(module_world: World) -> Path:
    made = create_blank(module_world, **NO_WAITING)
    for at in range(5):
        write_byte(made, at + 1, "0")
        age(made, state_name(make_archive(made)), 10 - 2 * at)
    return made.directory


@pytest.fixture
def vm(world: World, archived: Path) -> Vm:
    """Off, with five states of 10, 8, 6, 4 and 2 days ago; nothing has changed since the last."""
    return copy_of(world, archived)


def test_keep_and_keep_days_alone_and_together(vm: Vm) -> None:
    every = state_names(vm)
    assert removed(vm, "--keep", "9") == []
    assert removed(vm, "--keep-days", "30") == []
    assert removed(vm, "--keep-days", "9") == every[:1]
    assert removed(vm, "--keep", "3") == every[1:2]
    # together they keep what either keeps: the newest two, and what is younger than 7 days
    assert removed(vm, "--keep", "2", "--keep-days", "7") == []
    assert removed(vm, "--keep", "2", "--keep-days", "1") == every[2:3]
    assert removed(vm, "--keep-days", "0.5") == every[3:4]  # the last one stays, however old
    assert state_names(vm) == every[4:]
    vm.ok("archive", "--verify")
    files = {path.name for path in (vm.directory / every[4].partition("/")[0]).iterdir()}
    stamp = every[4].partition("/")[2]
    assert files == {
        "demo-base.qcow2", f"demo-backing-{stamp}.qcow2", f"demo-settings-{stamp}.tar", "manifest.json",
    }  # fmt: skip
    require_nothing_left(vm)


MEANINGLESS = [
    ["--keep", "0"], ["--keep", "-1"], ["--keep", "many"], ["--keep", "1.5"], ["--keep", ""], ["--keep"],
    ["--keep-days", "0"], ["--keep-days", "-2"], ["--keep-days", "week"], ["--keep-days", "nan"],
    ["--keep-days", "inf"], ["--keep-days", "-inf"], ["--keep", "0", "--keep-days", "1"],
    ["--keep", "2", "--list"], ["--keep-days", "2", "--verify"], ["--list", "--full"],
    ["--list", "--drop-snapshots"], ["--verify", "-b"], ["--delete", "latest", "-f"],
]  # fmt: skip


def test_options_that_mean_nothing_here_are_refused(vm: Vm) -> None:
    before = state_names(vm)
    write_byte(vm, 9, "0")
    for words in MEANINGLESS:
        refused = vm.qvm("archive", *words)
        assert refused.status == 2, str(refused)
        assert "Traceback" not in refused.err
        assert "0 or more" not in refused.err
        assert "0.0" not in refused.err
    assert state_names(vm) == before


def test_last_good_state_stays_where_newer_ones_are_damaged(vm: Vm) -> None:
    every = state_names(vm)
    folder = vm.directory / every[4].partition("/")[0]
    for name in every[3:]:
        damage(folder / f"demo-backing-{name.partition('/')[2]}.qcow2")
    result = vm.ok("--json", "archive", "--keep", "1", "--keep-days", "0.001")
    assert result.err.count("its checksum differs; an older state is kept instead") == 2
    assert state_names(vm) == every[2:]
    vm.ok("restore", "--force", every[2])
    assert read_byte(vm, "0") == 3
    assert vm.qvm("restore", "--force", every[4]).status == 1


def test_archive_whose_base_is_damaged_is_not_a_good_state(blank: Blank) -> None:
    """The whole newer archive is lost then, so the older one stays."""
    vm = blank()
    write_byte(vm, 1, "0")
    old = state_name(make_archive(vm, "--create"))
    write_byte(vm, 2, "0")
    new = state_name(make_archive(vm, "--create"))
    assert new.partition("/")[0] != old.partition("/")[0]
    damage(vm.directory / new.partition("/")[0] / "demo-base.qcow2")
    assert removed(vm, "--keep", "1") == []
    assert state_names(vm) == [old, new]
    vm.ok("restore", "--force", old)
    assert read_byte(vm, "0") == 1


def test_state_with_a_missing_or_truncated_file_is_repeated(blank: Blank) -> None:
    """`nothing has changed since` would be a lie."""
    vm = blank()
    write_byte(vm, 1, "0")
    first = make_archive(vm)
    path = vm.directory / first["archive"] / "demo-backing.qcow2"
    path.write_bytes(path.read_bytes()[:-100])
    second = make_archive(vm)
    assert state_name(second) != state_name(first)
    vm.ok("archive", "--verify")
    (vm.directory / second["archive"] / f"demo-backing-{second['stamp']}.qcow2").unlink()
    third = make_archive(vm, "--keep", "1")
    assert third["removed"] == [state_name(first), state_name(second)]
    vm.ok("archive", "--verify")


def test_changes_keep_all_that_they_are_backed_by(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    reports = []
    for value in range(1, 5):
        write_live(vm, f"-P {value} {value}M 64k")
        reports.append(make_archive(vm))
    assert [each["incremental"] for each in reports] == [False, True, True, True]
    assert removed(vm, "--keep", "1") == []  # a fifth one, on all the others
    assert len(state_names(vm)) == 5
    whole = make_archive(vm, "--full", "--keep", "1")
    assert len(whole["removed"]) == 5
    assert state_names(vm) == [state_name(whole)]
    vm.ok("kill")
    vm.ok("restore", "--force", "latest")
    assert [read_byte(vm, f"{value}M") for value in range(1, 5)] == [1, 2, 3, 4]
    require_nothing_left(vm)


def test_changes_whose_ground_is_damaged_do_not_count_as_good(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 1 1M 64k")
    first = make_archive(vm)
    write_live(vm, "-P 2 1M 64k")
    second = make_archive(vm)
    assert second["incremental"]
    last = make_archive(vm, "--full")
    folder = vm.directory / first["archive"]
    damage(folder / f"demo-backing-{last['stamp']}.qcow2")
    assert removed(vm, "--keep", "1") == []
    vm.ok("kill")
    vm.ok("restore", "--force", state_name(second))
    assert read_byte(vm, "1M") == 2


def test_rotation_leaves_others_alone(blank: Blank) -> None:
    """Archives of another machine with the same name in the same store, of `vm`, and unreadable ones."""
    vm = blank(VM_ARCHIVE="../store")
    other = blank(where="second/demo", VM_ARCHIVE="../../store")
    store = vm.world.home / "store"
    for at, each in enumerate((other, vm, other), start=1):
        write_byte(each, at, "0")
        each.ok("archive", "--create")  # bases of different times, so folders of their own
    old = store / "demo-20200101000000"
    old.mkdir()
    shutil.copy(vm.directory / "demo-base.qcow2", old)
    shutil.copy(vm.directory / "demo-backing.qcow2", old)
    broken = store / "demo-20210101000000"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    (store / ".demo-20260101000000-01234567.part").mkdir()  # another machine's work under way
    before = sorted(path.name for path in store.iterdir())
    write_byte(vm, 9, "0")
    result = vm.ok("archive", "--create", "--keep", "1", "--keep-days", "0.0000001")
    assert f"{broken}/manifest.json cannot be read" in result.err
    after = sorted(path.name for path in store.iterdir())
    gone = set(before) - set(after)
    assert len(gone) == 1  # its own earlier one
    assert len(set(after) - set(before)) == 1
    other.ok("restore", "--force", "latest")
    assert read_byte(other, "0") == 3  # not the other's, although that is newer
    vm.ok("restore", "latest")
    assert read_byte(vm, "0") == 9


def two_archives(vm: Vm) -> tuple[str, Path]:
    """An archive of its own base, and a change after which `--create` begins another one."""
    write_byte(vm, 1, "0")
    name = state_name(make_archive(vm))
    write_byte(vm, 2, "0")
    return name, vm.directory / name.partition("/")[0]


def removed_and_messages(vm: Vm, *words: str) -> tuple[list[str], str]:
    result = vm.ok("--json", "archive", *words)
    return list(json.loads(result.out)["removed"]), result.err


def test_archive_in_use_by_a_command_stays(blank: Blank) -> None:
    vm = blank()
    old, folder = two_archives(vm)
    shutil.copy(vm.directory / ".vmrc", folder)
    (folder / "notes.txt").write_text("precious")
    inside = Vm(vm.world, folder)
    inside.ok("start", "--disposable", "--no-wait")
    try:
        gone, err = removed_and_messages(vm, "--create", "--keep", "1")
        assert gone == []
        assert f"demo: removed nothing from {folder.name}: it contains .qvm" in err
    finally:
        inside.kill()
    assert (folder / "notes.txt").read_text() == "precious"
    assert read_byte(inside, "0") == 1
    shutil.rmtree(folder / ".qvm")
    for name in (".vmrc", "notes.txt"):
        gone, err = removed_and_messages(vm, "--keep", "1")
        assert gone == []
        assert f"it contains {name}, which is not part of the archive" in err
        (folder / name).unlink()
    assert removed_and_messages(vm, "--keep", "1")[0] == [old]
    assert not folder.exists()


def test_archive_whose_image_is_open_or_has_an_overlay_stays(blank: Blank) -> None:
    vm, other = blank(), blank("other")
    old, folder = two_archives(vm)
    overlay = other.directory / "of-the-archive.qcow2"
    base = str(folder / "demo-base.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, str(overlay))
    gone, err = removed_and_messages(vm, "--create", "--keep", "1")
    assert gone == []
    assert f"{overlay} is backed by demo-base.qcow2" in err
    overlay.unlink()
    with (folder / "demo-backing.qcow2").open("rb") as file:
        holder = subprocess.Popen(["sleep", "600"], stdin=file)
    try:
        gone, err = removed_and_messages(vm, "--keep", "1")
        assert gone == []
        assert f"demo-backing.qcow2 is in use by sleep (pid {holder.pid}" in err
    finally:
        holder.kill()
        holder.wait()
    assert removed_and_messages(vm, "--keep", "1")[0] == [old]


def test_state_in_use_in_place_stays_with_its_archive(vm: Vm) -> None:
    every = state_names(vm)
    folder = vm.directory / every[0].partition("/")[0]
    shutil.copy(vm.directory / ".vmrc", folder)
    gone, err = removed_and_messages(vm, "--keep", "1")
    assert gone == []
    assert "it contains .vmrc" in err
    (folder / ".vmrc").rename(folder / "notes.txt")  # harmless, and not the archive's
    assert removed_and_messages(vm, "--keep", "1")[0] == every[:4]
    assert (folder / "notes.txt").exists()


@pytest.mark.parametrize("words", [["--keep", "1"], ["--keep-days", "0.001"]])
def test_state_just_made_is_the_latest_despite_a_wrong_clock(blank: Blank, words: list[str]) -> None:
    vm = blank()
    write_byte(vm, 1, "0")
    first = state_name(make_archive(vm, "--create"))
    age(vm, first, -3)
    write_byte(vm, 2, "0")
    second = make_archive(vm, *words)
    assert state_names(vm) == ([state_name(second)] if words[0] == "--keep" else [first, state_name(second)])
    write_byte(vm, 3, "0")
    third = make_archive(vm, "--create", *words)  # in a folder of its own
    assert third["archive"] != second["archive"]
    assert state_names(vm)[-1] == state_name(third)
    vm.ok("restore", "latest")
    assert read_byte(vm, "0") == 3


def test_state_just_made_stays_among_those_of_an_older_qvm(blank: Blank) -> None:
    """Nothing has changed since a state that a wrong clock made the older one: it is what was asked for."""
    vm = blank()
    write_byte(vm, 1, "0")
    first = state_name(make_archive(vm, "--create"))
    write_byte(vm, 2, "0")
    second = state_name(make_archive(vm, "--create"))
    age(vm, first, -3)
    assert removed(vm, "--keep", "1") == [first]
    assert state_names(vm) == [second]
    vm.ok("restore", "--force", second)
    assert read_byte(vm, "0") == 2


READS = """
import sys
from qvmsh.machine.archive import maintenance

original = maintenance.require_whole


def reported(vm, index, archive, point, *words):
    print("read", point.stamp, file=sys.stderr)
    return original(vm, index, archive, point, *words)


maintenance.require_whole = reported
sys.argv = ["qvm", *sys.argv[1:]]
from qvmsh.__main__ import main

sys.exit(main())
"""


def test_states_are_read_back_only_where_something_would_go(vm: Vm) -> None:
    for keep, is_read in (("5", False), ("4", True)):
        done = subprocess.run(
            [sys.executable, "-c", READS, "archive", "--keep", keep],
            cwd=vm.directory, env=vm.world.environ, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("read " in done.stderr) is is_read


LOOKS = """
import atexit, os, sys

looks, real = {}, os.scandir
atexit.register(lambda: print(max(looks.values()), file=sys.stderr))


def counted(path="."):
    looks[str(path)] = looks.get(str(path), 0) + 1
    return real(path)


os.scandir = counted
sys.argv = ["qvm", *sys.argv[1:]]
from qvmsh.__main__ import main

sys.exit(main())
"""


def test_rotation_scans_do_not_grow_with_the_states(vm: Vm) -> None:
    looks = []
    for keep in ("4", "1"):  # one goes, then three
        done = subprocess.run(
            [sys.executable, "-c", LOOKS, "archive", "--keep", keep],
            cwd=vm.directory, env=vm.world.environ, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        looks.append(int(done.stderr.split()[-1]))
    assert len(state_names(vm)) == 1
    assert looks[0] == looks[1]


def test_clock_that_was_wrong_once_does_not_date_later_states(blank: Blank) -> None:
    vm = blank()
    write_byte(vm, 1, "0")
    first = state_name(make_archive(vm))
    manifest = vm.directory / first.partition("/")[0] / "manifest.json"
    found = json.loads(manifest.read_text())
    found["points"][0]["time"] = 253402300799.9999  # the last that there can be
    manifest.write_text(json.dumps(found))
    before = time.time()
    for value in (2, 3, 4):
        write_byte(vm, value, "0")
        make_archive(vm)
    rows = archived_states(vm)
    times = [datetime.fromisoformat(row["time"]).timestamp() for row in rows]
    assert [int(before) <= each <= time.time() for each in times] == [False, True, True, True]
    age(vm, state_name(rows[1]), 30)
    assert removed(vm, "--keep-days", "7") == [state_name(rows[1])]
    vm.ok("restore", "--force", "latest")
    assert read_byte(vm, "0") == 4
    found["points"][0]["number"] = 2**62 - 1
    manifest.write_text(json.dumps(found))
    write_byte(vm, 5, "0")
    make_archive(vm)


def test_copy_by_hand_leaves_the_originals_archives_alone(blank: Blank, world: World) -> None:
    vm = blank("web", VM_ARCHIVE="../states")
    make_archive(vm)
    write_byte(vm, 1, "0", "web-backing.qcow2")
    make_archive(vm)
    shutil.copytree(vm.directory, world.home / "copy", symlinks=True)
    copy = Vm(world, world.home / "copy")
    before = state_names(vm)
    uuid = (vm.directory / ".qvm/uuid").read_text()
    part = world.home / "states" / f".{before[0].partition('/')[0]}-{uuid[:8]}.part"
    part.mkdir()  # of an archive that the original is making now
    why = f"it is a copy of {vm.directory}, and the archives in {world.home}/states are of both"
    for words in (["archive", "--keep", "1"], ["archive"], ["archive", "--delete", before[0]]):
        refused = copy.qvm(*words)
        assert (refused.status, why in refused.err, "`qvm renew` first" in refused.err) == (3, True, True)
    assert (state_names(vm), part.is_dir()) == (before, True)
    copy.ok("renew")
    made = make_archive(copy, "--keep", "1")
    assert not made["removed"]
    assert set(before) < set(state_names(vm))
    assert removed(vm, "--keep", "1") == before[:1]


def test_copy_by_hand_archives_into_its_own_directory(blank: Blank, world: World) -> None:
    vm = blank("web")
    make_archive(vm)
    shutil.copytree(vm.directory, world.home / "copy", symlinks=True)
    copy = Vm(world, world.home / "copy")
    write_byte(copy, 1, "0", "web-backing.qcow2")
    assert len(removed(copy, "--keep", "1")) == 1
    assert len(state_names(vm)) == 1
