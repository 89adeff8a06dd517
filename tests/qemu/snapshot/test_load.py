"""`start --loadvm` with real QEMU and two disks: it continues from the state, or the disks are unchanged."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from qvmsh.qemu import qcow2
from tests.support.killer import Killer
from tests.support.programs import qemu_img
from tests.support.snapshots import patterns_of, tags, write_disks
from tests.support.world import Blank, Vm

USUAL, LONG = 2, 20
DISKS = ["demo-backing.qcow2", "data.qcow2"]


def require_recovered(vm: Vm) -> None:
    assert not list((vm.directory / ".qvm").glob("*unfinished*"))
    for disk in DISKS:
        qemu_img(vm, "check", "-q", disk)


def spoil(disk: Path) -> None:
    """Let the first snapshot's table of a disk lie where nothing is."""
    with disk.open("r+b") as file:
        offset = struct.unpack(">Q", file.read(72)[64:72])[0]
        file.seek(offset)
        file.write(struct.pack(">Q", 0x7FFFFFFF00000001))


@pytest.fixture
def saved(blank: Blank) -> Vm:
    """A machine that is off, with the saved state `work`."""
    vm = blank(VM_DISKS="data.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", DISKS[1], "16M")
    write_disks(vm, 1, *DISKS)
    vm.ok("start", "--no-wait")
    vm.ok("stop", "--savevm", "work", "--no-suspend")
    return vm


def test_state_of_other_hardware_is_refused_and_keeps_the_disks(saved: Vm) -> None:
    write_disks(saved, 2, *DISKS)
    saved.set(VM_MACHINE_MEM="96")
    refused = saved.qvm("start", "--no-wait", "--loadvm", "work")
    assert refused.status == 3
    assert (
        "the hardware differs from that of the snapshot work: VM_MACHINE_MEM was 64, and is 96" in refused.err
    )
    assert patterns_of(saved, [1, 2], *DISKS) == [2, 2]
    failed = saved.qvm("start", "--no-wait", "--force", "--loadvm", "work")
    assert failed.status == 1, str(failed)
    assert "demo: cannot load the snapshot work: " in failed.err
    assert "the start from the snapshot work, begun " in failed.err
    assert "was undone: the disks are as before" in failed.err
    assert patterns_of(saved, [1, 2], *DISKS) == [2, 2]
    assert saved.qvm("status", "-s").out == "demo: stopped\n"
    assert tags(saved, *DISKS) == [["work"]] * 2
    require_recovered(saved)
    saved.set(VM_MACHINE_MEM="64")
    saved.ok("start", "--no-wait", "--loadvm", "work")
    saved.ok("kill")
    assert patterns_of(saved, [1, 2], *DISKS) == [1, 1]
    assert tags(saved, *DISKS) == [["work"]] * 2
    require_recovered(saved)


def test_load_that_fails_on_the_second_disk_leaves_no_mixture(saved: Vm) -> None:
    write_disks(saved, 2, *DISKS)
    spoil(saved.directory / DISKS[1])
    failed = saved.qvm("start", "--no-wait", "--loadvm", "work")
    assert failed.status == 1
    assert "was undone: the disks are as before" in failed.err
    assert patterns_of(saved, [1, 2], *DISKS) == [2, 2]
    saved.ok("start", "--no-wait")
    assert patterns_of(saved, [1, 2], *DISKS) == [2, 2]


def cut_off_while_it_loads(saved: Vm) -> None:
    """The journal of a `start --loadvm` that was killed when the disks were about to go back."""
    journal = {
        "what": "load", "name": "work", "phase": "load", "was_running": True, "has_memory": False,
        "is_frozen": False, "entry": None, "disks": [["disk0", DISKS[0]], ["disk1", DISKS[1]]], "pid": 1,
        "since": "2026-11-21 10:00:00",
    }  # fmt: skip
    (saved.directory / ".qvm/snapshot.unfinished").write_text(json.dumps(journal))


