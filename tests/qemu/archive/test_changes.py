"""Changes only, where disks and stores come and go: what is restored is what the machine had then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.archives import archived_states, make_archive, require_nothing_left, state_name
from tests.support.disks import read_byte, write_byte, write_live
from tests.support.programs import qemu_img, qemu_io
from tests.support.small_disk import small_disk
from tests.support.world import DEADLINE_S, Blank, Vm


def disk(vm: Vm, name: str, value: int = 0) -> None:
    qemu_img(vm, "create", "-q", "-f", "qcow2", f"./{name}", "16M")
    if value:
        write_byte(vm, value, "0", name)


def archived_on(vm: Vm, *words: str, written: str = "", node: str = "disk0") -> dict[str, Any]:
    """Archive while it is on, after a write; it is off afterwards."""
    vm.ok("start", "--no-wait")
    if written:
        write_live(vm, written, node)
    report = make_archive(vm, *words)
    vm.ok("kill")
    return report


def twin(vm: Vm, report: dict[str, Any]) -> Vm:
    """A new machine of an archived state."""
    shutil.rmtree(vm.world.home / "twin", ignore_errors=True)
    assert "is good" in vm.ok("archive", "--verify", state_name(report)).out
    vm.ok("restore", state_name(report), "../twin")
    return Vm(vm.world, vm.world.home / "twin")


def test_two_stores_in_turn_each_have_all_that_was_written(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    vm.set(VM_ARCHIVE="../a")
    write_live(vm, "-P 1 0 64k")
    first = make_archive(vm)
    assert f"created {vm.world.home / 'a'}, which did not exist" in first["notes"]
    write_live(vm, "-P 2 1M 64k")
    vm.set(VM_ARCHIVE="../b")
    second = make_archive(vm)
    assert first["stamp"] == second["stamp"]  # the base's; two states of one name
    write_live(vm, "-P 3 2M 64k")
    vm.set(VM_ARCHIVE="../a")
    third = make_archive(vm)
    assert not third["incremental"]
    write_live(vm, "-P 4 3M 64k")
    fourth = make_archive(vm)
    assert fourth["incremental"]
    vm.ok("kill")
    made = twin(vm, third)
    assert [read_byte(made, at, "twin-backing.qcow2") for at in ("0", "1M", "2M", "3M")] == [1, 2, 3, 0]
    made = twin(vm, fourth)
    assert [read_byte(made, at, "twin-backing.qcow2") for at in ("0", "1M", "2M", "3M")] == [1, 2, 3, 4]


def test_disks_that_change_places_are_copied_whole(blank: Blank) -> None:
    vm = blank()
    disk(vm, "a.qcow2", 0xA1)
    disk(vm, "b.qcow2", 0xB1)
    vm.set(VM_DISKS="a.qcow2\nb.qcow2")
    archived_on(vm)
    vm.set(VM_DISKS="b.qcow2\na.qcow2")
    made = twin(vm, archived_on(vm))
    assert [read_byte(made, "0", name) for name in ("a.qcow2", "b.qcow2")] == [0xA1, 0xB1]


def test_file_of_another_disk_is_copied_whole(blank: Blank) -> None:
    """Its bitmap records what has changed since another disk's state: swapped, then the one copied."""
    vm = blank()
    disk(vm, "a.qcow2", 0xA1)
    disk(vm, "b.qcow2", 0xB1)
    vm.set(VM_DISKS="a.qcow2\nb.qcow2")
    archived_on(vm)
    a, b = vm.directory / "a.qcow2", vm.directory / "b.qcow2"
    for at, (now_a, now_b) in enumerate(((0xB1, 0xA1), (0xB1, 0xB1)), start=1):
        if at == 1:
            old = shutil.copyfile(b, vm.directory / "old")
            shutil.copyfile(a, b)
            old.rename(a)
        else:
            shutil.copyfile(a, b)
        report = archived_on(vm, written=f"-P 3 {at}M 64k")
        assert "copied whole: what has changed since the last state is not known" in report["notes"]
        made = twin(vm, report)
        assert read_byte(made, f"{at}M", "twin-backing.qcow2") == 3
        assert [read_byte(made, "0", name) for name in ("a.qcow2", "b.qcow2")] == [now_a, now_b]
    assert archived_on(vm)["incremental"]


def test_disk_that_was_away_is_backed_by_the_state_that_has_it(blank: Blank) -> None:
    vm = blank()
    disk(vm, "a.qcow2", 0xA1)
    vm.set(VM_DISKS="a.qcow2")
    archived_on(vm)
    vm.set(VM_DISKS="")
    archived_on(vm, written="-P 2 0 64k")
    vm.set(VM_DISKS="a.qcow2")
    report = archived_on(vm, written="-P 3 1M 64k", node="disk1")
    made = twin(vm, report)
    assert read_byte(made, "0", "twin-backing.qcow2") == 2
    assert [read_byte(made, at, "a.qcow2") for at in ("0", "1M")] == [0xA1, 3]


def test_rotation_keeps_all_that_a_disk_is_backed_by(blank: Blank) -> None:
    vm = blank()
    disk(vm, "a.qcow2", 0xA1)
    vm.set(VM_DISKS="a.qcow2")
    archived_on(vm)
    vm.set(VM_DISKS="")
    archived_on(vm, "--full")
    vm.set(VM_DISKS="a.qcow2")
    report = archived_on(vm, "--keep", "1")
    assert len(archived_states(vm)) == 3
    assert read_byte(twin(vm, report), "0", "a.qcow2") == 0xA1


