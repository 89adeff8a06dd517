"""Series of snapshots: `--keep`, `snapshot prune`, VM_SNAPSHOT_ON_STOP, and vmctl.sh's words (real QEMU)."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import pytest

from tests.support.disks import snapshot_names, two_disks
from tests.support.monitor import ask, monitor
from tests.support.programs import qemu_img
from tests.support.world import Blank, Vm, wait_until

STAMP = r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d"
DISKS = ["demo-backing.qcow2", "data.qcow2"]


def report(vm: Vm, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(vm.ok("--json", *words).out)
    return found


def saved(vm: Vm, *words: str) -> str:
    """The name of a snapshot that is saved now."""
    name: str = report(vm, "snapshot", "save", *words)["snapshot"]
    return name


@pytest.fixture
def vm(blank: Blank) -> Vm:
    return two_disks(blank)


def test_save_keeps_the_newest_of_its_series_only(vm: Vm) -> None:
    vm.ok("snapshot", "save", "auto")
    mail, bare = saved(vm, "-t", "mail"), saved(vm)
    made = [saved(vm, "--keep", "3", "auto") for _ in range(5)]
    assert all(re.fullmatch(rf"{STAMP}-auto", name) for name in made)
    assert [snapshot_names(vm, disk) for disk in DISKS] == [["auto", mail, bare, *made[2:]]] * 2
    last = vm.ok("snapshot", "save", "auto", "--keep", "2", "-m", "x").out.splitlines()
    assert re.fullmatch(rf"demo: saved the snapshot {STAMP}-auto \(2 disks\) in .* s", last[0])
    assert last[1:] == [f"demo: removed the old snapshot {name}" for name in made[2:4]]
    assert report(vm, "snapshot", "verify", made[4])["snapshots"][0]["problems"] == []


def test_save_while_on_keeps_the_newest_with_memory(vm: Vm) -> None:
    vm.ok("start", "--no-wait")
    made = [report(vm, "snapshot", "save", "live", "--keep", "1") for _ in range(2)]
    assert made[1]["removed"] == [made[0]["snapshot"]]
    assert made[1]["memory"] is True
    vm.ok("snapshot", "restore", "live", "--no-wait")  # the only one of its series
    assert vm.qvm("status", "-s").out == f"demo: running (pid {vm.pid})\n"


def test_prune_spares_what_others_descend_from(vm: Vm) -> None:
    a, b = saved(vm, "-t", "n"), saved(vm, "-t", "n")
    vm.ok("snapshot", "save", "mine")
    made = [saved(vm, "-t", "n") for _ in range(2)]
    vm.ok("snapshot", "restore", made[0])
    result = report(vm, "snapshot", "prune", "n", "--keep", "1")
    assert (result["removed"], result["spared"]) == ([a], {b: ["mine"], made[0]: ["the current state"]})
    again = vm.ok("snapshot", "prune", "n", "--keep", "1").out.splitlines()
    assert again == [
        f"demo: kept the old snapshot {b}: mine descends from it",
        f"demo: kept the old snapshot {made[0]}: the current state descends from it",
    ]
    assert report(vm, "snapshot", "prune", "n", "--keep", "1", "--children")["removed"] == [b, made[0]]
    assert snapshot_names(vm) == ["mine", made[1]]
    assert vm.ok("snapshot", "prune", "n", "--keep", "1").out == "demo: no old snapshots\n"


def test_two_series_do_not_keep_each_other(vm: Vm) -> None:
    made = [saved(vm, name, "--keep", "1") for _ in range(3) for name in ("nightly", "hourly")]
    assert [snapshot_names(vm, disk) for disk in DISKS] == [made[-2:]] * 2
    vm.ok("snapshot", "save", "mine")
    last = report(vm, "snapshot", "save", "hourly", "--keep", "1")
    assert (last["removed"], last["spared"]) == ([], {made[-1]: ["mine"]})


def test_fork_stays_until_only_one_branch_is_left(vm: Vm) -> None:
    first = saved(vm, "-t", "n")
    other = saved(vm, "-t", "x")
    vm.ok("snapshot", "restore", first)
    second = report(vm, "snapshot", "save", "n", "--keep", "1")
    assert (second["removed"], second["spared"]) == ([], {first: [other, second["snapshot"]]})
    vm.ok("snapshot", "delete", other)
    assert report(vm, "snapshot", "save", "n", "--keep", "1")["removed"] == [first, second["snapshot"]]


def dated(vm: Vm, year: int) -> None:
    """Change the year of the first snapshot in each image, as a wrong clock would have."""
    for disk in DISKS:
        with open(vm.directory / disk, "r+b") as file:
            file.seek(64)
            (table,) = struct.unpack(">Q", file.read(8))
            file.seek(table + 16)
            file.write(struct.pack(">I", (year - 1970) * 31556952))


def test_save_after_a_wrong_clock_is_the_newest(vm: Vm) -> None:
    first = saved(vm, "-t", "n")
    dated(vm, 2036)
    second = report(vm, "snapshot", "save", "n", "--keep", "1")
    assert (second["removed"], second["spared"]) == ([first], {})
    assert snapshot_names(vm) == [second["snapshot"]]
    dated(vm, 2036)
    third = saved(vm, "n", "--keep", "2")
    assert snapshot_names(vm) == [second["snapshot"], third]


def test_rotation_leaves_those_of_another_machine(blank: Blank, vm: Vm) -> None:
    other = blank("other", VM_DISKS="../demo/data.qcow2")
    foreign = [saved(other, "nightly", "--keep", "3") for _ in range(2)]
    mine = [saved(vm, "nightly", "--keep", "1") for _ in range(2)]
    assert [snapshot_names(vm, disk) for disk in DISKS] == [mine[1:], [*foreign, mine[1]]]
    assert [each["problems"] for each in report(other, "snapshot", "verify", *foreign)["snapshots"]] == [
        [],
        [],
    ]
    assert report(other, "snapshot", "prune", "nightly", "--keep", "1")["removed"] == foreign[:1]
    vm.set(VM_SNAPSHOT_ON_STOP="1", VM_QEMU_EXTRA="-no-shutdown -global virtio-net-pci.romfile=")
    auto = saved(other, "-t", "auto")
    for _ in range(2):
        shut_down(vm)
        stopped = report(vm, "stop")["snapshot"]
    assert snapshot_names(vm, "data.qcow2") == [foreign[1], mine[1], auto, stopped]


def test_short_name_means_none_of_another_machine(blank: Blank, vm: Vm) -> None:
    other = blank("other", VM_DISKS="../demo/data.qcow2")
    foreign = saved(other, "-t", "nightly")
    for verb in ("delete", "show", "verify", "restore"):
        result = vm.qvm("snapshot", verb, "nightly")
        assert (result.status, "there is no snapshot nightly" in result.err) == (3, True)
    mine = saved(vm, "-t", "nightly")
    for verb in ("show", "verify", "restore", "delete"):
        assert mine in vm.ok("snapshot", verb, "nightly").out
    assert snapshot_names(vm, "data.qcow2") == [foreign]
    vm.ok("snapshot", "delete", foreign)  # asked for by its name
    assert snapshot_names(vm, "data.qcow2") == []


def test_rotation_counts_those_from_before_a_disk_was_added(blank: Blank) -> None:
    vm = blank()
    first = saved(vm, "-t", "n")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "16M")
    vm.set(VM_DISKS="data.qcow2")
    assert report(vm, "snapshot", "save", "n", "--keep", "1")["removed"] == [first]


def test_prune_by_days_leaves_the_newest(vm: Vm) -> None:
    made = [saved(vm, "-t", "n") for _ in range(3)]
    assert report(vm, "snapshot", "prune", "n", "--keep-days", "1")["removed"] == []
    assert report(vm, "snapshot", "prune", "n", "--keep", "2", "--keep-days", "0")["removed"] == made[:1]
    assert report(vm, "snapshot", "prune", "n", "--keep-days", "0")["removed"] == made[1:2]
    assert snapshot_names(vm) == made[2:]


def test_prune_of_nothing_names_what_is_there(vm: Vm) -> None:
    empty = vm.qvm("snapshot", "prune", "nightly", "--keep", "3")
    assert (empty.status, "begins one" in empty.err) == (3, True)
    saved(vm, "-t", "mail")
    result = vm.qvm("snapshot", "prune", "nightly", "--keep", "3")
    assert result.status == 3
    assert (
        "demo: there is no snapshot called TIME-nightly\nhint: series that are there: mail: 1" in result.err
    )
    assert vm.qvm("snapshot", "prune", "mail").status == 2
    assert vm.qvm("snapshot", "prune", "mail", "--keep", "0").status == 2
    assert vm.qvm("snapshot", "save", "mail", "--keep", "0").status == 2
    assert vm.qvm("snapshot", "save", "mail", "--keep", "1", "--replace").status == 2


def test_save_stays_when_an_old_one_cannot_be_removed(vm: Vm) -> None:
    first = saved(vm, "-t", "n")
    qemu_img(vm, "snapshot", "-c", first, "data.qcow2")  # two of one name
    result = vm.qvm("snapshot", "save", "n", "--keep", "1")
    assert result.status == 3
    assert re.search(
        rf"demo: the snapshot {STAMP}-n was saved, but an old one cannot be removed: amb", result.err
    )
    assert len(snapshot_names(vm)) == 2
    assert first in snapshot_names(vm)


def test_save_that_fails_removes_nothing(vm: Vm) -> None:
    made = [saved(vm, "-t", "n") for _ in range(2)]
    qemu_img(vm, "create", "-q", "-f", "raw", "raw.img", "1M")
    vm.set(VM_DISKS="data.qcow2\nraw.img")
    assert vm.qvm("snapshot", "save", "n", "--keep", "1").status == 3
    assert snapshot_names(vm) == made


def test_words_of_vmctl_keep_their_meaning(vm: Vm) -> None:
    vm.ok("start", "--no-wait")
    vm.ok("save-disk", "nightly")
    vm.ok("kill")
    vm.ok("save-disk")
    found = report(vm, "list-disk")
    assert [row["drive_id"] for row in found["disks"]] == ["disk0", "disk1"]
    assert [row["disk"] for row in found["disks"]] == DISKS
    for row in found["disks"]:
        assert [each["id"] for each in row["snapshots"]] == ["1", "2"]
        tags = [each["tag"] for each in row["snapshots"]]
        assert re.fullmatch(rf"{STAMP}-nightly", tags[0])
        assert re.fullmatch(rf"{STAMP}-auto", tags[1])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*", row["snapshots"][0]["date"])
    assert not any(row["memory"] for row in found["snapshots"])
    assert "drive_id" not in report(vm, "snapshot", "list")["disks"][0]
    assert report(vm, "restore-disk", "nightly")["snapshot"] == tags[0]
    for words in (["show"], ["verify"], ["diff"]):
        assert tags[0] in vm.ok("snapshot", *words, "nightly").out
    vm.ok("save-disk", "nightly")
    names = [name for name in snapshot_names(vm) if name.endswith("nightly")]
    for verb in ("restore-disk", "delete-disk"):
        result = vm.qvm(verb, "nightly")
        assert result.status == 1
        assert "demo: 2 snapshots are called nightly after their time" in result.err
        assert all(name in result.err for name in names)
    assert report(vm, "delete-disk", "auto")["snapshots"] == [tags[1]]
    assert vm.qvm("delete-disk", "auto").status == 3


def shut_down(vm: Vm) -> None:
    """Start it; its firmware's guest powers off, and QEMU stays."""
    vm.ok("start", "--no-wait")

    def is_off() -> bool:
        monitor(vm, "o /w 0x604 0x2000")  # nothing happens until the firmware has run
        return bool(ask(vm, "query-status")["status"] == "shutdown")

    wait_until(is_off)


