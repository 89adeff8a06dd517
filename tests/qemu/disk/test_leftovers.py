"""What a killed `disk add` or `disk trim` leaves is found wherever the disk is, and removed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.programs import qemu_img
from tests.support.world import DEADLINE_S, QVM, Blank, Vm


def killed(vm: Vm, is_there: Callable[[], object], *words: str) -> None:
    """Begin a verb, and kill it with all that it runs as soon as something is there."""
    child = subprocess.Popen(
        [QVM, *words], cwd=vm.directory, env=vm.world.environ, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while child.poll() is None and not is_there():
        time.sleep(0.0005)
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait(DEADLINE_S)


def removed(vm: Vm) -> str:
    output = vm.ok("doctor", "--fix").out
    assert "left by a killed command" not in vm.qvm("doctor").out
    return output


@pytest.mark.parametrize("is_link", [pytest.param(False, marks=pytest.mark.long), True])
def test_trim_killed_outside_the_directory_leaves_nothing(blank: Blank, is_link: bool) -> None:
    vm = blank(VM_DISKS="data.qcow2" if is_link else "../far/data.qcow2")
    far = vm.directory.parent / "far"
    far.mkdir()
    path = far / "data.qcow2"
    qemu_img(vm, "create", "-q", "-f", "qcow2", str(path), "1G")
    filled = [word for at in range(64) for word in ("-c", f"write -P {at + 1} {at}M 1M")]
    subprocess.run(["qemu-io", "-f", "qcow2", *filled, str(path)], check=True, capture_output=True)
    if is_link:
        (vm.directory / "data.qcow2").symlink_to(path)
    for _ in range(20):
        killed(vm, lambda: list(far.glob("*.part*")), "disk", "trim", "disk1")
        if list(far.glob("*.part*")):
            break
    left = [each.name for each in far.glob("*.part*")]
    assert left, "it was never killed in time"
    assert left[0] in vm.qvm("doctor").out
    assert left[0] in removed(vm)
    assert os.listdir(far) == ["data.qcow2"]
    vm.ok("disk", "check", "disk1")


@pytest.mark.parametrize("where", ["", "../far/"])
def test_add_killed_leaves_nothing(blank: Blank, where: str) -> None:
    vm = blank()
    (vm.directory.parent / "far").mkdir()
    folder, note = vm.directory / where, vm.directory / ".qvm/disk.adding"

    def parts() -> list[Path]:
        return list(folder.glob("new*.part*"))

    def left_by_a_kill() -> str:
        for _ in range(40):
            killed(vm, parts, "disk", "add", f"{where}new{time.monotonic_ns()}.qcow2", "1M")
            if note.exists() and parts():
                return parts()[0].name
        raise AssertionError("it was never killed in time")

    name = left_by_a_kill()
    assert name in vm.qvm("doctor").out
    assert name in removed(vm)
    assert (parts(), note.exists()) == ([], False)
    left_by_a_kill()
    vm.ok("disk", "add", f"{where}last.qcow2", "1M")  # so does the next one
    assert (parts(), note.exists()) == ([], False)
