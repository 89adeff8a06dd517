"""`qvm rename` and `qvm move`: everything goes along, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.kill_steps import killed_at
from tests.support.small_disk import small_disk
from tests.support.world import Blank, Vm, World

STEPS = 200


def backing(path: Path) -> str:
    found = json.loads(subprocess.check_output(["qemu-img", "info", "-U", "--output=json", path]))
    return str(found.get("backing-filename"))


def require_works(vm: Vm, name: str) -> None:
    """The machine starts under its name, with its snapshots, on sound disks."""
    assert vm.ok("config", "VM_MACHINE_NAME").out == f"{name}\n"
    listed = json.loads(vm.ok("--json", "snapshot", "list").out)
    assert [each["name"] for each in listed["snapshots"]] == ["ready"]
    assert not listed["snapshots"][0]["foreign"]
    assert vm.ok("snapshot", "verify").status == 0
    assert vm.ok("start", "--no-wait").status == 0
    vm.ok("kill")


def machine(blank: Blank, name: str = "web") -> Vm:
    vm = blank(name)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", vm.directory / f"{name}-data.qcow2", "1M"], check=True
    )
    with (vm.directory / ".vmrc").open("a") as file:
        file.write('VM_DISKS="$VM_MACHINE_NAME-data.qcow2"\n')
    vm.ok("snapshot", "save", "ready")
    return vm


def test_rename_changes_files_archives_and_directory(blank: Blank, world: World) -> None:
    vm = machine(blank)
    vm.ok("archive")
    (vm.directory / "mine").write_text("mine")
    result = world.run("rename", "web", "mail")
    assert result.status == 0, result
    new = Vm(world, vm.directory.with_name("mail"))
    assert result.out == f"mail: renamed, it was web; it is in {new.directory}\n"
    assert not vm.directory.exists()
    assert not [path.name for path in new.directory.iterdir() if path.name.startswith("web")]
    assert (new.directory / "mine").read_text() == "mine"
    assert backing(new.directory / "mail-backing.qcow2") == "mail-base.qcow2"
    require_works(new, "mail")
    assert len(json.loads(new.ok("--json", "archive", "--list").out)["states"]) == 1
    assert new.ok("archive", "--verify").status == 0
    names = [row["machine"] for row in json.loads(world.run("--json", "list").out)["machines"]]
    assert names == ["mail"]


def test_rename_refuses_what_it_cannot_keep(blank: Blank, world: World) -> None:
    vm, other = machine(blank), blank("other")
    for name, why in (
        ("other", "is there already"),
        ("web", "called web already"),
        ("a/b", "part of a file name"),
    ):
        result = vm.qvm("rename", name)
        assert (result.status, why in result.err) == (2, True), result
    base = ["-F", "qcow2", "-b", str(vm.directory / "web-base.qcow2")]
    overlay = other.directory / "linked.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, overlay], check=True)
    for line in (["rename", "mail"], ["move", "/tmp"]):
        result = vm.qvm(*line)
        assert (result.status, f"{overlay} is backed by" in result.err) == (3, True), result
    vm.ok("start", "--no-wait")
    for line in (["rename", "mail"], ["move", "/tmp"]):
        result = vm.qvm(*line)
        assert (result.status, "it is running" in result.err) == (3, True), result
    vm.ok("kill")
    require_works(vm, "web")


def test_move_within_and_across_file_systems(blank: Blank, world: World, tmp_path: Path) -> None:
    vm = machine(blank)
    (vm.directory / "mine").write_text("mine")
    absolute = [
        "-F",
        "qcow2",
        "-b",
        *(str(vm.directory / f"web-{name}.qcow2") for name in ("base", "backing")),
    ]
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", *absolute], check=True)
    (world.home / "shelf").mkdir()
    assert world.run("move", "web", "shelf").status == 0
    near = Vm(world, world.home / "shelf/web")
    assert backing(near.directory / "web-backing.qcow2") == str(near.directory / "web-base.qcow2")
    require_works(near, "web")
    if os.geteuid() == 0:
        far = tmp_path / "far"
        with small_disk(far, 64):
            result = world.run("move", "web", far)
            assert result.status == 0, result
            there = Vm(world, far / "web")
            assert not near.directory.exists()
            assert (there.directory / "mine").read_text() == "mine"
            require_works(there, "web")
            assert world.run("delete", "-y", "web").status == 0
            assert (far / ".trash").is_dir()
            assert world.run("undelete", "web").status == 0
            require_works(there, "web")
            assert world.run("move", "web", near.directory).status == 0
            require_works(near, "web")


def test_rename_killed_at_each_step_is_completed(blank: Blank, world: World) -> None:
    vm = machine(blank)
    names = ["web", "mail"]
    for step in range(STEPS):
        was, new = names[step % 2], names[(step + 1) % 2]
        where = next(path for path in (world.home / was, world.home / new) if (path / ".vmrc").exists())
        if where.name != was or vm.world.run("config", "VM_MACHINE_NAME", cwd=where).out != f"{was}\n":
            was, new = new, was
        is_over = killed_at(world, step, "rename", new, cwd=where) == 0
        there = next(path for path in (world.home / was, world.home / new) if (path / ".vmrc").exists())
        found = Vm(world, there)
        found.ok("doctor", "--fix")
        name = found.ok("config", "VM_MACHINE_NAME").out.strip()
        assert name in (was, new), step
        listed = json.loads(found.ok("--json", "snapshot", "list").out)
        assert [(each["name"], each["missing"]) for each in listed["snapshots"]] == [("ready", [])], step
        assert os.path.normpath(backing(there / f"{name}-backing.qcow2")) == f"{name}-base.qcow2"
        if there.name != name:
            there.rename(world.home / name)
        if is_over:
            break
    else:
        pytest.fail("it never came to its end")
    require_works(Vm(world, world.home / name), name)


def test_move_refuses_paths_that_would_mean_other_files(blank: Blank, world: World) -> None:
    vm = blank("web")
    shared = world.home / "shared"
    shared.mkdir()
    (world.home / "deep/er").mkdir(parents=True)
    for name in ("data.qcow2", "gold.qcow2"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", shared / name, "1M"], check=True)
    vm.set(VM_DISKS="../shared/data.qcow2")
    result = world.run("move", "web", "deep/er/web")
    assert (result.status, "VM_DISKS names ../shared/data.qcow2" in result.err) == (3, True), result
    vm.set(VM_DISKS="mine.qcow2")
    words = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "../shared/gold.qcow2", "mine.qcow2"]
    subprocess.run(["qemu-img", *words], cwd=vm.directory, check=True)
    result = world.run("move", "web", "deep/er/web")
    assert (result.status, "the image mine.qcow2 names ../shared/gold.qcow2" in result.err) == (3, True), (
        result
    )
    assert world.run("move", "web", "beside").status == 0  # there the paths mean the same files
    assert Vm(world, world.home / "beside").ok("disk", "check").status == 0


def test_rename_and_move_through_a_link_act_on_the_directory(blank: Blank, world: World) -> None:
    vm = blank("web")
    link = world.home / "link"
    link.symlink_to(vm.directory)
    result = world.run("rename", "./link", "mail")
    assert result.status == 0, result
    assert (world.home / "mail/mail-base.qcow2").exists()
    assert not vm.directory.exists()
    other = world.home / "other"
    other.symlink_to(world.home / "mail")
    assert world.run("delete", "-y", "./other").status == 0
    assert not (world.home / "mail").exists()
    assert world.run("undelete", "mail").status == 0
    assert (world.home / "mail/mail-base.qcow2").exists()
