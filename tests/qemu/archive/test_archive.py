"""archive and restore without a guest system: what is in the archive is what was in the disks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import archived_states, make_archive, require_nothing_left, state_name
from tests.support.disks import read_byte, read_bytes, snapshot_names, write_byte, write_live
from tests.support.killer import begin_held
from tests.support.programs import qemu_img
from tests.support.world import DEADLINE_S, Blank, Vm, wait_until


def test_archive_off_holds_all_disks_and_restores_them(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.raw\nmore/db.qcow2")
    qemu_img(vm, "create", "-q", "-f", "raw", "data.raw", "1M")
    (vm.directory / "more").mkdir()
    qemu_img(vm, "create", "-q", "-f", "qcow2", "more/db.qcow2", "1M")
    write_byte(vm, 1, "0")
    write_byte(vm, 2, "0", "data.raw", "raw")
    write_byte(vm, 3, "0", "more/db.qcow2")
    first = make_archive(vm)
    assert first["consistency"] == "off"
    folder = vm.directory / first["archive"]
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime((vm.directory / "demo-base.qcow2").stat().st_mtime))
    assert folder.name == f"demo-{stamp}"
    assert {path.name for path in folder.iterdir()} == {
        "demo-base.qcow2", "demo-backing.qcow2", "demo-disk1.raw", "demo-disk2.qcow2", "demo-settings.tar",
        "manifest.json",
    }  # fmt: skip
    assert make_archive(vm)["notes"] == ["nothing has changed since; nothing was copied"]
    write_byte(vm, 4, "1M")
    second = make_archive(vm)
    assert second["archive"] == first["archive"]
    assert f"demo-backing-{second['stamp']}.qcow2" in os.listdir(folder)
    for name, form in (("demo-backing.qcow2", "qcow2"), ("data.raw", "raw"), ("more/db.qcow2", "qcow2")):
        write_byte(vm, 9, "0", name, form)
    refused = vm.qvm("restore", state_name(first))
    assert refused.status == 3
    assert "cannot restore: the current content of the disks is in no archive" in refused.err
    assert "hint: `qvm archive` keeps it" in refused.err
    vm.ok("restore", "--force", state_name(first))
    assert (read_byte(vm, "0"), read_byte(vm, "1M")) == (1, 0)
    assert read_byte(vm, "0", "data.raw", "raw") == 2
    assert read_byte(vm, "0", "more/db.qcow2") == 3
    vm.ok("restore", "latest")  # what is there now is in an archive, so nothing is lost
    assert read_bytes(vm, "0", "1M") == [1, 4]
    write_byte(vm, 5, "2M")
    assert make_archive(vm)["archive"] == first["archive"]  # the restored base is known again
    assert [row["consistency"] for row in archived_states(vm)] == ["off", "off", "off"]
    vm.ok("archive", "--verify", first["archive"])
    require_nothing_left(vm)


def test_restore_new_machine_has_an_identity_of_its_own(blank: Blank) -> None:
    vm = blank(VM_DISKS="../outside.raw")
    qemu_img(vm, "create", "-q", "-f", "raw", "../outside.raw", "1M")
    write_byte(vm, 1, "0")
    write_byte(vm, 2, "0", "../outside.raw", "raw")
    made = make_archive(vm)
    vm.ok("restore", "latest", "../twin")
    twin = Vm(vm.world, vm.world.home / "twin")
    assert read_byte(twin, "0", "twin-backing.qcow2") == 1
    assert read_byte(twin, "0", "outside.raw", "raw") == 2
    assert json.loads(twin.ok("--json", "config", "VM_DISKS").out)
    chain = json.loads(qemu_img(twin, "info", "--backing-chain", "--output=json", "twin-backing.qcow2"))
    assert [each["filename"] for each in chain] == ["twin-backing.qcow2", "./twin-base.qcow2"]
    uuids = [(each.directory / ".qvm/uuid") for each in (vm, twin)]
    twin.ok("start", "--no-wait")
    assert uuids[0].read_text() != uuids[1].read_text()
    assert "VM_MACHINE_ID=33" not in (twin.directory / ".vmrc").read_text()
    twin.ok("kill")
    # by path, from where no machine is, and never over something
    again = vm.world.run("restore", vm.directory / made["archive"], "third")
    assert again.status == 0, str(again)
    assert vm.world.run("restore", vm.directory / made["archive"], "third").status == 2
    assert vm.world.run("restore", vm.directory / made["archive"]).status == 2
    assert not [each for each in vm.world.home.iterdir() if ".part" in each.name]


def test_archive_create_commits_only_if_the_commit_keeps_all(blank: Blank) -> None:
    vm = blank()
    write_byte(vm, 1, "0")
    first = make_archive(vm, "--create")
    assert read_byte(vm, "0", "demo-base.qcow2") == 1
    assert first["notes"] == []
    vm.ok("start", "--no-wait")
    vm.ok("stop", "--savevm", "ready", "--no-suspend")
    write_byte(vm, 2, "0")
    before = (vm.directory / "demo-base.qcow2").read_bytes()
    pair = make_archive(vm, "--create")
    assert "demo-backing.qcow2 holds 1 snapshot" in pair["notes"][0]
    assert pair["snapshots"] == ["ready"]
    assert (vm.directory / "demo-base.qcow2").read_bytes() == before
    assert snapshot_names(vm) == ["ready"]
    dropped = make_archive(vm, "--create", "--drop-snapshots")
    assert dropped["archive"] != pair["archive"]
    assert read_byte(vm, "0", "demo-base.qcow2") == 2
    assert snapshot_names(vm) == []
    vm.ok("restore", state_name(pair))
    qemu_img(vm, "snapshot", "-a", "ready", "demo-backing.qcow2")
    assert read_byte(vm, "0") == 1  # not what was written after it
    # another overlay on the same base would be falsified as well
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "./demo-base.qcow2", "other.qcow2")
    qemu_img(vm, "snapshot", "-d", "ready", "demo-backing.qcow2")
    write_byte(vm, 7, "1M")
    assert "other.qcow2 is also backed by demo-base.qcow2" in make_archive(vm, "-c")["notes"][0]
    assert read_byte(vm, "1M", "other.qcow2") == 0


def known(vm: Vm) -> dict[str, str | None]:
    """The snapshots that the list shows, each with its parent; none is stale."""
    rows = json.loads(vm.ok("snapshot", "list", "--json").out)["snapshots"]
    assert not [row["name"] for row in rows if row["stale"]]
    return {row["name"]: row["parent"] or None for row in rows}


def test_archive_reports_no_snapshot_that_was_dropped(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "1M")
    for name in ("a", "b", "c"):
        vm.ok("snapshot", "save", name)
    vm.ok("archive", "--delvm", "b")
    assert known(vm) == {"a": None, "b": "a", "c": "b"}
    vm.ok("restore", "latest", "../twin")
    twin = Vm(vm.world, vm.directory.parent / "twin")
    assert known(twin) == {"a": None, "c": "a"}
    vm.ok("restore", "--force", "latest")
    assert known(vm) == {"a": None, "c": "a"}
    qemu_img(vm, "snapshot", "-d", "a", "data.qcow2")
    vm.ok("archive", "--create", "--drop-snapshots")
    assert known(vm) == {"c": None}  # on the other disk it still is


@pytest.mark.both_qemus
def test_archive_running_whole_then_changes_restores_exactly(blank: Blank) -> None:
    """With internal snapshots, over a stop and a kill of QEMU; a raw disk and a qcow2 disk beside."""
    vm = blank(VM_DISKS="data.raw:raw:ro")
    qemu_img(vm, "create", "-q", "-f", "raw", "data.raw", "65M")  # a smaller one goes along
    places = ("1M", "2M", "3M", "4M")
    kept: list[tuple[str, list[int], list[str], bool]] = []

    def keep(
        expected: list[int], tags: list[str], *words: str, is_incremental: bool = False
    ) -> dict[str, Any]:
        report = make_archive(vm, *words)
        assert report["incremental"] is is_incremental, report
        kept.append((state_name(report), expected, tags, is_incremental))
        return report

    vm.ok("start", "--no-wait")
    write_live(vm, "-P 5 1M 64k")
    write_live(vm, "-P 5 2M 64k")
    first = keep([5, 5, 0, 0], [])
    assert first["consistency"] == "crash-consistent"
    assert "data.raw is not in the archive: the guest only reads it" in first["notes"]
    write_live(vm, "-P 6 1M 64k")
    write_live(vm, "-z 2M 64k")
    keep([6, 0, 0, 0], [], is_incremental=True)
    write_live(vm, "-P 7 3M 128k")
    keep([6, 0, 7, 0], [], "-z", "zstd", is_incremental=True)
    assert "snapshots were added or removed" in keep([6, 0, 7, 0], ["s1"], "--savevm", "s1")["notes"][-1]
    assert vm.ok("status", "-s").out.startswith("demo: running")
    write_live(vm, "-P 8 3M 64k")
    keep([6, 0, 8, 0], ["s1"], is_incremental=True)
    write_live(vm, "-P 9 3M 64k")
    vm.ok("kill")  # QEMU quits in order: it keeps the bitmap
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 10 4M 64k")
    keep([6, 0, 9, 10], ["s1"], is_incremental=True)
    notes = keep([6, 0, 9, 10], [], "--delvm", "s1")["notes"]
    assert notes[-1] == "copied whole: without the snapshot s1"
    vm.ok("kill")
    vm.ok("start", "--no-wait", "--loadvm", "s1")  # a state that is loaded ends the bitmaps
    assert "not known" in keep([6, 0, 7, 0], ["s1"])["notes"][-1]
    write_live(vm, "-P 11 4M 64k")
    os.kill(vm.pid, signal.SIGKILL)  # the bitmap on the disk says itself that it is not whole
    wait_until(lambda: "crashed" in vm.qvm("status", "-s").out)
    vm.ok("start", "--no-wait")
    assert "not known" in keep([6, 0, 7, 11], ["s1"])["notes"][-1]
    vm.ok("kill")
    assert len(archived_states(vm)) == len(kept)
    for name, expected, tags, _ in kept:
        vm.ok("restore", "--force", name)
        assert read_bytes(vm, *places) == expected, name
        assert snapshot_names(vm) == tags
        qemu_img(vm, "check", "demo-backing.qcow2")
        assert "bitmaps" not in qemu_img(vm, "info", "demo-backing.qcow2")
    vm.ok("archive", "--verify", first["archive"])
    vm.ok("start", "--no-wait", "--loadvm", "s1")
    require_nothing_left(vm)


def test_archive_compressed_restores(blank: Blank) -> None:
    """By each tool, in one archive; with -b the base too, in an archive of its own."""
    vm = blank()
    made = []
    tools = (("xz", "xz"), ("gzip", "gz"), ("bzip2", "bz2"), ("zstd", "zst"), ("lz4", "lz4"))
    for value, (tool, suffix) in enumerate(tools, start=1):
        write_byte(vm, value, "0")
        words = {"xz": ["-b"], "lz4": ["--create", "-b"]}.get(tool, [])
        made.append(make_archive(vm, "-z", tool, *words))
        folder, stamp = vm.directory / made[-1]["archive"], made[-1]["stamp"]
        middle = "" if words else f"-{stamp}"
        assert (folder / f"demo-backing{middle}.qcow2.{suffix}").exists()
        assert not (folder / "demo-base.qcow2").exists()
        assert f"{state_name(made[-1])} is good" in vm.ok("archive", "--verify", state_name(made[-1])).out
    for value, report in enumerate(made, start=1):
        vm.ok("restore", "-f", state_name(report))
        assert read_byte(vm, "0") == value


def test_archive_damaged_is_found_and_leaves_the_machine_alone(blank: Blank) -> None:
    vm = blank()
    write_byte(vm, 1, "0")
    made = make_archive(vm)
    write_byte(vm, 2, "0")
    path = vm.directory / made["archive"] / "demo-backing.qcow2"
    with path.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"x")
    for words in (["archive", "--verify"], ["restore", "-f", "latest"]):
        result = vm.qvm(*words)
        assert result.status == 1
        assert "demo-backing.qcow2" in result.err
        assert "checksum differs" in result.err
    assert read_byte(vm, "0") == 2
    path.unlink()
    assert "is missing" in vm.qvm("archive", "--verify").err
    assert "is missing" in vm.qvm("restore", "-f", "latest").err
    assert read_byte(vm, "0") == 2
    require_nothing_left(vm)


def test_archive_in_the_layout_of_vm_lists_restores_and_runs(blank: Blank) -> None:
    """Made by hand, as `vm` does it: no manifest, no settings."""
    vm = blank()
    write_byte(vm, 1, "0")
    folder = vm.directory / "demo-20250102030405"
    folder.mkdir()
    shutil.copy(vm.directory / "demo-base.qcow2", folder)
    shutil.copy(vm.directory / "demo-backing.qcow2", folder)
    write_byte(vm, 2, "0")
    shutil.copy(vm.directory / "demo-backing.qcow2", folder / "demo-backing-20250203040506.qcow2")
    subprocess.run(["xz", folder / "demo-backing-20250203040506.qcow2"], check=True)
    rows = archived_states(vm)
    assert [row["stamp"] for row in rows] == ["20250102030405", "20250203040506"]
    assert not any(row["has_checksums"] for row in rows)
    assert "has no checksums" in vm.ok("archive", "--verify", folder.name).out
    vm.ok("restore", "-f", "20250102030405")
    assert read_byte(vm, "0") == 1
    vm.ok("restore", "-f", "20250203040506")
    assert read_byte(vm, "0") == 2
    vm.ok("restore", folder.name, "../twin")
    assert read_byte(Vm(vm.world, vm.world.home / "twin"), "0", "twin-backing.qcow2") == 2
    shutil.copy(vm.directory / ".vmrc", folder)
    inside = Vm(vm.world, folder)
    assert read_byte(inside, "0") == 1
    inside.ok("start", "--no-wait")
    inside.ok("kill")


def test_archive_own_runs_with_its_vmrc_beside_it(blank: Blank) -> None:
    vm = blank()
    write_byte(vm, 1, "0")
    made = make_archive(vm)
    inside = Vm(vm.world, vm.directory / made["archive"])
    shutil.copy(vm.directory / ".vmrc", inside.directory)
    inside.ok("start", "--disposable", "--no-wait")
    write_live(inside, "-P 3 0 64k")
    inside.ok("kill")
    assert read_byte(inside, "0") == 1
    vm.ok("archive", "--verify")


def test_archive_keep_rotates_but_keeps_the_last_good_one(blank: Blank) -> None:
    vm = blank()
    names = []
    for value in range(1, 5):
        write_byte(vm, value, "0")
        names.append(state_name(make_archive(vm)))
    write_byte(vm, 5, "0")
    report = make_archive(vm, "--keep", "2")
    assert report["removed"] == names[:3]
    assert [f"{row['archive']}/{row['stamp']}" for row in archived_states(vm)] == [
        names[3],
        state_name(report),
    ]
    good = names[3]
    newest = vm.directory / report["archive"] / f"demo-backing-{report['stamp']}.qcow2"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    result = vm.ok("--json", "archive", "--keep", "1", "--keep-days", "0.000001")
    assert json.loads(result.out)["removed"] == []
    assert "its checksum differs; an older state is kept instead" in result.err
    # the state with which the archive was begun is gone, the base and what stands on it are still there
    vm.ok("restore", "-f", good)
    assert read_byte(vm, "0") == 4
    # changes are backed by what they change
    vm.ok("start", "--no-wait")
    whole = make_archive(vm)
    write_live(vm, "-P 6 1M 64k")
    last = make_archive(vm, "--keep", "1")
    assert last["incremental"]
    left = [f"{row['archive']}/{row['stamp']}" for row in archived_states(vm)]
    assert left == [state_name(whole), state_name(last)]
    vm.ok("archive", "--verify")


def test_archive_elsewhere_by_vm_archive(blank: Blank) -> None:
    vm = blank(VM_ARCHIVE="../store/deep")
    write_byte(vm, 1, "0")
    made = make_archive(vm)
    assert (vm.world.home / "store/deep" / made["archive"] / "manifest.json").exists()
    write_byte(vm, 2, "0")
    vm.ok("restore", "-f", "latest")
    assert read_byte(vm, "0") == 1
    assert "VM_ARCHIVE=ssh://nowhere" in vm.qvm("--set", "VM_ARCHIVE=ssh://nowhere", "archive").err


def test_archive_refuses_what_makes_no_sense(blank: Blank) -> None:
    vm = blank()
    for words in (
        ["-b"], ["-c", "-s", "x"], ["--list", "--verify"], ["--boot"], ["--keep", "0"], ["--drop-snapshots"],
        ["-z", "rar"], ["some-archive"],
    ):  # fmt: skip
        assert vm.qvm("archive", *words).status == 2, words
    assert vm.qvm("archive", "-s", "x").status == 3
    assert vm.qvm("archive", "-d", "x").status == 3
    assert vm.qvm("restore", "latest").status == 2
    assert "qvm: 'nix' is not an archive; there is none in " in vm.qvm("restore", "nix", "../new").err
    assert vm.qvm("archive", "--verify").status == 2
    assert "no archive in" in vm.ok("archive", "--list").out
    vm.ok("start", "--no-wait")
    refused = vm.qvm("archive", "--create")
    assert refused.status == 3
    assert "hint: `qvm archive` without --create works while it runs" in refused.err
    vm.ok("archive")
    (vm.directory / "file").touch()
    for place, said in (
        ("", "qvm: restore: the name of the directory is empty"),
        ("file", "qvm: restore: file already exists and is not a folder"),
        ("file/x", f"qvm: restore: there is no folder {vm.directory}/file"),
        ("/proc/x", "hint: no folder can be created there; choose another place"),
    ):
        refused = vm.qvm("restore", "latest", place)
        assert said in refused.err, str(refused)
        assert "free some space" not in refused.err
    assert vm.qvm("restore", "latest").status == 3
    vm.ok("kill")
    vm.ok("start", "--no-wait", "--disposable")
    assert "disposable" in vm.qvm("archive").err
    require_nothing_left(vm)


def test_archive_at_work_keeps_others_out(blank: Blank) -> None:
    """Two at once; stop against archive. The first is held in the middle of its copy."""
    vm = blank()
    write_byte(vm, 1, "0")
    vm.ok("start", "--no-wait")
    child = begin_held(vm, "qvmsh.machine.archive.writer:Writer.put_top", "archive")
    try:
        for words in (["archive"], ["stop"], ["restore", "-f", "latest"], ["pause"]):
            result = vm.qvm(*words)
            assert result.status in (2, 3), str(result)
            assert words[0] == "restore" or "`qvm archive`, pid " in result.err
    finally:
        child.send_signal(signal.SIGCONT)
        out, err = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 0, out + err
    assert Path(vm.directory / ".qvm/archive.unfinished").exists() is False
    vm.ok("archive")
    require_nothing_left(vm)


def test_archive_running_after_a_commit_has_that_disk(blank: Blank) -> None:
    """After a live commit QEMU names the overlay `json:{...}`; it is the machine's own disk all the same."""
    vm = blank()
    write_byte(vm, 1, "0")
    vm.ok("start", "--no-wait")
    vm.ok("disk", "commit")
    write_live(vm, "-P 2 1M 64k")
    made = make_archive(vm)
    assert not made["notes"]
    vm.ok("restore", state_name(made), "../twin")
    twin = Vm(vm.world, vm.world.home / "twin")
    assert (read_byte(twin, "0", "twin-backing.qcow2"), read_byte(twin, "1M", "twin-backing.qcow2")) == (1, 2)


