"""A copy's settings mean the copy's own files, and outside of it the same files as the original's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.archives import make_archive
from tests.support.counting import NO_WAITING
from tests.support.programs import qemu_img, qemu_io
from tests.support.world import Blank, Vm, World

HOOK = '#!/bin/sh\necho "$0" >>"$VM_HOME/ran"\n'


@pytest.fixture
def vm(blank: Blank, world: World) -> Vm:
    """Paths with `..`, whole paths to the machine's own files, one through a link, an include."""
    made = blank("web", **NO_WAITING)
    home, own = world.home, world.home / "web"
    for hook in (home / "hook", own / "hook2"):
        hook.write_text(HOOK)
        hook.chmod(0o755)
    (home / "common").write_text("VM_LABELS=shared\n")
    (home / "cd.iso").write_bytes(bytes(1 << 20))
    (own / "key").write_text("x")
    (home / "link").symlink_to("web")
    for name, kind in (("../gold.qcow2", "qcow2"), ("../near.raw", "raw"), ("own.qcow2", "qcow2")):
        qemu_img(made, "create", "-q", "-f", kind, name, "1M")
    qemu_img(made, "create", "-q", "-f", "raw", "../far.raw", "1M")
    with (own / ".vmrc").open("a") as file:
        file.write(
            "VM_INCLUDE=../common\n"
            f"VM_DISKS='../gold.qcow2:qcow2:ro\n../near.raw:raw\n{home}/link/own.qcow2'\n"
            "VM_CDROM=../cd.iso\nVM_PRE_START=../hook\nVM_LOG=../web.log\n"
            f"VM_POST_STOP={own}/hook2\nVM_ARCHIVE={own}/arch\n"
            f'VM_QEMU_EXTRA="-fw_cfg name=opt/x,file={own}/key '
            '-drive file=file:../far.raw,format=raw,if=virtio,id=far"\n'
        )
    return made


def require_own_files(vm: Vm, twin: Vm) -> None:
    home, own = vm.world.home, twin.directory

    def meant(name: str) -> str:
        return os.path.normpath(own / twin.ok("config", name).out.strip())

    disks = [os.path.normpath(own / line.split(":")[0]) for line in twin.ok("config", "VM_DISKS").out.split()]
    assert disks == [f"{home}/gold.qcow2", f"{own}/near.raw", f"{own}/own.qcow2"]
    assert [meant(name) for name in ("VM_CDROM", "VM_PRE_START", "VM_LOG", "VM_POST_STOP", "VM_ARCHIVE")] == [
        f"{home}/cd.iso", f"{home}/hook", f"{home}/web.log", f"{own}/hook2", f"{own}/arch",
    ]  # fmt: skip
    assert twin.ok("config", "VM_LABELS").out == "shared\n"
    words = twin.ok("config", "VM_QEMU_EXTRA").out
    assert "file:" not in words
    assert os.path.normpath(own / words.partition("name=opt/x,file=")[2].split()[0]) == f"{own}/key"
    assert os.path.normpath(own / words.partition("-drive file=")[2].split(",")[0]) == f"{own}/far.raw"
    twin.ok("start", "--no-wait")
    opened = "\n".join(os.path.realpath(link) for link in Path(f"/proc/{twin.pid}/fd").iterdir())
    assert f"{home}/near.raw" not in opened
    assert f"{home}/far.raw" not in opened
    assert f"{vm.directory}/own.qcow2" not in opened
    twin.ok("kill")
    ran = [os.path.normpath(line) for line in (own / "ran").read_text().splitlines()]
    assert ran == [f"{home}/hook", f"{own}/hook2"]


@pytest.mark.parametrize("place", ["twin", "sub/deep/twin", "empty"])
def test_clone_means_its_own_files_and_the_same_others(vm: Vm, place: str) -> None:
    (vm.world.home / "sub/deep").mkdir(parents=True)
    (vm.world.home / "empty").mkdir()
    result = vm.ok("clone", "web", f"../{place}")
    assert ".part-" not in result.out + result.err
    require_own_files(vm, Vm(vm.world, vm.world.home / place))


