"""Each thing that can go wrong before a guest runs has its own clear error (real QEMU)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.errors import require_error
from tests.support.foreign_qemu import qemu_with
from tests.support.small_disk import small_disk
from tests.support.world import DEADLINE_S, QVM, Blank, World, write_vmrc


def test_start_without_vmrc_names_the_one_above(world: World) -> None:
    write_vmrc(world.home / "vm/demo")
    below = world.home / "vm/demo/archive"
    below.mkdir()
    require_error(world.run("start", cwd=below), 2, "no .vmrc in", "qvm -C")


def test_start_vm_home_elsewhere_is_an_error(world: World) -> None:
    write_vmrc(world.home / "one", "one")
    write_vmrc(world.home / "two", "two")
    result = world.run("start", cwd=world.home / "one", env={"VM_HOME": str(world.home / "two")})
    require_error(result, 2, "VM_HOME", "VM_HOME_OVERRIDES_CWD")


def test_start_missing_mandatory_variable_is_named(world: World) -> None:
    (world.home / "x").mkdir()
    (world.home / "x/.vmrc").write_text("VM_MACHINE_ID=33\nVM_MACHINE_OWNER=root\n")
    result = world.run("start", cwd=world.home / "x")
    assert result.status == 2
    assert "VM_MACHINE_NAME" in result.err


def test_start_malformed_variables_are_all_reported_with_places(blank: Blank) -> None:
    vm = blank(has_images=False, VM_MACHINE_ID="7", VM_MACHINE_MEM="lots")
    result = vm.qvm("start")
    assert result.status == 2
    assert ".vmrc:2:" in result.err
    assert ".vmrc:4:" in result.err


def test_start_missing_qemu_names_the_program(blank: Blank) -> None:
    require_error(blank(VM_QEMU_BIN="qemu-system-nothing").qvm("start"), 1, "qemu-system-nothing", "install")


def test_start_missing_image_names_it(blank: Blank) -> None:
    require_error(blank(has_images=False).qvm("start"), 1, "demo: demo-backing.qcow2 is missing", "init")


def test_start_orphaned_overlay_is_named(blank: Blank) -> None:
    vm = blank()
    (vm.directory / "demo-base.qcow2").unlink()
    require_error(vm.qvm("start"), 1, "demo: demo-backing.qcow2 is orphaned", "put that file back")


def test_start_truncated_image_is_called_corrupt(blank: Blank) -> None:
    vm = blank()
    (vm.directory / "demo-backing.qcow2").write_bytes(b"QFI\xfb short")
    require_error(vm.qvm("start"), 1, "demo: demo-backing.qcow2 is corrupt")


def test_start_garbage_image_is_called_by_its_format(blank: Blank) -> None:
    vm = blank()
    (vm.directory / "demo-backing.qcow2").write_bytes(b"garbage" * 1000)
    require_error(vm.qvm("start"), 1, "demo-backing.qcow2 is in format raw")


def test_start_locked_image_names_the_process(blank: Blank) -> None:
    vm = blank()
    with qemu_with(vm.directory / "demo-backing.qcow2") as other:
        result = vm.qvm("start")
        require_error(
            result,
            1,
            f"demo: demo-backing.qcow2 is in use by qemu-system-x86 (pid {other.pid}",
            "end that process",
        )


def test_start_more_memory_than_the_host_is_refused(blank: Blank) -> None:
    require_error(
        blank(VM_MACHINE_MEM="99999999").qvm("start"), 2, "more memory than the host has", "VM_MACHINE_MEM"
    )


def test_start_too_long_runtime_folder_is_refused(blank: Blank, tmp_path: Path) -> None:
    vm = blank()
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    result = vm.qvm("start", env={"XDG_RUNTIME_DIR": str(folder)})
    require_error(result, 1, "too long for sockets", "XDG_RUNTIME_DIR")


def test_start_qemu_that_dies_at_once_shows_its_message(blank: Blank) -> None:
    vm = blank(VM_QEMU_EXTRA="-device no-such-device")
    result = vm.qvm("start")
    require_error(result, 1, "demo: QEMU exited immediately (exit status 1)", "dryrun")
    assert "'no-such-device' is not a valid device model name" in result.err
    assert vm.qvm("status").out == "demo: stopped\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be shown another user's files")
def test_start_foreign_vmrc_as_root_is_refused(blank: Blank) -> None:
    vm = blank()
    os.chown(vm.directory / ".vmrc", 65534, 65534)
    require_error(vm.qvm("start"), 2, ".vmrc", "qvm allow")
    vm.ok("allow")
    vm.ok("start", "--no-wait")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be shown another user's files")
def test_start_vmrc_that_others_may_write_is_refused_as_root(blank: Blank) -> None:
    vm = blank()
    (vm.directory / ".vmrc").chmod(0o666)
    require_error(vm.qvm("start"), 2, ".vmrc", "chmod")


def test_start_with_networks_says_they_come_later(blank: Blank) -> None:
    require_error(
        blank("net", has_images=False, VM_NETWORK="tap0").qvm("start"),
        2,
        "VM_NETWORK needs bridges, which are not supported yet",
        "remove it",
    )


def test_run_daemonize_is_refused_with_a_pointer(blank: Blank) -> None:
    require_error(blank().qvm("run", "-daemonize"), 2, "-daemonize", "qvm start")


def test_start_full_disk_is_reported_and_loses_nothing(blank: Blank, tmp_path: Path) -> None:
    """A small tmpfs in a mount namespace of the test's own stands for the full disk."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and unshare for a small file system")
    world = blank("other", has_images=False).world
    write_vmrc(world.home / "demo")
    script = (
        f"mount -t tmpfs -o size=300k tmpfs '{world.home}/demo' && cd '{world.home}/demo' && "
        f"cp '{tmp_path}/vmrc' .vmrc && qemu-img create -q -f qcow2 demo-seed.qcow2 16M && "
        f"dd if=/dev/zero of=fill bs=1k 2>/dev/null; {QVM} init; echo status=$?; ls -A"
    )
    shutil.copy(world.home / "demo/.vmrc", tmp_path / "vmrc")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        env=world.environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert "status=1" in done.stdout, done
    assert "No space left" in done.stderr, done
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not [name for name in done.stdout.split() if "base" in name or "backing" in name or "part" in name]


