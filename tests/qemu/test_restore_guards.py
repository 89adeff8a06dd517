"""restore writes where it should and nowhere else, and what it says of the machine is true."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from conftest import Vm
from test_archive import archived, byte, img, name_of, nothing_left, write
from test_archive_hostile import edit, part, settings, told

Blank = Callable[..., Vm]


def left_out(source: str, role: str = "file1") -> dict[str, Any]:
    """A part of a manifest whose file was not archived."""
    return {"role": role, "name": "", "format": "raw", "source": source, "left_out": "it is large"}


def test_new_machine_is_not_written_through_a_link_to_what_was_left_out(blank: Blank) -> None:
    vm = blank(VM_DISKS="sub/evil.txt:raw")
    (vm.directory / "sub").mkdir()
    (vm.directory / "sub/evil.txt").write_bytes(b"#!/bin/sh\n".ljust(1024, b"\n"))
    made = archived(vm)
    victim = vm.world.home / "sub"
    victim.mkdir()

    def change(found: dict[str, Any]) -> None:
        found["directory"] = str(vm.world.home)
        found["points"][0]["parts"].append(left_out("sub"))

    edit(vm, change)
    vm.ok("restore", name_of(made), "../twin")
    assert os.listdir(victim) == []
    assert (vm.world.home / "twin/sub/evil.txt").is_file()
    assert not (vm.world.home / "twin/sub").is_symlink()


def test_links_to_what_was_left_out_are_made_and_a_disk_keeps_its_place(blank: Blank) -> None:
    """A folder and a file of it, in either order; a disk that had the name of a link lies beside it."""
    vm = blank(VM_DISKS="../tools.raw")
    for name in ("shared/kernel", "other/kernel", "tools.raw"):
        (vm.directory / name).parent.mkdir(exist_ok=True)
        (vm.directory / name).write_text("as it was\n")
    (vm.world.home / "tools.raw").write_bytes(b"a disk".ljust(512))
    archived(vm)
    sources = ("shared", "shared/kernel", "other/kernel", "other", "tools.raw")

    def change(found: dict[str, Any]) -> None:
        rows = [left_out(source, f"file{at}") for at, source in enumerate(sources, start=1)]
        found["points"][0]["parts"] += rows

    edit(vm, change)
    vm.ok("restore", "latest", "../twin")
    twin = vm.world.home / "twin"
    assert (twin / "shared").readlink() == vm.directory / "shared"
    assert (twin / "other/kernel").readlink() == vm.directory / "other/kernel"
    assert (twin / "tools.raw").readlink() == vm.directory / "tools.raw"
    assert (twin / "tools-2.raw").read_bytes().startswith(b"a disk")
    assert "tools-2.raw" in (twin / ".vmrc").read_text()


def test_what_was_left_out_and_is_no_file_is_not_linked(blank: Blank) -> None:
    vm = blank()
    archived(vm)
    os.mkfifo(vm.directory / "pipe")
    edit(vm, lambda found: found["points"][0]["parts"].append(left_out("pipe")))
    assert "put it into the new machine" in vm.ok("restore", "latest", "../twin").out
    assert not os.path.lexists(vm.world.home / "twin/pipe")


# An image is opened as what it was archived as


def trap(vm: Vm, name: str) -> None:
    """Put an image that stands on a file of the user's in place of an archived one."""
    secret = vm.world.home / "secret"
    secret.write_bytes(b"S" * (1 << 20))
    (vm.directory / name).unlink()
    img(vm, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret), name)


def refused(vm: Vm, says: str) -> None:
    """Into the same machine and into a new one; the machine is as it was."""
    told(vm.qvm("restore", "--force", "latest"), 1, says=says)
    told(vm.qvm("restore", "latest", "../twin"), 1, says=says)
    assert not (vm.world.home / "twin").exists()
    assert byte(vm, "0") == 2
    nothing_left(vm)


def test_image_that_the_manifest_calls_raw_is_not_opened_as_qcow2(blank: Blank) -> None:
    vm = blank()
    made = archived(vm)
    trap(vm, f"{made['archive']}/demo-backing.qcow2")
    write(vm, 2, "0")
    edit(vm, lambda found: part(found).update(format="raw"))
    refused(vm, "is raw in the archive, and the machine opens it as qcow2")


def test_raw_layer_that_begins_like_a_qcow2_image_is_refused(blank: Blank) -> None:
    vm = blank()
    made = archived(vm)
    trap(vm, f"{made['archive']}/demo-base.qcow2")
    write(vm, 2, "0")
    edit(vm, lambda found: found["layers"]["main"][0].update(format="raw", source_mtime_ns=0))
    refused(vm, "-base.qcow2 is raw in the archive, and begins like a qcow2 image")


def test_raw_disk_whose_format_qemu_guesses_must_not_begin_like_a_qcow2_image(blank: Blank) -> None:
    vm = blank(VM_QEMU_EXTRA="-drive file=data.img,if=virtio")
    img(vm, "qemu-img", "create", "-q", "-f", "raw", "data.img", "1M")
    made = archived(vm)
    vm.ok("restore", "latest", "../good")
    trap(vm, f"{made['archive']}/demo-extra1.img")
    write(vm, 2, "0")
    edit(vm, lambda found: None)
    refused(vm, "data.img is raw in the archive, and begins like a qcow2 image")


def test_qcow2_image_that_a_guest_wrote_onto_its_raw_disk_comes_back(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.img:raw")
    img(vm, "qemu-img", "create", "-q", "-f", "qcow2", "data.img", "1M")
    kept = (vm.directory / "data.img").read_bytes()
    archived(vm)
    vm.ok("archive", "--verify")
    (vm.directory / "data.img").write_bytes(b"else".ljust(1 << 20))
    vm.ok("restore", "--force", "latest")
    vm.ok("restore", "latest", "../twin")
    assert (vm.directory / "data.img").read_bytes() == kept
    assert (vm.world.home / "twin/data.img").read_bytes() == kept


def test_disk_that_is_of_another_format_now_is_not_replaced(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.img:raw")
    img(vm, "qemu-img", "create", "-q", "-f", "raw", "data.img", "1M")
    archived(vm)
    img(vm, "qemu-img", "create", "-q", "-f", "qcow2", "data.img", "1M")
    vm.ok("config", "VM_DISKS=data.img:qcow2")
    result = vm.qvm("restore", "--force", "latest")
    told(result, 1, says="data.img is raw in the archive, and the machine opens it as qcow2")
    img(vm, "qemu-img", "check", "-f", "qcow2", "data.img")
    nothing_left(vm)


def test_disk_that_comes_back_is_opened_as_what_it_was_archived_as(blank: Blank) -> None:
    """Whatever the archived settings say of it."""
    vm = blank(VM_DISKS="data.img:raw:none")
    img(vm, "qemu-img", "create", "-q", "-f", "raw", "data.img", "1M")
    archived(vm)
    vm.ok("config", "VM_DISKS=data.img:qcow2:none")
    settings(vm)
    vm.ok("config", "VM_DISKS=")
    vm.ok("restore", "--force", "latest")
    assert "VM_DISKS=data.img:raw:none" in (vm.directory / ".vmrc").read_text().replace("'", "")
