"""Machines that the tests of one folder or another start in a way of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.world import Vm, World, copy_of


@pytest.fixture
def loadable(world: World, saved: Path) -> Iterator[Vm]:
    """A machine that is off; `start --loadvm SAVED` has its guest ready as often as wanted."""
    vm = copy_of(world, saved)
    yield vm
    vm.kill()