def test_start_killed_between_two_disks_goes_back_on_both(saved: Vm) -> None:
    """The moment that chance would not find."""
    write_disks(saved, 2, *DISKS)
    for disk in DISKS:
        qemu_img(saved, "snapshot", "-c", ".qvm-back", disk)
    qemu_img(saved, "snapshot", "-a", "work", DISKS[0])
    cut_off_while_it_loads(saved)
    assert patterns_of(saved, [1, 2], *DISKS) == [1, 2]
    errors = saved.ok("start", "--no-wait").err
    assert (
        "the start from the snapshot work, begun 2026-11-21 10:00:00, was interrupted, and was undone"
        in errors
    )
    assert patterns_of(saved, [1, 2], *DISKS) == [2, 2]
    assert tags(saved, *DISKS) == [["work"]] * 2


def test_start_killed_while_qemu_loads_ends_it_and_goes_back(saved: Vm) -> None:
    saved.ok("start", "--no-wait")
    saved.ok("pause")
    for disk in ("disk0", "disk1"):
        saved.ok("qmp", "blockdev-snapshot-internal-sync", f"device={disk}", "name=.qvm-back")
    note = saved.directory / ".qvm/running"
    note.write_text(note.read_text().replace("loading \n", "loading work\n"))
    cut_off_while_it_loads(saved)
    assert "the `qvm start` that was loading work was interrupted" in saved.qvm("status").out
    result = saved.qvm("resume")
    assert result.status == 3
    assert "was undone: the disks are as before" in result.err
    assert saved.qvm("status").out.startswith("demo: stopped")
    assert tags(saved, *DISKS) == [["work"]] * 2
    require_recovered(saved)


def test_disks_as_they_were_need_no_way_back(saved: Vm) -> None:
    at = {disk: qcow2.snapshots(str(saved.directory / disk))[0].id for disk in DISKS}
    assert all(qcow2.is_as_then(str(saved.directory / disk), at[disk]) for disk in DISKS)
    saved.ok("start", "--no-wait", "--loadvm", "work")
    saved.ok("kill")
    write_disks(saved, 1, *DISKS)  # in place of shared clusters
    assert not any(qcow2.is_as_then(str(saved.directory / disk), at[disk]) for disk in DISKS)
    qemu_img(saved, "create", "-q", "-f", "qcow2", "other.qcow2", "16M")
    qemu_img(saved, "snapshot", "-c", "a", "other.qcow2")
    assert qcow2.is_as_then(str(saved.directory / "other.qcow2"), "1")
    qemu_img(saved, "resize", "-q", "other.qcow2", "17M")
    assert not qcow2.is_as_then(str(saved.directory / "other.qcow2"), "1")


def test_load_says_that_the_next_archive_will_be_whole(saved: Vm) -> None:
    qemu_img(saved, "bitmap", "--add", DISKS[1], "archive")
    errors = saved.ok("start", "--no-wait", "--loadvm", "work").err
    assert "demo: the next incremental archive will be a full one" in errors


def test_undo_point_of_another_restore_is_not_used(saved: Vm) -> None:
    for disk in DISKS:
        qemu_img(saved, "snapshot", "-c", ".qvm-back", disk)
    write_disks(saved, 2, *DISKS)
    spoil(saved.directory / DISKS[1])
    failed = saved.qvm("snapshot", "restore", "work")
    assert failed.status == 1
    assert "was undone: the disks are as before" in failed.err
    assert patterns_of(saved, [1, 2], *DISKS) == [2, 2]


def check_killed(vm: Vm, count: int) -> None:
    killer = Killer(vm, "start --loadvm")
    for turn in range(count):
        write_disks(vm, 2, *DISKS)
        killer.kill(("qvm", "all")[turn % 2], "start", "--no-wait", "--loadvm", "work")
        vm.qvm("doctor", "--fix")
        vm.kill()
        assert patterns_of(vm, [1, 2], *DISKS) in ([1, 1], [2, 2])
        assert tags(vm, *DISKS) == [["work"]] * 2
        require_recovered(vm)
    if count == LONG:
        killer.require_hits()


def test_start_killed_leaves_the_disks_of_one_moment(saved: Vm) -> None:
    check_killed(saved, USUAL)


@pytest.mark.long
def test_start_killed_leaves_the_disks_of_one_moment_long(saved: Vm) -> None:
    check_killed(saved, LONG)
