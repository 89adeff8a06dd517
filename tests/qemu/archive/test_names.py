"""What an archive calls its files: whatever the disks are called, it can be read and restored."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.archives import archived_states, make_archive, require_nothing_left, state_name
from tests.support.disks import read_byte, write_byte
from tests.support.programs import qemu_img
from tests.support.world import DEADLINE_S, Blank, Vm


def by_hand(blank: Blank, path: str) -> Vm:
    """A machine of the user's own words with the one disk at `path`, which holds a 7."""
    vm = blank(
        has_images=False, VM_QEMU_ARGS=f"-M pc -accel tcg -m 64 -drive file={path},if=virtio,format=qcow2"
    )
    if not (vm.directory / path).exists():
        qemu_img(vm, "create", "-q", "-f", "qcow2", f"./{path}", "16M")
    write_byte(vm, 7, "0", path)
    return vm


def test_device_plugged_in_later_is_left_out_and_states_stay(blank: Blank, tmp_path: Path) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    first = make_archive(vm)
    node = {"driver": "host_device", "filename": "/dev/zero", "node-name": "x", "locking": "off"}
    vm.ok("qmp", "blockdev-add", json.dumps(node))  # the host's other QEMUs may have a lock on it
    vm.ok("qmp", "device_add", '{"driver":"virtio-blk-pci","drive":"x","id":"xx"}')
    second = make_archive(vm)
    assert "/dev/zero is not in the archive: it is not a file" in second["notes"]
    vm.ok("kill")
    assert [f"{row['archive']}/{row['stamp']}" for row in archived_states(vm)] == [
        state_name(first),
        state_name(second),
    ]
    for at, report in enumerate((first, second)):
        vm.ok("restore", state_name(report), tmp_path / f"twin{at}")


NAMES = [".disk.qcow2", "disk.qcow2.part", "disk.part3", "disk.xz", "x" * 250]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:20])
def test_disk_whose_name_an_archive_cannot_use_comes_back(blank: Blank, tmp_path: Path, name: str) -> None:
    """Plain, compressed, plain again: no archive sweeps the files of another one away."""
    vm = by_hand(blank, name)
    reports = [make_archive(vm)]
    write_byte(vm, 8, "1M", name)
    reports.append(make_archive(vm, "--compress", "gzip"))
    write_byte(vm, 9, "2M", name)
    reports.append(make_archive(vm))
    vm.ok("archive", "--verify")
    for at, report in enumerate(reports):
        made = tmp_path / f"twin{at}"
        vm.ok("restore", state_name(report), made)
        twin = Vm(vm.world, made)
        assert [read_byte(twin, place, name) for place in ("0", "1M", "2M")] == [
            7,
            *[8, 9][:at],
            *[0, 0][at:],
        ]
    nothing_left_but(vm, name)


def nothing_left_but(vm: Vm, name: str) -> None:
    moved = vm.directory.parent / "moved"
    (vm.directory / name).rename(moved)
    require_nothing_left(vm)
    moved.rename(vm.directory / name)


def test_manifest_that_could_not_be_read_is_not_written(blank: Blank) -> None:
    """A disk at a place that no manifest may name: refused, and the earlier states stay."""
    vm = blank()
    first = make_archive(vm)
    qemu_img(vm, "create", "-q", "-f", "qcow2", "./.qvm/data.qcow2", "16M")
    vm.ok("config", "VM_DISKS=.qvm/data.qcow2:qcow2")
    before = sorted(os.listdir(vm.directory / first["archive"]))
    refused = vm.qvm("archive")
    assert refused.status == 1, str(refused)
    assert refused.err.startswith("qvm: demo: cannot describe the state in ")
    assert "'.qvm/data.qcow2' is not a place in a machine" in refused.err
    assert "hint: " in refused.err
    assert [f"{row['archive']}/{row['stamp']}" for row in archived_states(vm)] == [state_name(first)]
    assert sorted(os.listdir(vm.directory / first["archive"])) == before
    assert json.loads((vm.directory / first["archive"] / "manifest.json").read_text())
    require_nothing_left(vm)


@pytest.mark.parametrize("words", [[], ["--compress", "gzip"]], ids=["plain", "compressed"])
@pytest.mark.parametrize("is_on", [False, True])
def test_overlay_that_is_called_like_its_base_comes_back(
    blank: Blank, tmp_path: Path, words: list[str], is_on: bool
) -> None:
    vm = blank(has_images=False, VM_QEMU_ARGS="-M pc -accel tcg -m 64 -hda disk.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "../disk.qcow2", "16M")
    write_byte(vm, 7, "0", "../disk.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "../disk.qcow2", "disk.qcow2")
    write_byte(vm, 8, "1M", "disk.qcow2")
    if is_on:
        vm.ok("start", "--no-wait")
    report = make_archive(vm, *words)
    vm.kill()
    vm.ok("archive", "--verify")
    vm.ok("restore", state_name(report), tmp_path / "twin")
    twin = Vm(vm.world, tmp_path / "twin")
    assert [read_byte(twin, place, "disk.qcow2") for place in ("0", "1M")] == [7, 8]
    write_byte(vm, 9, "1M", "disk.qcow2")
    vm.ok("restore", "--force", state_name(report))
    assert [read_byte(vm, place, "disk.qcow2") for place in ("0", "1M")] == [7, 8]
    if not words:  # it runs in place
        inside = Vm(vm.world, vm.directory / report["archive"])
        assert [read_byte(inside, place, "demo-main.qcow2") for place in ("0", "1M")] == [7, 8]


def test_machine_whose_name_is_too_long_for_files_is_refused(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "1M")
    before = make_archive(vm)
    name = "n" * 250
    for base in ("base", "backing"):
        (vm.directory / f"demo-{base}.qcow2").rename(vm.directory / f"{name[:200]}-{base}.qcow2")
    qemu_img(vm, "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", f"{name[:200]}-base.qcow2",
        f"{name[:200]}-backing.qcow2")  # fmt: skip
    vm.set(
        VM_MACHINE_NAME=name,
        VM_SNAPSHOT_BASEFILENAME=f"{name[:200]}-base.qcow2",
        VM_SNAPSHOT_BACKINGFILENAME=f"{name[:200]}-backing.qcow2",
    )
    refused = vm.qvm("archive", "--full", timeout=DEADLINE_S)
    assert refused.status in (1, 2), str(refused)
    assert "hint: " in refused.err
    assert (vm.directory / before["archive"] / "manifest.json").is_file()
    require_nothing_left(vm)
