"""`qvm clone`: a machine of its own, with all disks and snapshots, or nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.kill_steps import killed_at
from tests.support.small_disk import small_disk
from tests.support.world import QVM, Blank, Vm, World

DATA = b"data " * 1000


def info(path: Path) -> dict[str, object]:
    words = ["qemu-img", "info", "-U", "--output=json", str(path)]
    found: dict[str, object] = json.loads(subprocess.check_output(words))
    return found


def machine(blank: Blank, world: World) -> Vm:
    """A machine with a disk in its directory, one elsewhere, a snapshot, and comments."""
    vm = blank("web")
    for name in (vm.directory / "data.raw", world.home / "far.raw", world.home / "near.raw"):
        name.write_bytes(DATA + b"\0" * (65536 - len(DATA)))
    with (vm.directory / ".vmrc").open("a") as file:
        file.write("# a comment of the user\n")
    vm.set(
        VM_DISKS=f"data.raw:raw\n{world.home}/far.raw:raw\nmore.qcow2\n../near.raw:raw",
        VM_NET_PORT="7000",
        VM_SSH_PORT="2290",
    )
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", vm.directory / "more.qcow2", "1M"], check=True)
    return vm


def require_own(vm: Vm, twin: Vm) -> None:
    """The twin has its own identity and the other's data, and both run side by side."""
    one, two = (
        {name: each.ok("config", name).out for name in ("VM_MACHINE_ID", "VM_MACHINE_NAME", "VM_NET_PORT")}
        for each in (vm, twin)
    )
    assert not set(one.values()) & set(two.values())
    assert twin.ok("config", "VM_SSH_PORT").out == "auto\n"
    assert "# a comment of the user\n" in (twin.directory / ".vmrc").read_text()
    assert (twin.directory / "data.raw").read_bytes().startswith(DATA)
    for name in ("far.raw", "near.raw"):
        assert (twin.directory / name).read_bytes().startswith(DATA)
    assert "/" not in twin.ok("config", "VM_DISKS").out
    vm.ok("start", "--no-wait")
    twin.ok("start", "--no-wait")
    reports = [json.loads(each.ok("--json", "status", "-s").out) for each in (vm, twin)]
    assert len({each["uuid"] for each in reports}) == 2
    lines = [each.ok("dryrun").out.partition('"mac": "')[2][:17] for each in (vm, twin)]
    assert len(set(lines)) == 2
    vm.ok("kill")
    twin.ok("kill")


@pytest.mark.parametrize("is_live", [False, True])
@pytest.mark.parametrize("is_linked", [False, True])
def test_clone_is_a_machine_of_its_own(blank: Blank, world: World, is_live: bool, is_linked: bool) -> None:
    vm = machine(blank, world)
    if not is_live:
        disks = vm.ok("config", "VM_DISKS").out.strip()
        vm.set(VM_DISKS=disks.replace(".raw:raw", ".raw:raw:ro"))  # a raw disk has no snapshots
        vm.ok("snapshot", "save", "ready")
        vm.set(VM_DISKS=disks)
    else:
        vm.ok("start", "--no-wait")
    result = world.run("--json", "clone", "web", "mail", *(["--linked"] if is_linked else []))
    assert result.status == 0, result
    report = json.loads(result.out)
    assert report["consistency"] == ("crash-consistent" if is_live else None)
    assert report["is_linked"] is is_linked
    twin = Vm(world, world.home / "mail")
    backing = os.path.normpath(str(info(twin.directory / "mail-backing.qcow2")["full-backing-filename"]))
    assert backing == str(
        (vm if is_linked else twin).directory / f"{'web' if is_linked else 'mail'}-base.qcow2"
    )
    if is_live:
        vm.ok("kill")
    else:
        listed = json.loads(twin.ok("--json", "snapshot", "list").out)
        assert [(each["name"], each["foreign"]) for each in listed["snapshots"]] == [("ready", False)]
    assert not (twin.directory / ".clone").exists()
    require_own(vm, twin)
    if is_linked:
        assert world.run("delete", "-y", "mail").status == 0
        refused = vm.qvm("delete", "-y")  # the clone could come back
        assert (refused.status, "is backed by web-base.qcow2" in refused.err) == (3, True), refused
        assert world.run("prune", "--older", "0", "-y").status == 0
    assert vm.ok("delete", "-y").status == 0