def test_stop_saves_the_disks_and_keeps_so_many(vm: Vm) -> None:
    vm.set(VM_SNAPSHOT_ON_STOP="2", VM_QEMU_EXTRA="-no-shutdown -global virtio-net-pci.romfile=")
    made = []
    for _ in range(3):
        shut_down(vm)
        made.append(report(vm, "stop")["snapshot"])
    assert all(re.fullmatch(rf"{STAMP}-auto", name) for name in made)
    assert [snapshot_names(vm, disk) for disk in DISKS] == [made[1:]] * 2
    shut_down(vm)
    assert re.search(rf"; saved the disks as {STAMP}-auto$", vm.ok("stop").out.strip())
    before = snapshot_names(vm)
    vm.ok("start", "--no-wait")
    assert report(vm, "stop", "--force", "--timeout", "0")["snapshot"] is None  # not clean
    vm.ok("start", "--no-wait")
    assert report(vm, "kill")["snapshot"] is None
    assert snapshot_names(vm) == before


def test_stop_warns_if_the_disks_cannot_be_saved(vm: Vm) -> None:
    qemu_img(vm, "create", "-q", "-f", "raw", "raw.img", "1M")
    vm.set(
        VM_SNAPSHOT_ON_STOP="2",
        VM_QEMU_EXTRA="-no-shutdown -global virtio-net-pci.romfile=",
        VM_DISKS="data.qcow2\nraw.img",
    )
    shut_down(vm)
    result = vm.ok("stop")
    assert "qvm: demo: it is powered off, but VM_SNAPSHOT_ON_STOP failed: " in result.err
    assert snapshot_names(vm) == []