def test_restored_older_copy_is_backed_by_its_own_state(blank: Blank) -> None:
    vm = blank()
    disk(vm, "a.qcow2")
    vm.set(VM_DISKS="a.qcow2")
    archived_on(vm, written="-P 1 0 64k", node="disk1")
    shutil.copy(vm.directory / "a.qcow2", vm.world.home / "kept")
    archived_on(vm, written="-P 2 1M 64k", node="disk1")
    shutil.copy(vm.world.home / "kept", vm.directory / "a.qcow2")
    report = archived_on(vm, written="-P 3 2M 64k", node="disk1")
    assert report["incremental"]
    assert [read_byte(twin(vm, report), at, "a.qcow2") for at in ("0", "1M", "2M")] == [1, 0, 3]


def test_disk_made_smaller_is_copied_whole_even_if_it_grows(blank: Blank) -> None:
    vm = blank()
    disk(vm, "a.qcow2")
    vm.set(VM_DISKS="a.qcow2")
    archived_on(vm, written="-P 5 12M 64k", node="disk1")
    vm.ok("disk", "resize", "disk1", "8M", "--shrink")
    made = twin(vm, archived_on(vm))
    report = json.loads(qemu_img(made, "info", "--output=json", "a.qcow2"))
    assert report["virtual-size"] == 8 << 20
    vm.ok("disk", "resize", "disk1", "16M")
    archived_on(vm, written="-P 5 12M 64k", node="disk1")
    for size in ("8M", "16M"):
        vm.ok("disk", "resize", "disk1", size, *(["--shrink"] if size == "8M" else []))
    assert read_byte(twin(vm, archived_on(vm)), "12M", "a.qcow2") == 0


def test_other_tool_that_made_a_disk_smaller_is_noticed(blank: Blank) -> None:
    vm = blank()
    disk(vm, "a.qcow2")
    vm.set(VM_DISKS="a.qcow2")
    archived_on(vm)
    qemu_img(vm, "resize", "-q", "--shrink", "a.qcow2", "8M")
    report = archived_on(vm)
    assert any("a.qcow2 was made smaller" in line for line in report["notes"])
    output = json.loads(qemu_img(twin(vm, report), "info", "--output=json", "a.qcow2"))
    assert output["virtual-size"] == 8 << 20


def test_manifest_without_ids_is_followed_by_a_whole_state(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    manifest = vm.directory / make_archive(vm)["archive"] / "manifest.json"
    data = json.loads(manifest.read_text())
    for point in data["points"]:
        del point["id"]
        for part in point["parts"]:
            part.pop("virtual_bytes", None)
    manifest.write_text(json.dumps(data))
    assert not make_archive(vm)["incremental"]
    assert make_archive(vm)["incremental"]
    vm.ok("kill")


KILLED = """
import os, signal, sys
from qvmsh.machine.archive import writer

writer.Writer._put_settings = lambda self: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["qvm", *sys.argv[1:]]
from qvmsh.__main__ import main

main()
"""


def test_changes_of_a_raw_disk_are_announced_by_their_name(blank: Blank) -> None:
    vm = blank(VM_DISKS="d.img:raw")
    qemu_img(vm, "create", "-q", "-f", "raw", "d.img", "4M")
    vm.ok("start", "--no-wait")
    make_archive(vm)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "archive"], cwd=vm.directory, env=vm.world.environ, timeout=DEADLINE_S,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    report = make_archive(vm)
    vm.ok("kill")
    folder = vm.directory / report["archive"]
    data = json.loads((folder / "manifest.json").read_text())
    rows = [part for point in data["points"] for part in point["parts"]]
    rows += [part for layers in data["layers"].values() for part in layers]
    assert set(os.listdir(folder)) == {part["name"] for part in rows} | {"manifest.json"}
    require_nothing_left(vm)
    assert Path(folder).is_dir()


def test_archive_reports_a_replaced_snapshot_and_paused_memory(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    first = make_archive(vm, "--savevm", "m")
    assert (first["consistency"], first["notes"]) == ("with memory", [])
    vm.ok("pause")
    second = make_archive(vm, "--savevm", "m")
    assert second["consistency"] == "with memory"
    assert "the old snapshot m was replaced" in second["notes"]
    assert vm.qvm("status", "-s").out.startswith("demo: paused")
    vm.ok("kill")


def test_no_space_to_verify_names_the_folder(blank: Blank, tmp_path: Path) -> None:
    vm = blank()
    write_noise = ["-f", "qcow2", "-c", "write -P 7 0 8M", "./demo-backing.qcow2"]
    qemu_io(vm, *write_noise)
    plain = make_archive(vm)
    report = make_archive(vm, "--full", "--compress", "gzip")
    assert state_name(report) != state_name(plain)
    with small_disk(vm.directory / ".qvm", 2):
        vm.ok("archive", "--verify", state_name(plain))  # they are read where they lie
        refused = vm.qvm("archive", "--verify", state_name(report))
    assert refused.status == 1
    assert "not enough free space to unpack its images in" in refused.err
    assert "hint: free some space there" in refused.err