@pytest.mark.parametrize("has_snapshot", [False, True])
def test_base_of_a_linked_clone_stays_as_it_is(blank: Blank, world: World, has_snapshot: bool) -> None:
    vm = blank("web")
    if has_snapshot:
        vm.ok("snapshot", "save", "ready")
    vm.ok("clone", "../mail", "--linked")
    overlay = world.home / "mail/mail-backing.qcow2"
    base = vm.directory / "web-base.qcow2"
    (vm.directory / "web-seed.qcow2").write_bytes(base.read_bytes())
    before = base.read_bytes()
    vm.ok("init", "-k")
    for words, status in (
        (["delete", "-y"], 3), (["delete", "-y", "--now"], 3), (["rename", "new"], 3),
        (["move", "../new"], 3),
        (["disk", "commit", "disk0"], 1), (["start", "--no-wait", "--base-only"], 1),
        (["init", "-b", "-k"], 1),
    ):  # fmt: skip
        refused = vm.qvm(*words)
        assert (refused.status, str(overlay) in refused.err) == (status, True), refused
        assert refused.err.count("hint: ") == 1, refused
        assert base.read_bytes() == before, words
    done = vm.ok("archive", "-c")
    assert f"{overlay} is also backed by web-base.qcow2" in done.out + done.err
    assert base.read_bytes() == before
    if not has_snapshot:
        hint = re.search("hint: `(.*?)`", vm.qvm("delete", "-y").err)
        assert hint, "no hint"
        subprocess.run(["bash", "-c", hint[1].replace("qvm ", f"{QVM} ")], check=True, env=world.environ)
        vm.ok("delete", "-y")


def test_clone_keeps_an_identity_when_told(blank: Blank, world: World) -> None:
    vm = blank("web")
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    assert vm.ok("clone", "../mail", "--keep-identity").status == 0
    twin = Vm(world, world.home / "mail")
    assert (twin.directory / ".qvm/uuid").read_text() == (vm.directory / ".qvm/uuid").read_text()
    assert twin.ok("config", "VM_MACHINE_ID").out == vm.ok("config", "VM_MACHINE_ID").out
    assert twin.ok("config", "VM_MACHINE_NAME").out == "mail\n"


def test_clone_refuses_and_leaves_nothing(blank: Blank, world: World, tmp_path: Path) -> None:
    vm, other = blank("web"), blank("other")
    before = sorted(path.name for path in world.home.iterdir())
    for target, why in (
        ("other", "is already a machine"),
        ("web", "is already a machine"),
        ("no/where", "no folder"),
    ):
        result = world.run("clone", "web", target)
        assert (result.status, why in result.err) == (2, True), result
    result = vm.qvm("clone", "inside")
    assert (result.status, "is not made inside another" in result.err) == (2, True), result
    small = tmp_path / "small"
    with small_disk(small, 1):
        (vm.directory / "data.raw").write_bytes(b"x" * (3 << 20))
        vm.set(VM_DISKS="data.raw:raw")
        result = world.run("clone", "web", small / "mail")
        assert (result.status, "not enough free space" in result.err) == (1, True), result
        assert "hint: nothing was left behind; free some space, or clone to a place on another" in result.err
        assert list(small.iterdir()) == []
    assert sorted(path.name for path in world.home.iterdir()) == before
    assert other.directory.exists()


def test_clone_of_a_disposable_machine_is_refused(blank: Blank, world: World) -> None:
    vm = blank("web")
    vm.ok("start", "--no-wait", "--disposable")
    result = world.run("clone", "web", "mail")
    assert (result.status, "web: cannot clone: it is disposable" in result.err) == (3, True), result
    assert "hint: `qvm stop web`, then `qvm start web`" in result.err


@pytest.mark.parametrize("verb", ["delete -y web", "rename web other"])
def test_lines_of_the_hint_free_the_base_of_a_clone(blank: Blank, world: World, verb: str) -> None:
    blank("web")
    assert world.run("clone", "web", "mail", "--linked").status == 0
    for name in ("one", "a b"):
        assert world.run("-M", "mail", "snapshot", "save", name).status == 0
    refused = world.run(*verb.split())
    assert (refused.status, "mail-backing.qcow2 is backed by web-base.qcow2" in refused.err) == (3, True)
    lines = re.findall("`qvm ([^`]*)`", refused.err)
    place = world.home / "mail"
    assert lines == [
        f"-C {place} snapshot delete one 'a b'", f"-C {place} disk rebase mail-backing.qcow2",
    ]  # fmt: skip
    for line in lines:
        assert world.run(*shlex.split(line)).status == 0, line
    assert world.run(*verb.split()).status == 0
    assert world.run("start", "--no-wait", "mail").status == 0
    assert world.run("kill", "mail").status == 0


