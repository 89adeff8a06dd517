"""What holds a guest's data is private, whatever the umask; what is replaced keeps its mode."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.world import Blank, Vm


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """A careless umask, for qvm and all that it begins (with 0 root would not use the `.vmrc`)."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def readable(vm: Vm) -> set[str]:
    """Files that another account could read, by their modes and those of the folders above them."""
    found = set()
    for folder, folders, names in os.walk(vm.directory):
        folders[:] = [each for each in folders if mode(Path(folder, each)) & 0o077]
        found |= {
            os.path.relpath(os.path.join(folder, each), vm.directory)
            for each in names
            if mode(Path(folder, each)) & 0o077
        }
    return found - {".vmrc", f"{vm.directory.name}-seed.qcow2"}


def test_init_disks_snapshots_and_a_run_leave_nothing_readable(blank: Blank) -> None:
    vm = blank(VM_FIRMWARE="uefi", VM_TPM="yes")
    assert mode(vm.directory / ".qvm") == 0o700
    vm.ok("disk", "add", "more.qcow2", "1M")
    assert readable(vm) == set()
    vm.ok("start", "--no-wait")
    vm.ok("snapshot", "save", "one")
    vm.ok("cmd", "dump-guest-memory", ".qvm/../memory.dump")
    vm.ok("cmd", "screendump", "screen.ppm")
    assert (vm.directory / "memory.dump").exists()
    assert (vm.directory / "screen.ppm").exists()
    assert readable(vm) == set()
    assert {mode(path) & 0o077 for path in (vm.directory / ".qvm/log").iterdir()} == {0}
    vm.ok("kill")
    vm.ok("disk", "add", "raw.raw", "1M")
    vm.ok("start", "--no-wait", "--disposable")
    vm.ok("kill")
    vm.ok("disk", "trim")
    vm.ok("archive")
    vm.ok("archive", "--verify")
    assert readable(vm) == set()
    assert mode(vm.directory) == 0o755  # the folder itself is as `mkdir` makes it


def test_create_and_restore_leave_nothing_readable(blank: Blank) -> None:
    vm = blank()
    seed = vm.directory / "demo-seed.qcow2"
    raw = vm.world.home / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", seed, raw], check=True)
    for name, source in (("one", seed), ("two", raw)):
        vm.world.run("create", name, "--image", source)
        assert readable(Vm(vm.world, vm.world.home / name)) == set()
    vm.ok("archive")
    vm.ok("restore", "latest", "../three")
    assert readable(Vm(vm.world, vm.world.home / "three")) == set()


def test_init_and_trim_keep_the_mode_of_what_they_replace(blank: Blank) -> None:
    vm = blank()
    images = [vm.directory / "demo-base.qcow2", vm.directory / "demo-backing.qcow2"]
    for chosen in (0o640, 0o644):
        for path in images:
            path.chmod(chosen)
        vm.ok("init", "-k", "-b")
        assert [mode(path) for path in images] == [chosen, chosen]
        vm.ok("init", "-k")
        vm.ok("disk", "trim")
        vm.ok("archive", "--create")
        assert [mode(path) for path in images] == [chosen, chosen]


def test_doctor_fix_closes_images_that_others_can_read(blank: Blank) -> None:
    vm = blank()
    vm.ok("disk", "add", "more.qcow2", "1M")
    names = ("demo-base.qcow2", "demo-backing.qcow2", "more.qcow2", ".qvm")
    for name in names:
        (vm.directory / name).chmod(0o755 if name == ".qvm" else 0o644)
    found = vm.qvm("doctor").out
    for name in names:
        assert f"{name} holds the guest's data and can be read by everybody" in found
    vm.qvm("doctor", "--fix")
    assert [mode(vm.directory / name) for name in names] == [0o640, 0o640, 0o640, 0o750]
    assert "can be read by everybody" not in vm.qvm("doctor").out
    assert mode(vm.directory / ".vmrc") == 0o644
