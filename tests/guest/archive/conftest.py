"""The machine that these tests are about."""

from __future__ import annotations

import pytest

from tests.support.world import Vm


@pytest.fixture
def vm(guest_with_data: Vm) -> Vm:
    return guest_with_data
