"""The machine that the shell's tests are about."""

from __future__ import annotations

import pytest

from tests.support.world import Blank, Vm


@pytest.fixture
def vm(blank: Blank) -> Vm:
    """A machine with an empty disk, off."""
    return blank()
