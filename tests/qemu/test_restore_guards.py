"""restore writes where it should and nowhere else, and what it says of the machine is true."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from conftest import Vm
from test_archive import archived, name_of
from test_archive_hostile import edit

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