WAYS = [["start", "--no-wait"], ["start", "--no-wait", "--disposable"], ["run"]]


@pytest.mark.parametrize("words", WAYS)
def test_start_on_a_full_disk_names_the_file_system(blank: Blank, world: World, words: list[str]) -> None:
    check_full_disk(blank, world, words, (0, 1, 4))


@pytest.mark.long
@pytest.mark.parametrize("words", WAYS)
def test_start_on_a_full_disk_names_it_long(blank: Blank, world: World, words: list[str]) -> None:
    check_full_disk(blank, world, words, range(7))


def check_full_disk(blank: Blank, world: World, words: list[str], free_pages: Iterable[int]) -> None:
    where = world.home / "small"
    with small_disk(where, 4):
        vm = blank("demo", "small/demo")
        fill = where / "fill"
        try:
            with contextlib.suppress(OSError), fill.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            count = fill.stat().st_size // 4096
            outcomes = set()
            for pages in free_pages:
                os.truncate(fill, (count - pages) * 4096)
                result = vm.qvm(*words, stdin="") if words != ["run"] or pages < 1 else vm.qvm("status")
                outcomes.add(result.status)
                if result.status == 1 and "status" not in result.argv:
                    assert (
                        "full" in result.err
                        or f"no space is left on the file system of {where}" in result.err
                    )
                    assert "free space there" in result.err or "free some space" in result.err
                    assert vm.qvm("status").out == "demo: stopped\n"
                vm.kill()
            assert 1 in outcomes
            fill.unlink()
            assert [
                each.name for each in (vm.directory / ".qvm").iterdir() if "disposable" in each.name
            ] == []
            vm.ok("start", "--no-wait")
        finally:
            vm.kill()
            shutil.rmtree(vm.directory)