def test_clone_killed_at_each_step_is_whole_or_nothing(blank: Blank, world: World) -> None:
    vm, other = blank("web"), blank("other")
    vm.ok("snapshot", "save", "ready")
    before = {path.name: path.read_bytes() for path in vm.directory.glob("*.qcow2")}
    for step in range(300):
        is_over = killed_at(world, step, "clone", "web", "mail") == 0
        if is_over:
            break
        other.ok("doctor", "--fix")
        vm.ok("doctor", "--fix")
        twin = world.home / "mail"
        if twin.exists():
            listed = json.loads(world.run("-C", twin, "--json", "snapshot", "list").out)
            assert [each["name"] for each in listed["snapshots"]] == ["ready"], step
            world.run("delete", "-y", "--now", twin)
        assert not [path for path in world.home.iterdir() if path.name.startswith(".mail")], step
        assert {path.name: path.read_bytes() for path in vm.directory.glob("*.qcow2")} == before, step
    else:
        pytest.fail("it never came to its end")


def test_linked_clone_in_an_unknown_place_keeps_its_base(blank: Blank, world: World) -> None:
    vm = blank("web")
    vm.ok("clone", "../mail", "--linked")
    (world.home / "far").mkdir()
    (world.home / "mail").rename(world.home / "far/mail")
    for words in (["delete", "-y", "--now"], ["delete", "-y"], ["rename", "new"], ["move", "../new"]):
        refused = vm.qvm(*words)
        assert (refused.status, "a linked clone of it is not in" in refused.err) == (3, True), refused
        assert (vm.directory / "web-base.qcow2").exists()
    moved = Vm(world, world.home / "far/mail")
    moved.ok("start", "--no-wait")
    moved.ok("kill")
    refused = vm.qvm("delete", "-y", "--now")
    assert (refused.status, "mail-backing.qcow2 is backed by" in refused.err) == (3, True), refused
    subprocess.run(["cp", "-r", "mail", "twin"], cwd=world.home / "far", check=True)
    Vm(world, world.home / "far/twin").ok("renew")
    moved.ok("delete", "-y", "--now")
    refused = vm.qvm("delete", "-y", "--now")
    assert (refused.status, "far/twin" in refused.err) == (3, True), refused
    Vm(world, world.home / "far/twin").ok("delete", "-y", "--now")
    vm.ok("delete", "-y", "--now")


def test_copy_by_hand_is_one_after_the_original_was_renamed(blank: Blank, world: World) -> None:
    vm = blank("web")
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    subprocess.run(["cp", "-r", "web", "copy"], cwd=world.home, check=True)
    vm.ok("rename", "mail")
    copy, original = Vm(world, world.home / "copy"), world.home / "mail"
    said = f"it is a copy of {original}; `qvm renew` gives it an identity of its own"
    assert said in copy.qvm("status").err
    assert said in copy.ok("start", "--no-wait").err
    copy.ok("kill")
    assert f"a copy of {original}" in world.run("list").out
    assert f"a copy of {original}" not in Vm(world, original).qvm("status", "-v").out
    copy.ok("renew")
    assert "copy of" not in copy.qvm("status").err + world.run("list").out


def test_copies_of_a_base_and_of_a_clone_have_no_notes_of_theirs(blank: Blank, world: World) -> None:
    vm = blank("web")
    vm.ok("clone", "../linked", "--linked")
    linked = Vm(world, world.home / "linked")
    for each, name in ((vm, "one"), (linked, "two")):
        each.ok("clone", f"../{name}")
        each.ok("archive")
        each.ok("restore", "latest", f"../{name}-restored")
    made = [Vm(world, world.home / name) for name in ("one", "one-restored", "two", "two-restored")]
    for each in made:
        assert not {"clones", "original"} & {path.name for path in (each.directory / ".qvm").iterdir()}
    linked.ok("delete", "-y", "--now")
    for each in made:
        each.ok("rename", f"{each.directory.name}-new")
