"""What another machine needs is not removed, moved or renamed: its disks, and what they are backed by."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.foreign_qemu import qemu_with
from tests.support.programs import qemu_img, qemu_io
from tests.support.world import Blank, Result, Vm, World

REMOVALS = (["delete", "-y", "--now"], ["delete", "-y"], ["rename", "new"], ["move", "../new"])


def require_kept(vm: Vm, why: str) -> None:
    """No verb takes the machine's disks away, and each says why."""
    before = sorted(vm.directory.iterdir())
    for words in REMOVALS:
        refused = vm.qvm(*words)
        assert (refused.status, why in refused.err) == (3, True), refused
        assert refused.err.count("hint: ") == 1, refused
    assert sorted(vm.directory.iterdir()) == before


def hinted(result: Result) -> list[str]:
    """The words of the first command that the hint of an error says."""
    found = re.search(r"hint: .*?`qvm (.*?)`", result.err)
    assert found, result
    return shlex.split(found[1])


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
    (world.home / ".local/share/qvm/machines").unlink(missing_ok=True)  # of nobody that is known
    result = world.run("create", "new", "--from", "web/web-base.qcow2", "--move")
    assert (result.status, "belongs to the machine in" in result.err) == (2, True), result


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


def test_base_of_a_clone_in_an_unknown_place_is_not_written(blank: Blank, world: World) -> None:
    vm = blank("web")
    vm.ok("archive")
    qemu_io(vm, "-c", "write -P 1 0 64k", "web-backing.qcow2")
    vm.ok("disk", "commit")
    vm.ok("clone", "../mail", "--linked")
    mail = unknown(world, "mail")
    refused = [vm.qvm("start", "--base-only", "--no-wait")]
    qemu_io(vm, "-c", "write -P 2 0 64k", "web-backing.qcow2")
    base = (vm.directory / "web-base.qcow2").read_bytes()
    lines = (["disk", "commit"], ["init", "-k", "-b"], ["restore", "latest", "--force"])
    refused += [vm.qvm(*words) for words in lines]
    vm.ok("start", "--no-wait")  # writes to its overlay only
    vm.ok("kill")
    for each in refused:
        assert (each.status, "a linked clone of it is not in" in each.err) == (3, True), each
    assert "archived as a pair" in vm.ok("archive", "--create").out
    assert (vm.directory / "web-base.qcow2").read_bytes() == base
    mail.ok("start", "--no-wait")  # now it is known
    mail.ok("kill")
    result = vm.qvm("disk", "commit")
    assert (result.status, f"{mail.directory}/mail-backing.qcow2 is backed by it" in result.err) == (1, True)
    mail.ok("disk", "rebase", "disk0")
    vm.ok("disk", "commit")


def test_disk_below_a_machine_in_an_unknown_place_is_kept(blank: Blank, world: World) -> None:
    vm = blank("web")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "1M")
    vm.set(VM_DISKS="data.qcow2")
    assert world.run("create", "made", "--from", "web/data.qcow2", "--link").status == 0
    unknown(world, "made")
    for words in (["start", "--no-wait"], ["disk", "resize", "disk1", "2M"]):
        refused = vm.qvm(*words)
        assert (refused.status, "a linked clone of it is not in" in refused.err) == (3, True), refused
    vm.ok("disk", "resize", "disk0", "32M")
    assert "unchanged: other images are backed by it" in vm.ok("disk", "trim", "disk1").out


@pytest.mark.parametrize("is_moved", [False, True])
def test_linked_clone_of_a_machine_not_in_the_list_is_noted(
    blank: Blank, world: World, is_moved: bool
) -> None:
    vm = blank("web")
    vm.ok("disk", "list")
    if is_moved:
        (world.home / "new").mkdir()
        vm.directory.rename(world.home / "new/web")
        vm = Vm(world, world.home / "new/web")
    else:
        (world.home / ".local/share/qvm/machines").unlink(missing_ok=True)
    assert world.run("create", "made", "--from", vm.directory / "web-base.qcow2", "--link").status == 0
    unknown(world, "made")
    vm.ok("clone", world.home / "mail", "--linked")
    mail = unknown(world, "mail")
    require_kept(vm, f"a linked clone of it is not in {world.home}/made any more")
    shutil.rmtree(world.home / "far/made")
    line, rest = (vm.directory / ".qvm/clones").read_text().splitlines(keepends=True)
    assert "/made" in line
    (vm.directory / ".qvm/clones").write_text(rest)
    require_kept(vm, f"a linked clone of it is not in {world.home}/mail any more")
    mail.ok("disk", "check")


def test_linked_clones_with_one_identity_are_all_noted(blank: Blank, world: World) -> None:
    vm = blank("web")
    for name in ("one", "two"):
        vm.ok("clone", f"../{name}", "--linked", "--keep-identity")
    one, two = unknown(world, "one"), Vm(world, world.home / "two")
    require_kept(vm, f"a linked clone of it is not in {world.home}/one any more")
    two.ok("delete", "-y", "--now")
    require_kept(vm, f"a linked clone of it is not in {world.home}/one any more")
    one.ok("disk", "rebase", "disk0")
    vm.ok("delete", "-y", "--now")


