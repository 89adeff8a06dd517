"""Machines that are archived fast: made once, without an agent; and one that is written to all the time."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.counting import NO_WAITING, wait_for_more
from tests.support.guests import counter
from tests.support.programs import qemu_img
from tests.support.world import Blank, Vm, World, create_blank, end_world, new_world, write_vmrc


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, qemu: None) -> Iterator[Path]:
    """What `qvm init` makes of a machine with an empty disk: its folder."""
    world = new_world(tmp_path_factory.mktemp("made"))
    yield create_blank(world).directory
    end_world(world)


@pytest.fixture
def blank(world: World, made: Path) -> Iterator[Blank]:
    """Machines as of `blank` everywhere, without agent and network card: an archive would wait for an agent.

    The first one is a copy of one that was made.
    """
    vms: list[Vm] = []

    def make(name: str = "demo", where: str | None = None, has_images: bool = True, **more: str) -> Vm:
        vm, settings = Vm(world, world.home / (where or name)), NO_WAITING | more
        if has_images and name == "demo" and not vms:
            shutil.copytree(made, vm.directory, dirs_exist_ok=True)
            (vm.directory / ".qvm/uuid").write_text(f"{uuid.uuid4()}\n")
            write_vmrc(vm.directory, name, **settings)
        elif has_images:
            create_blank(world, name, where, **settings)
        else:
            write_vmrc(vm.directory, name, **settings)
        vms.append(vm)
        return vm

    yield make
    for vm in vms:
        if vm.directory.exists() and world.pids("qemu-system"):
            vm.kill()


@pytest.fixture
def counting(blank: Blank) -> Vm:
    """A machine of two disks whose guest writes numbers to both all the time (support/guests/counter.py)."""
    vm = blank(VM_DISKS="data.qcow2")
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "16M")
    counter.install(vm.directory / "demo-backing.qcow2")
    vm.ok("start", "--no-wait")
    wait_for_more(vm)
    return vm
