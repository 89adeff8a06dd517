"""Fixtures: environments, machines in folders of their own, real guests, and a watch for leftovers.

Every process that a test starts inherits a mark in its environment; after the test (and after the
module for guests that a module shares) no process with that mark may live and no socket may be left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from qvmsh.errors import QvmError
from tests.support.guest_writer import end_begun, two_disks
from tests.support.guests import debian as debian_guest
from tests.support.qemu10 import pytest_generate_tests, qemu
from tests.support.schedule import pytest_xdist_make_scheduler
from tests.support.world import (
    REAL_CACHE,
    Vm,
    World,
    build_tiny,
    copy_of,
    create_blank,
    create_tiny,
    end_world,
    new_world,
    saved_once,
    write_vmrc,
)

__all__ = ["pytest_generate_tests", "pytest_xdist_make_scheduler", "qemu"]  # pytest finds them here

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # begun in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or no child could be interrupted
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # begun by nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


LONG_S = 3600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that hangs is ended: a `long` one after an hour, any other after what `pyproject.toml` says."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(LONG_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a user would be told: pytest shows the first line of an error alone."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, QvmError):
        report.sections.append(("the error as a user sees it", "\n".join(call.excinfo.value.lines())))
    return report


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An environment of the test's own; nothing may be left of it."""
    made = new_world(tmp_path)
    yield made
    end_world(made)


@pytest.fixture(scope="module")
def module_world(tmp_path_factory: pytest.TempPathFactory, qemu: str) -> Iterator[World]:
    """An environment that the tests of a module share."""
    made = new_world(tmp_path_factory.mktemp("module"))
    yield made
    end_world(made)


@pytest.fixture
def blank(world: World) -> Iterator[Callable[..., Vm]]:
    """Machines with an empty disk: real QEMU, no guest system. `blank(name="demo", VM_X="...")`."""
    made: list[Vm] = []

    def make(name: str = "demo", where: str | None = None, has_images: bool = True, **more: str) -> Vm:
        if has_images:
            vm = create_blank(world, name, where, **more)
        else:
            vm = Vm(world, world.home / (where or name))
            write_vmrc(vm.directory, name, **more)
        made.append(vm)
        return vm

    yield make
    for vm in made:
        if vm.directory.exists():
            vm.kill()


@pytest.fixture(scope="session")
def tiny(qemu: str) -> str:
    return build_tiny()


@pytest.fixture
def guest(world: World, tiny: str) -> Iterator[Vm]:
    """A machine with a real guest, off; the test's own."""
    vm = create_tiny(world)
    yield vm
    vm.kill()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny: str, qemu: str) -> Path:
    """A machine that is off, with a saved state of its booted guest: one boot for all tests."""
    return saved_once(tmp_path_factory, f"saved{qemu}", Vm.save)


@pytest.fixture(scope="session")
def saved_with_data(tmp_path_factory: pytest.TempPathFactory, tiny: str, qemu: str) -> Path:
    """As `saved`, with a second disk."""

    def save(vm: Vm) -> None:
        with two_disks(vm):
            vm.save()

    return saved_once(tmp_path_factory, f"saved-with-data{qemu}", save)


@pytest.fixture
def loadable(world: World, saved: Path) -> Iterator[Vm]:
    """A machine that is off; `start --loadvm SAVED` has its guest ready as often as wanted."""
    vm = copy_of(world, saved)
    yield vm
    vm.kill()


@pytest.fixture
def loaded(loadable: Vm) -> Vm:
    """A real guest, running and ready, without the boot; the test's own."""
    loadable.load()
    return loadable


@pytest.fixture
def guest_with_data(world: World, saved_with_data: Path) -> Iterator[Vm]:
    """A guest with a second disk, off; `boot` of `guest_writer` loads it, the first time."""
    vm = copy_of(world, saved_with_data)
    yield vm
    end_begun()
    vm.kill()


@pytest.fixture(scope="module")
def running(module_world: World, saved: Path) -> Iterator[Vm]:
    """A real guest, running and ready, shared by a module; tests leave it as it was."""
    vm = copy_of(module_world, saved)
    vm.load()
    yield vm
    vm.kill()


@pytest.fixture(scope="session")
def debian() -> debian_guest.DebianImage:
    """Debian with systemd: a disk image, and the key and the account to log in with."""
    cache = Path(REAL_CACHE) / "qvm/test-guests"
    obstacle = None if debian_guest.found(cache) else debian_guest.obstacle()
    if obstacle and os.environ.get("CI"):
        pytest.fail(obstacle)
    if obstacle:
        pytest.skip(obstacle)
    return debian_guest.build(cache)
