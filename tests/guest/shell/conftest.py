"""A guest that scripts and prompts start themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.world import Vm, World, copy_of


@pytest.fixture
def resumable(world: World, saved: Path) -> Iterator[Vm]:
    """A machine with a real guest, off, that need not boot: `start --loadvm SAVED`; the test's own."""
    vm = copy_of(world, saved)
    yield vm
    vm.kill()
