"""What another machine needs is not removed, moved or renamed: its disks, and what they are backed by."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.foreign_qemu import qemu_with
from tests.support.programs import qemu_img
from tests.support.world import Blank, Vm, World

REMOVALS = (["delete", "-y", "--now"], ["delete", "-y"], ["rename", "new"], ["move", "../new"])


def require_kept(vm: Vm, why: str) -> None:
    """No verb takes the machine's disks away, and each says why."""
    before = sorted(vm.directory.iterdir())
    for words in REMOVALS:
        refused = vm.qvm(*words)
        assert (refused.status, why in refused.err) == (3, True), refused
        assert refused.err.count("hint: ") == 1, refused
    assert sorted(vm.directory.iterdir()) == before


def unknown(world: World, name: str) -> Vm:
    """The machine in a place that qvm does not know."""
    (world.home / "far").mkdir(exist_ok=True)
    (world.home / name).rename(world.home / "far" / name)
    return Vm(world, world.home / "far" / name)


@pytest.mark.parametrize("is_on", [False, True])
def test_disk_that_another_machine_has_is_kept(blank: Blank, is_on: bool) -> None:
    own, user = blank("own"), blank("user")
    qemu_img(own, "create", "-q", "-f", "qcow2", "data.qcow2", "1M")
    own.set(VM_DISKS="data.qcow2")
    user.set(VM_DISKS="../own/data.qcow2")
    if is_on:
        user.ok("start", "--no-wait")
    require_kept(own, f"data.qcow2 is a disk of the machine in {user.directory}")
    user.kill()
    user.ok("delete", "-y")
    require_kept(own, f"data.qcow2 is a disk of the machine in {user.directory}")
    user.world.run("prune", "--older", "0", "-y")
    own.ok("delete", "-y", "--now")


def test_disk_that_another_qemu_writes_to_is_kept(blank: Blank) -> None:
    vm = blank("web")
    with qemu_with(vm.directory / "web-backing.qcow2"):
        for words in REMOVALS:
            refused = vm.qvm(*words)
            assert (refused.status, "web-backing.qcow2 is in use" in refused.err) == (1, True), refused
    vm.ok("delete", "-y", "--now")


def test_create_by_moving_leaves_a_disk_of_machines(blank: Blank, world: World) -> None:
    vm = blank("web")
    qemu_img(world.home, "create", "-q", "-f", "qcow2", "shared.qcow2", "1M")
    vm.set(VM_DISKS="../shared.qcow2")
    result = world.run("create", "new", "--from", "shared.qcow2", "--move")
    assert (result.status, f"is a disk of the machine in {vm.directory}" in result.err) == (2, True), result
    assert (world.home / "shared.qcow2").exists()
    assert not (world.home / "new").exists()


def test_base_with_a_relative_name_is_kept_for_the_trash(blank: Blank, world: World) -> None:
    gold, rel = blank("gold"), blank("rel")
    words = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "../gold/gold-base.qcow2"]
    qemu_img(rel, *words, "rel-backing.qcow2")
    require_kept(gold, "rel-backing.qcow2 is backed by gold-base.qcow2")
    rel.ok("delete", "-y")
    require_kept(gold, "rel-backing.qcow2 is backed by gold-base.qcow2")
    assert world.run("undelete", "rel").status == 0
    rel.ok("disk", "check")


def test_linked_clone_of_a_linked_clone_keeps_the_first_base(blank: Blank, world: World) -> None:
    first = blank("first")
    first.ok("clone", "../second", "--linked")
    second = Vm(world, world.home / "second")
    second.ok("clone", "../third", "--linked")
    third = unknown(world, "third")
    second.ok("disk", "rebase", "disk0")
    require_kept(first, "a linked clone of it is not in")
    second.ok("delete", "-y", "--now")  # it backs nothing
    third.ok("disk", "check")
    third.ok("disk", "rebase", "disk0")
    first.ok("delete", "-y", "--now")
    third.ok("disk", "check")


def test_machine_created_on_a_machines_disk_is_known_there(blank: Blank, world: World) -> None:
    base = blank("base")
    assert world.run("create", "made", "--from", "base/base-base.qcow2", "--link").status == 0
    made = unknown(world, "made")
    require_kept(base, "a linked clone of it is not in")
    made.ok("disk", "check")


def test_copy_by_hand_backs_no_clone_of_the_original(blank: Blank, world: World) -> None:
    vm = blank("web")
    vm.ok("clone", "../mail", "--linked")
    subprocess.run(["cp", "-r", "web", "twin"], cwd=world.home, check=True)
    twin = Vm(world, world.home / "twin")
    twin.ok("renew")
    unknown(world, "mail")
    twin.ok("delete", "-y", "--now")
    require_kept(vm, "a linked clone of it is not in")


def test_linked_clone_that_got_its_own_data_frees_the_base(blank: Blank, world: World) -> None:
    vm = blank("web")
    vm.ok("clone", "../mail", "--linked")
    Vm(world, world.home / "mail").ok("disk", "rebase", "disk0")
    unknown(world, "mail")
    vm.ok("delete", "-y", "--now")


def test_linked_clone_without_a_base_is_refused(world: World, tmp_path: Path) -> None:
    assert world.run("create", "box", "1M", "--s2e").status == 0
    result = world.run("clone", "box", "twin", "--linked")
    assert (result.status, "has no base that could be shared" in result.err) == (3, True), result
    assert not (world.home / "twin").exists()
