"""Names in other encodings, and a machine on a file system that is read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import qemu_img
from tests.support.small_disk import unmount
from tests.support.world import Blank, Vm, World, write_vmrc


@pytest.fixture
def eight_bits(tmp_path: Path) -> dict[str, str]:
    """The environment of a caller whose locale has a byte a character."""
    made = tmp_path / "locales/en_US.ISO-8859-1"
    made.parent.mkdir()
    try:
        subprocess.run(
            ["localedef", "-i", "en_US", "-f", "ISO-8859-1", made], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no localedef here")
    if not made.exists():
        pytest.skip("localedef has no sources here")
    return {"LOCPATH": str(made.parent), "LC_ALL": "en_US.ISO-8859-1"}


@pytest.mark.parametrize("name", ["grün", "日本"])
def test_locale_of_a_byte_a_character_means_the_same_files(
    blank: Blank, eight_bits: dict[str, str], name: str
) -> None:
    vm = blank(name, VM_DISKS=f"{name}.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", f"{name}.qcow2", "1M")
    result = vm.world.run("-C", name, "disk", "list", env=eight_bits)
    assert (result.status, result.err) == (0, "")
    assert result.out == vm.ok("disk", "list").out
    assert f"{name}-backing.qcow2: qcow2, 16.0 MiB" in result.out
    assert vm.qvm("config", f"VM_LABELS={name}", env=eight_bits).status == 0
    assert vm.ok("config", "VM_LABELS").out == f"{name}\n"
    vm.ok("start", "--no-wait", env=eight_bits)
    assert name in vm.world.run("list", env=eight_bits).out
    vm.ok("snapshot", "save", name, env=eight_bits)
    assert name in vm.ok("snapshot", "list").out
    vm.ok("kill", env=eight_bits)


LATIN = os.fsdecode(b"d\xe4")


def test_disk_whose_name_is_not_utf8_is_refused_at_once(blank: Blank) -> None:
    vm = blank()
    before = sorted(os.listdir(vm.directory))
    for words in (["disk", "add", f"{LATIN}.qcow2", "4M"], ["disk", "add", f"../{LATIN}/a.qcow2"]):
        refused = vm.qvm(*words)
        assert (refused.status, "that name is not UTF-8" in refused.err) == (1, True), str(refused)
        assert "hint: " in refused.err
    assert sorted(os.listdir(vm.directory)) == before
    assert vm.qvm("config", "VM_DISKS").out.strip() == ""
    (vm.directory / LATIN).mkdir()
    qemu_img(vm, "create", "-q", "-f", "qcow2", f"{LATIN}/a.qcow2", "1M")
    with (vm.directory / ".vmrc").open("ab") as file:
        file.write(b"VM_CDROM=d\xe4/a.qcow2\n")
    refused = vm.qvm("start", "--no-wait")
    assert (refused.status, "that name is not UTF-8" in refused.err) == (1, True), str(refused)
    (vm.directory / "link").symlink_to(LATIN)
    vm.ok("--set", "VM_CDROM=", "disk", "add", "link/a.qcow2")


def test_machine_in_a_folder_whose_name_is_not_utf8_works(blank: Blank) -> None:
    vm = blank(where=f"{LATIN}/demo")
    vm.ok("start", "--no-wait")
    vm.ok("disk", "add", "data.qcow2", "1M")
    vm.ok("snapshot", "save", "live")
    vm.ok("archive")
    vm.ok("kill")
    vm.ok("archive")
    doctor = vm.qvm("doctor").out
    assert "data.qcow2" in doctor
    assert "cannot be run" not in doctor
    vm.ok("disk", "check")


@pytest.fixture
def read_only(world: World) -> Iterator[Vm]:
    """A machine on a file system that is mounted read-only."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    directory, place = world.home / "demo", world.home / "ro"
    write_vmrc(directory, VM_DISKS="data.img")
    vm = Vm(world, directory)
    qemu_img(vm, "create", "-q", "-f", "qcow2", "demo-seed.qcow2", "1M")
    qemu_img(vm, "create", "-q", "-f", "raw", "data.img", "1M")
    vm.ok("init")
    place.mkdir()
    if subprocess.run(["mount", "--bind", directory, place], capture_output=True).returncode:
        pytest.skip("this host mounts nothing")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True, capture_output=True)
        yield Vm(world, place)
    finally:
        unmount(place)


def test_read_only_file_system_is_named_as_the_reason(read_only: Vm) -> None:
    vm = read_only
    for words in (["start", "--no-wait"], ["disk", "check"], ["snapshot", "save", "a"], ["archive"]):
        refused = vm.qvm(*words)
        assert refused.status == 1, str(refused)
        assert "ead-only file system" in refused.err
        assert "remount" in refused.err
        assert "owner" not in refused.err + refused.out
        assert "as the file's owner" not in refused.err
    for words in (["doctor"], ["doctor", "--fix"]):
        result = vm.qvm(*words)
        assert f"{vm.directory} is on a read-only file system" in result.out
        assert "run qvm as" not in result.out
        assert "run this as the machine's owner" not in result.out
    vm.ok("disk", "list")
    assert "data.img is on a read-only file system" in vm.qvm("doctor").out