def test_archive_says_which_disk_came_after_the_start(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "late.qcow2", "1M")
    vm.set(VM_DISKS="late.qcow2")
    assert make_archive(vm)["notes"] == [
        "late.qcow2 is not in the archive: the machine was started without it"
    ]


def test_archive_with_a_silent_agent_is_crash_consistent(blank: Blank) -> None:
    vm = blank(VM_GUEST_AGENT="yes")
    vm.ok("start", "--no-wait")
    made = make_archive(vm)
    assert (made["consistency"], made["notes"]) == ("crash-consistent", [])


def test_archive_list_columns_line_up(blank: Blank) -> None:
    vm = blank()
    vm.ok("archive")
    write_byte(vm, 1, "1M")
    vm.ok("snapshot", "save", "before")
    vm.ok("archive")
    write_byte(vm, 2, "2M")
    vm.ok("archive")
    lines = vm.ok("archive", "--list").out.splitlines()
    assert len(lines) == 3
    rows = [
        re.fullmatch(r"(\S+)  (\S+ \S+)  ( *[\d.]+ \S+)  (whole|changes since \S+) +(off)( .*)?", row)
        for row in lines
    ]
    assert all(rows), lines
    places = {tuple(row.start(part) for part in (2, 3, 4, 5)) for row in rows if row}
    assert len(places) == 1, lines
    assert "  snapshots: before" in lines[2]