def test_disk_in_any_folder_keeps_its_base(blank: Blank, world: World) -> None:
    vm, user = blank("web"), blank("user")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "2M")
    (world.home / "srv/deep").mkdir(parents=True)
    overlay, middle = world.home / "srv/over.qcow2", world.home / "srv/deep/middle.qcow2"
    for path, base in ((middle, vm.directory / "data.qcow2"), (overlay, middle)):
        qemu_img(vm, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, path)
    user.set(VM_DISKS=str(overlay))
    vm.set(VM_DISKS="data.qcow2")
    result = vm.qvm("start", "--no-wait")
    assert (result.status, "is backed by data.qcow2" in result.err) == (1, True), result
    require_kept(vm, "is backed by data.qcow2")
    user.ok("delete", "-y")
    require_kept(vm, "is backed by data.qcow2")
    assert world.run("undelete", "user").status == 0
    qemu_img(vm, "rebase", "-f", "qcow2", "-F", "qcow2", "-b", vm.directory / "data.qcow2", overlay)
    result = vm.qvm("delete", "-y", "--now")
    assert f"cannot delete: {overlay} is backed by data.qcow2" in result.err
    words = hinted(result)
    assert words[:2] == ["-C", str(user.directory)]
    assert world.run(*words).status == 0
    vm.ok("delete", "-y", "--now")
    user.ok("disk", "check")


def test_machine_in_another_ones_directory_keeps_its_base(blank: Blank, world: World) -> None:
    vm = blank("web")
    assert world.run("create", "web/inner", "--from", "web/web-base.qcow2", "--link").status == 0
    inner = Vm(world, vm.directory / "inner")
    for words in (["delete", "-y"], ["delete", "-y", "--now"]):
        refused = vm.qvm(*words)
        assert refused.status == 3, refused
        assert f"{inner.directory}/inner-backing.qcow2 is backed by web-base.qcow2" in refused.err
    vm.ok("move", "../new")  # both
    Vm(world, world.home / "new/inner").ok("disk", "check")
    (world.home / "far").mkdir()
    (world.home / "new/inner").rename(world.home / "far/inner")
    refused = Vm(world, world.home / "new").qvm("delete", "-y", "--now")
    assert (refused.status, "a linked clone of it is not in" in refused.err) == (3, True), refused


def test_machine_that_was_moved_by_hand_is_kept_for_its_clone(blank: Blank, world: World) -> None:
    vm = blank("web")
    vm.ok("clone", "../mail", "--linked")
    mail = Vm(world, world.home / "mail")
    new = unknown(world, "web")
    result = new.qvm("delete", "-y", "--now")
    what = f"the linked clone in {mail.directory} is backed by web-base.qcow2, but looks for it in"
    assert (result.status, what in result.err) == (3, True), result
    assert world.run(*hinted(result)).status == 0
    mail.ok("disk", "check")
    require_kept(new, "mail-backing.qcow2 is backed by web-base.qcow2")


def test_base_is_not_written_under_another_of_its_names(blank: Blank, world: World) -> None:
    vm, user = blank("web"), blank("user")
    (user.directory / "hard.qcow2").hardlink_to(vm.directory / "web-base.qcow2")
    qemu_img(user, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "hard.qcow2", "data.qcow2")
    user.set(VM_DISKS="data.qcow2")
    user.ok("disk", "list")
    qemu_io(vm, "-c", "write -P 1 0 64k", "web-backing.qcow2")
    refused = vm.qvm("disk", "commit")
    assert (refused.status, "data.qcow2 is backed by" in refused.err) == (1, True), refused
    made = vm.ok("archive", "--create")
    assert "data.qcow2 is also backed by web-base.qcow2" in made.out + made.err, made
    user.ok("disk", "check")
    assert "pattern verification failed" not in qemu_io(user, "-r", "-c", "read -P 0 0 64k", "data.qcow2")
    vm.ok("delete", "-y", "--now")  # the data stays under the other name
    user.ok("disk", "check")


def test_copy_with_hard_links_commits_and_is_removed(blank: Blank, world: World) -> None:
    vm = blank("web")
    subprocess.run(["cp", "-al", "web", "twin"], cwd=world.home, check=True)
    twin = Vm(world, world.home / "twin")
    twin.ok("renew")
    qemu_io(vm, "-c", "write -P 1 0 64k", "web-backing.qcow2")
    vm.ok("disk", "commit")
    vm.ok("delete", "-y", "--now")
    twin.ok("disk", "check")


@pytest.mark.parametrize("is_added", [False, True])
def test_overlay_made_by_hand_is_known_to_the_base(blank: Blank, world: World, is_added: bool) -> None:
    base, user = blank("base"), blank("user")
    below = base.directory / "base-base.qcow2"
    qemu_img(user, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, "data.qcow2")
    if is_added:
        user.ok("disk", "add", "data.qcow2")
    else:
        user.set(VM_DISKS="data.qcow2")
        user.ok("start", "--no-wait")
        user.kill()
    (world.home / "base").rename(world.home / "elsewhere")
    require_kept(Vm(world, world.home / "elsewhere"), "the linked clone in")
    (world.home / "elsewhere").rename(world.home / "base")
    unknown(world, "user")
    require_kept(base, "a linked clone of it is not in")


@pytest.mark.parametrize("name", ["mail", "a\nline/mail"])
def test_clone_that_is_in_no_list_keeps_its_base(blank: Blank, world: World, name: str) -> None:
    vm = blank("web")
    (world.home / name).parent.mkdir(exist_ok=True)
    vm.ok("clone", f"../{name}", "--linked")
    mail = Vm(world, world.home / name)
    (world.home / ".local/share/qvm/machines").unlink()
    require_kept(vm, "mail-backing.qcow2 is backed by web-base.qcow2")
    refused = vm.qvm("disk", "commit")
    assert (refused.status, "mail-backing.qcow2 is backed by it" in refused.err) == (1, True), refused
    mail.ok("disk", "check")
    mail.ok("disk", "rebase", "disk0")
    vm.ok("delete", "-y", "--now")
    mail.ok("disk", "check")
