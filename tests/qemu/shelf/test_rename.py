"""`qvm rename` and `qvm move`: everything goes along, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.kill_steps import killed_at
from tests.support.killer import begin_held
from tests.support.small_disk import small_disk
from tests.support.world import DEADLINE_S, QVM, Blank, Vm, World

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


def test_rename_writes_no_words_of_the_command_line(blank: Blank, world: World) -> None:
    words = "-fw_cfg name=opt/qvm/hostname,string=web"
    vm = blank("web", VM_QEMU_EXTRA=f"{words} -no-reboot")
    once = ("--set", f"VM_QEMU_EXTRA={words} -S", "--set", "VM_CDROM=/once.iso")
    assert world.run("-C", str(vm.directory), *once, "rename", "mail").status == 0
    new = Vm(world, vm.directory.with_name("mail"))
    assert new.value("VM_QEMU_EXTRA") == f"{words.replace('=web', '=mail')} -no-reboot"
    assert new.value("VM_CDROM") == ""


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
    assert backing(near.directory / "web-backing.qcow2") == "web-base.qcow2"
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
            assert (far / f".trash-{os.geteuid()}").is_dir()
            assert world.run("undelete", "web").status == 0
            require_works(there, "web")
            assert world.run("move", "web", near.directory).status == 0
            require_works(near, "web")


def test_rename_killed_at_each_step_is_whole_or_nothing(blank: Blank, world: World) -> None:
    vm = machine(blank)
    words = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "web-base.qcow2", "web-extra.qcow2"]
    subprocess.run(["qemu-img", *words], cwd=vm.directory, check=True)
    was, new = "web", "mail"
    outcomes: set[str] = set()
    for step in range(STEPS):
        here = world.home / was
        base = str(here / f"{was}-base.qcow2")
        words = ["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base, "web-extra.qcow2"]
        subprocess.run(["qemu-img", *words], cwd=here, check=True)
        (here / "way").unlink(missing_ok=True)
        (here / "way").symlink_to(base)
        is_over = killed_at(world, step, "rename", new, cwd=here) == 0
        there = [path for path in (world.home / was, world.home / new) if path.exists()]
        assert len(there) == 1, step
        found = Vm(world, there[0])
        said = found.ok("config", f"VM_LABELS=a{step}").err
        if there[0].name == new:
            was, new = new, was
        outcomes |= {each for each in ("completed", "undone") if f"interrupted, and was {each}" in said}
        assert (found.value("VM_MACHINE_NAME"), found.value("VM_LABELS")) == (was, f"a{step}"), step
        names = [each.name for each in found.directory.iterdir() if each.name.startswith(new)]
        assert names == (["web-extra.qcow2"] if new == "web" else []), step
        listed = json.loads(found.ok("--json", "snapshot", "list").out)
        assert [(each["name"], each["missing"]) for each in listed["snapshots"]] == [("ready", [])], step
        for name in (f"{was}-backing.qcow2", "web-extra.qcow2"):
            named = found.directory / backing(found.directory / name)
            assert named.resolve() == found.directory / f"{was}-base.qcow2", step
        assert (found.directory / "way").resolve() == found.directory / f"{was}-base.qcow2", step
        if is_over:
            break
    else:
        pytest.fail("it never came to its end")
    assert outcomes == {"completed", "undone"}
    require_works(found, was)


def test_rename_killed_is_completed_by_a_second_try(blank: Blank, world: World) -> None:
    vm = blank("web")
    child = begin_held(vm, "qvmsh.machine.shelf.rename:complete", "rename", "mail")
    child.kill()
    child.communicate(timeout=DEADLINE_S)
    new = Vm(world, world.home / "mail")
    assert "the renaming to mail, begun" in new.qvm("status").err
    result = world.run("rename", "web", "mail")
    assert (result.status, "was interrupted, and was completed" in result.err) == (0, True), result
    assert result.out == f"mail: renamed, it was web; it is in {new.directory}\n"
    assert (new.directory / "mail-base.qcow2").exists()
    assert not vm.directory.exists()
    assert json.loads(world.run("--json", "list").out)["machines"][0]["machine"] == "mail"


def test_rename_keeps_what_leads_into_the_directory(blank: Blank, world: World) -> None:
    vm = blank("web")
    here = vm.directory
    (here / "sub").mkdir()
    make = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*make, here / "gold.qcow2", "1M"], check=True)
    for name, base in (
        ("extra", "web-base.qcow2"), ("sub/deep", "../web-base.qcow2"), ("abs", str(here / "gold.qcow2")),
        ("around", "../web/gold.qcow2"), ("old", str(here / "web-base.qcow2")),
    ):  # fmt: skip
        subprocess.run([*make, "-F", "qcow2", "-b", base, f"{name}.qcow2"], cwd=here, check=True)
    for name, text in (("one", "web-base.qcow2"), ("two", here / "gold.qcow2"), ("sub/three", "../one")):
        (here / name).symlink_to(text)
    names = ["extra", "sub/deep", str(here / "abs"), "../web/around", str(world.home / "./web/old")]
    (here / "hook").write_text("#!/bin/sh\n")
    (here / "hook").chmod(0o755)
    with (here / ".vmrc").open("a") as file:
        lines = "\n".join(f"{each}.qcow2" for each in names)
        file.write(f"VM_DISKS='{lines}'\nVM_PRE_START={here}/hook\nDATA=~/web:$HOME/web/x:{here}2\n")
    assert world.run("rename", "web", "mail").status == 0
    new = Vm(world, world.home / "mail")
    assert new.ok("disk", "check").out.count(": sound") == 8
    new.ok("start", "--no-wait")
    new.ok("kill")
    assert new.value("DATA") == f"{new.directory}:{new.directory}/x:{here}2"
    assert 'VM_PRE_START="$VM_HOME/hook"' in (new.directory / ".vmrc").read_text()
    assert (new.directory / "sub/three").resolve() == new.directory / "mail-base.qcow2"
    assert (new.directory / "two").resolve() == new.directory / "gold.qcow2"


def test_rename_takes_along_what_is_called_after_the_machine(blank: Blank, world: World) -> None:
    vm = blank("web")
    (vm.directory / "web.iso").write_bytes(bytes(2048))
    (vm.directory / "web-x.raw").write_bytes(bytes(1 << 20))
    with (vm.directory / ".vmrc").open("a") as file:
        file.write(
            "VM_CDROM=$VM_MACHINE_NAME.iso\n"
            'VM_QEMU_EXTRA="$VM_QEMU_EXTRA -drive file=$VM_MACHINE_NAME-x.raw,format=raw,if=virtio"\n'
        )
    assert world.run("rename", "web", "mail").status == 0
    new = Vm(world, world.home / "mail")
    assert (new.directory / "mail.iso").exists()
    new.ok("start", "--no-wait")
    new.ok("kill")


def test_rename_refuses_settings_that_it_cannot_change(blank: Blank, world: World) -> None:
    vm = blank("web")
    (vm.directory / "more").write_text(f"VM_CDROM={vm.directory}/a.iso\n")
    before = sorted(os.listdir(vm.directory))
    for line, why in (
        ("VM_INCLUDE=more", "VM_CDROM of web/more names a file in the machine's directory by its whole path"),
        ("VM_DISKS=web-seed.qcow2", ".vmrc names web-seed.qcow2, which would be called mail-seed.qcow2"),
    ):
        text = (vm.directory / ".vmrc").read_text()
        (vm.directory / ".vmrc").write_text(f"{text}{line}\n")
        result = world.run("rename", "web", "mail")
        assert (result.status, why in result.err) == (3, True), result
        assert "hint: " in result.err
        (vm.directory / ".vmrc").write_text(text)
    assert sorted(os.listdir(vm.directory)) == before


def test_rename_of_a_machine_with_saved_memory_keeps_it_usable(blank: Blank, world: World) -> None:
    vm = machine(blank)
    (vm.directory / "abs.qcow2").write_bytes((vm.directory / "web-base.qcow2").read_bytes())
    with (vm.directory / ".vmrc").open("a") as file:
        file.write(f'VM_DISKS="$VM_MACHINE_NAME-data.qcow2\n{vm.directory}/abs.qcow2"\n')
    vm.ok("start", "--no-wait")
    vm.ok("stop", "--savevm", "memory", "--no-suspend")
    assert world.run("rename", "web", "mail").status == 0
    new = Vm(world, world.home / "mail")
    result = new.ok("start", "--no-wait", "--loadvm", "memory")
    assert "VM_DISKS" not in result.err
    new.ok("kill")


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


def test_rename_through_a_link_keeps_the_disks(blank: Blank, world: World) -> None:
    vm = blank("web")
    (world.home / "la").symlink_to(vm.directory)
    for name in ("data.qcow2", "web-more.qcow2"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", vm.directory / name, "1M"], check=True)
    disks = f"{world.home}/la/data.qcow2\n{world.home}/la/$VM_MACHINE_NAME-more.qcow2"
    with (vm.directory / ".vmrc").open("a") as file:
        file.write(f'VM_DISKS="{disks}"\n')
    result = world.run("rename", "web", "mail")
    assert result.status == 0, result
    new = Vm(world, world.home / "mail")
    assert (new.directory / "mail-more.qcow2").exists()
    assert new.ok("disk", "check").out.count(": sound") == 4


def test_rename_in_a_folder_that_is_read_only_changes_nothing(blank: Blank, world: World) -> None:
    vm = blank("web")
    before = sorted(os.listdir(vm.directory))
    powerless = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else ["env"]
    for folder in (vm.directory, world.home):
        folder.chmod(0o555)
        result = world.run(*powerless[1:], QVM, "-M", "web", "rename", "mail", program=powerless[0])
        folder.chmod(0o755)
        said = f"cannot rename: you cannot write to {folder}\nhint: `chmod u+w {folder}` first"
        assert (result.status, said in result.err) == (1, True), result
    assert sorted(os.listdir(vm.directory)) == before
    assert world.run("rename", "web", "mail").status == 0


def test_rename_of_a_copy_leaves_the_archives_alone(blank: Blank, world: World) -> None:
    vm = blank("web", VM_ARCHIVE="../states")
    vm.ok("archive")
    shutil.copytree(vm.directory, world.home / "copy", symlinks=True)
    copy = Vm(world, world.home / "copy")
    before = os.listdir(world.home / "states")
    refused = copy.qvm("rename", "mail")
    why = f"it is a copy of {vm.directory}, and the archives in {world.home}/states are of both"
    assert (refused.status, why in refused.err) == (3, True), refused
    assert copy.ok("renew").status == 0
    assert copy.ok("rename", "mail").status == 0
    assert os.listdir(world.home / "states") == before
    vm.ok("restore", "latest")


def test_unrecovered_work_stops_clone_rename_and_move(blank: Blank, world: World) -> None:
    vm = blank("web")
    journal = vm.directory / ".qvm/archive.unfinished"
    record = {"what": "restore", "since": 0, "pid": 1, "is_ready": 1, "uuid": ""}
    text = json.dumps(record | {"swap": [["../x.qcow2.restore-new", "../x.qcow2"]]})
    vm.ok("disk", "list")
    journal.write_text(text)
    before = sorted(os.listdir(world.home))
    for words in (["clone", "web", "mail"], ["rename", "web", "mail"], ["move", "web", "mail"]):
        result = world.run(*words)
        assert (result.status, "interrupted and cannot be recovered" in result.err) == (1, True), result
        assert sorted(os.listdir(world.home)) == before
        assert journal.read_text() == text
