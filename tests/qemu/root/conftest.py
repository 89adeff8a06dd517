"""An account that owns machines on which root works."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.counting import NO_WAITING
from tests.support.owner import OpenWorld, Owner, throw_away_account
from tests.support.world import Blank, Vm, World, end_world, new_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    plain = new_world(tmp_path)
    made = OpenWorld(plain.home, plain.runtime)
    yield made
    end_world(made)


@pytest.fixture
def owner(world: World) -> Iterator[Owner]:
    with throw_away_account() as account:
        yield Owner(account.pw_name, world.mark)


@pytest.fixture
def theirs(world: World, owner: Owner, blank: Blank) -> Iterator[Callable[..., Vm]]:
    """Machines of the owner, made by root, in a folder that the owner can enter; no agent, no network."""
    folder = Path(tempfile.mkdtemp(prefix="qvmt-vms-"))
    folder.chmod(0o755)

    def make(**more: str) -> Vm:
        return blank(where=str(folder / "demo"), VM_MACHINE_OWNER=owner.name, **NO_WAITING | more)

    yield make
    if (folder / "demo/.vmrc").exists():
        Vm(world, folder / "demo").kill()
    world.wait_for_ends()
    shutil.rmtree(folder)
