"""restore where the machine's disks are not those of the archived state any more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.archives import make_archive, require_nothing_left, state_name
from tests.support.counting import NO_WAITING
from tests.support.disks import read_byte, write_byte, write_live
from tests.support.programs import qemu_img
from tests.support.world import Blank, Vm, World, copy_of, create_blank


def create(vm: Vm, name: str, value: int, form: str = "qcow2") -> None:
    qemu_img(vm, "create", "-q", "-f", form, name, "1M")
    write_byte(vm, value, "0", name, form)


def disks(vm: Vm) -> list[str]:
    return vm.ok("config", "VM_DISKS").out.split()


def restored(vm: Vm, *words: str) -> list[str]:
    notes: list[str] = json.loads(vm.ok("--json", "restore", *words).out)["notes"]
    return notes


@pytest.fixture(scope="module")
def archived(module_world: World) -> Path:
    made = create_blank(module_world, VM_DISKS="a.qcow2:qcow2:none\nb.raw", **NO_WAITING)
    create(made, "a.qcow2", 1)
    create(made, "b.raw", 2, "raw")
    make_archive(made)
    return made.directory


@pytest.fixture
def vm(world: World, archived: Path) -> Iterator[Vm]:
    """With two disks, archived; each holds its number."""
    made = copy_of(world, archived)
    yield made
    if world.pids("qemu-system"):
        made.kill()


def test_disk_that_was_added_since_stays_with_what_it_holds(vm: Vm) -> None:
    vm.ok("disk", "add", "c.qcow2", "1M")
    write_byte(vm, 3, "0", "c.qcow2")
    write_byte(vm, 9, "0", "a.qcow2")
    before = (vm.directory / ".vmrc").read_bytes()
    notes = restored(vm, "--force", "latest")
    assert notes == ["c.qcow2 is not in that state and stays unchanged"]
    assert (read_byte(vm, "0", "a.qcow2"), read_byte(vm, "0", "c.qcow2")) == (1, 3)
    assert (vm.directory / ".vmrc").read_bytes() == before
    vm.ok("start", "--no-wait")
    require_nothing_left(vm)


@pytest.mark.parametrize("is_there", [True, False])
def test_disk_that_was_taken_out_since_is_back_in_its_place(vm: Vm, is_there: bool) -> None:
    """Also where its file is gone. The disk behind it is not taken for it, and gets its number back."""
    vm.ok("config", "VM_DISKS=b.raw")
    create(vm, "c.qcow2", 3)
    vm.ok("config", "VM_DISKS=b.raw\nc.qcow2")
    if is_there:
        write_byte(vm, 8, "0", "a.qcow2")
        refused = vm.qvm("restore", "latest")  # what it holds now would be lost
        assert refused.status == 3
        assert read_byte(vm, "0", "a.qcow2") == 8
    else:
        (vm.directory / "a.qcow2").unlink()
    write_byte(vm, 9, "0", "b.raw", "raw")
    notes = restored(vm, "--force", "latest")
    assert notes == [
        "c.qcow2 is not in that state and stays unchanged",
        "a.qcow2 was restored and added to VM_DISKS again",
    ]
    assert [read_byte(vm, "0", name) for name in ("a.qcow2", "c.qcow2")] == [1, 3]
    assert read_byte(vm, "0", "b.raw", "raw") == 2
    assert disks(vm) == ["a.qcow2:qcow2:none", "b.raw:raw", "c.qcow2:qcow2"]
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 7 0 64k", "disk3")
    vm.ok("kill")
    assert read_byte(vm, "0", "c.qcow2") == 7
    require_nothing_left(vm)
    assert restored(vm, "--force", "latest") == ["c.qcow2 is not in that state and stays unchanged"]


def test_disks_in_another_order_stand_as_they_stood(vm: Vm) -> None:
    vm.ok("config", "VM_DISKS=b.raw\na.qcow2:qcow2:none")
    write_byte(vm, 9, "0", "a.qcow2")
    write_byte(vm, 9, "0", "b.raw", "raw")
    assert restored(vm, "--force", "latest") == [
        "the disks in VM_DISKS are now in the order of the archived state"
    ]
    assert disks(vm) == ["a.qcow2:qcow2:none", "b.raw:raw"]
    assert (read_byte(vm, "0", "a.qcow2"), read_byte(vm, "0", "b.raw", "raw")) == (1, 2)


def test_restore_of_a_disk_elsewhere_needs_its_setting(blank: Blank) -> None:
    vm = blank(VM_DISKS="../outside.raw")
    create(vm, "../outside.raw", 1, "raw")
    made = make_archive(vm)
    write_byte(vm, 2, "0", "../outside.raw", "raw")
    assert restored(vm, "--force", "latest") == []
    assert read_byte(vm, "0", "../outside.raw", "raw") == 1
    write_byte(vm, 3, "0", "../outside.raw", "raw")
    vm.ok("config", "VM_DISKS=")
    assert restored(vm, "--force", state_name(made)) == [
        "outside.raw was restored and added to VM_DISKS again"
    ]
    assert read_byte(vm, "0", "../outside.raw", "raw") == 3  # no setting of the machine names it
    assert read_byte(vm, "0", "outside.raw", "raw") == 1
    assert disks(vm) == ["outside.raw:raw"]
    require_nothing_left(vm)


def test_disk_of_the_users_own_words_is_back_as_a_file(blank: Blank) -> None:
    vm = blank(VM_QEMU_EXTRA="-drive file=x.qcow2,if=virtio,format=qcow2")
    create(vm, "x.qcow2", 1)
    make_archive(vm)
    (vm.directory / "x.qcow2").unlink()
    vm.ok("config", "VM_QEMU_EXTRA=")
    assert restored(vm, "latest") == [
        "x.qcow2 was restored, but no setting names it now: VM_QEMU_EXTRA or VM_FIRMWARE did"
    ]
    assert read_byte(vm, "0", "x.qcow2") == 1


def test_disk_that_is_a_device_now_is_not_written_to(blank: Blank) -> None:
    vm = blank(VM_DISKS="a.raw")
    create(vm, "a.raw", 1, "raw")
    make_archive(vm)
    (vm.directory / "a.raw").unlink()
    (vm.directory / "a.raw").symlink_to("/dev/null")
    vm.ok("config", "VM_DISKS=/dev/null:raw")
    refused = vm.qvm("restore", "--force", "latest")
    vm.ok("config", "VM_DISKS=a.raw")
    again = vm.qvm("restore", "--force", "latest")
    for result in (again,):
        assert result.status == 1, str(result)
        assert "it was a file when it was archived, and is not a file now" in result.err
        assert "hint: " in result.err
    assert (vm.directory / "a.raw").is_symlink() or refused.status == 0


def test_vmrc_that_is_a_link_stays_one(vm: Vm) -> None:
    """A file that several machines share, or that is in a repository."""
    real = vm.world.home / "shared.vmrc"
    (vm.directory / ".vmrc").rename(real)
    (vm.directory / ".vmrc").symlink_to(real)
    real.chmod(0o640)
    vm.ok("config", "VM_DISKS=b.raw")
    restored(vm, "--force", "latest")
    assert (vm.directory / ".vmrc").is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert disks(vm) == ["a.qcow2:qcow2:none", "b.raw:raw"]


def test_modes_of_the_images_stay(vm: Vm) -> None:
    for name in ("a.qcow2", "demo-backing.qcow2"):
        (vm.directory / name).chmod(0o660)
    write_byte(vm, 9, "0")
    restored(vm, "--force", "latest")
    for name in ("a.qcow2", "demo-backing.qcow2"):
        assert (vm.directory / name).stat().st_mode & 0o777 == 0o660


def test_machine_without_own_disk_is_archived_and_cloned(blank: Blank, world: World) -> None:
    vm = blank("live", VM_CDROM="cd.iso", VM_DISKS="data.qcow2")
    for each in vm.directory.glob("live-*.qcow2"):
        each.unlink()
    (vm.directory / "cd.iso").write_bytes(bytes(1 << 20))
    create(vm, "data.qcow2", 1)
    make_archive(vm)
    write_byte(vm, 2, "0", "data.qcow2")
    vm.ok("clone", "../twin")
    vm.ok("restore", "--force", "latest")
    vm.ok("restore", "latest", "../third")
    for name, value in (("live", 1), ("twin", 2), ("third", 1)):
        assert read_byte(Vm(world, world.home / name), "0", "data.qcow2") == value
    vm.ok("start", "--no-wait")
    assert make_archive(vm)["consistency"] == "crash-consistent"
    vm.kill()
    vm.ok("archive", "--verify")