def test_restored_machine_means_its_own_files_and_the_others(vm: Vm) -> None:
    (vm.world.home / "sub").mkdir()
    make_archive(vm)
    result = vm.ok("restore", "latest", "../sub/twin")
    assert ".part-" not in result.out + result.err
    require_own_files(vm, Vm(vm.world, vm.world.home / "sub/twin"))


def test_imported_machine_means_its_own_files(vm: Vm) -> None:
    vm.ok("export", "../web.tar")
    report = vm.ok("import", "../web.tar", "../twin").out
    twin = Vm(vm.world, vm.world.home / "twin")
    assert "own.qcow2" not in report
    assert ".part-" not in report
    assert str(vm.directory) not in (twin.directory / ".vmrc").read_text()
    names = [line.split(":")[0] for line in twin.ok("config", "VM_DISKS").out.split()]
    assert all((twin.directory / name).resolve().is_relative_to(twin.directory) for name in names), names
    assert "near.raw" in names[1]


def test_note_about_the_guest_is_of_disks_that_hold_one(blank: Blank) -> None:
    vm = blank("web", **NO_WAITING)
    make_archive(vm)
    vm.ok("export", "../web.tar")
    for words in (["import", "../web.tar", "../twin"], ["restore", "latest", "../third"]):
        assert "on its disks the guest" not in vm.ok(*words).out, words
    shutil.copytree(vm.directory, vm.world.home / "hand", symlinks=True)
    assert "on its disks the guest" not in vm.ok("-C", "../hand", "renew").out


def test_state_whose_paths_cannot_be_rewritten_is_restored(blank: Blank) -> None:
    vm = blank("web", **NO_WAITING)
    qemu_img(vm, "create", "-q", "-f", "qcow2", "own.qcow2", "1M")
    (vm.directory / "common").write_text(f"VM_DISKS={vm.directory}/own.qcow2\nVM_LOG={vm.directory}/log\n")
    with (vm.directory / ".vmrc").open("a") as file:
        file.write("VM_INCLUDE=common\n")
    make_archive(vm)
    refused = vm.qvm("clone", "web", "../twin")
    assert (refused.status, "of common names a file in" in refused.err) == (3, True), refused
    assert not (vm.world.home / "twin").exists()
    assert "of common names a file in" in vm.ok("restore", "latest", "../twin").out
    twin = Vm(vm.world, vm.world.home / "twin")
    assert "/" not in twin.ok("config", "VM_DISKS").out
    twin.ok("start", "--no-wait")
    opened = [os.path.realpath(link) for link in Path(f"/proc/{twin.pid}/fd").iterdir()]
    assert str(vm.directory / "own.qcow2") not in opened
    twin.ok("kill")


def test_base_of_a_disk_in_a_folder_is_found_in_each_copy(blank: Blank, world: World) -> None:
    vm = blank("web", VM_DISKS="disks/deep/data.qcow2")
    (vm.directory / "disks/deep").mkdir(parents=True)
    qemu_img(vm, "create", "-q", "-f", "qcow2", "below.qcow2", "1M")
    qemu_io(vm, "-c", "write -P 1 0 64k", "below.qcow2")
    words = ["-f", "qcow2", "-F", "qcow2", "-b", "../../below.qcow2"]
    qemu_img(vm, "create", "-q", *words, "disks/deep/data.qcow2")
    vm.ok("archive")
    vm.ok("clone", "../clone")
    vm.ok("clone", "../linked", "--linked")
    vm.ok("restore", "latest", "../restored")
    vm.ok("export", "../web.tar")
    assert world.run("import", "web.tar", "imported").status == 0
    for name in ("clone", "linked", "restored", "imported"):
        made = Vm(world, world.home / name)
        made.ok("disk", "check")
        read = qemu_io(made, "-r", "-c", "read -P 1 0 64k", "disks/deep/data.qcow2")
        assert ("read 65536/65536" in read, "verification failed" in read) == (True, False), (name, read)
        if name != "linked":
            made.ok("move", "../moved")
            Vm(world, world.home / "moved").ok("disk", "check")
            Vm(world, world.home / "moved").ok("delete", "-y", "--now")
