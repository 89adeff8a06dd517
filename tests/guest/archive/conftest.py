"""The machine that these tests are about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.guest_writer import two_disks
from tests.support.world import Vm


@pytest.fixture
def vm(guest: Vm) -> Iterator[Vm]:
    """A guest with a second disk, off."""
    with two_disks(guest) as made:
        yield made
