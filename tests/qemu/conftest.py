"""What the tests without a guest system share: machines with an empty disk, made and ended cheaply."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from qvmsh.errors import QvmError, StateError
from tests.support.world import Vm, World, write_vmrc

NO_PXE = "VM_QEMU_EXTRA='-global virtio-net-pci.romfile='\n"
"""Nothing boots here, and the network card's firmware would look for a server for seconds, at full speed."""


@pytest.fixture
def world(world: World) -> World:
    """An environment of the test's own, without booting from the network."""
    (world.home / "global-vmrc").write_text(NO_PXE)
    return world


def end(vm: Vm) -> None:
    """End a machine's QEMU; by the library, which costs no process."""
    try:
        vm.library().kill()
    except StateError:
        return
    except (QvmError, OSError):
        vm.kill()


@pytest.fixture
def blank(world: World) -> Iterator[Callable[..., Vm]]:
    """Machines with an empty disk: real QEMU, no guest system. `blank(name="demo", VM_X="...")`."""
    made: list[Vm] = []

    def make(name: str = "demo", where: str | None = None, has_images: bool = True, **more: str) -> Vm:
        vm = Vm(world, world.home / (where or name))
        write_vmrc(vm.directory, name, **more)
        if has_images:
            seed = ["qemu-img", "create", "-q", "-f", "qcow2", f"./{name}-seed.qcow2", "16M"]
            subprocess.run(seed, cwd=vm.directory, check=True)
            vm.library().init()
        made.append(vm)
        return vm

    yield make
    for vm in made:
        if vm.directory.exists():
            end(vm)
