"""A machine that is written to all the time."""

from __future__ import annotations

import pytest

from tests.support.counting import NO_WAITING, wait_for_more
from tests.support.guests import counter
from tests.support.programs import qemu_img
from tests.support.world import Blank, Vm


@pytest.fixture
def counting(blank: Blank) -> Vm:
    """A machine of two disks whose guest writes numbers to both all the time (support/guests/counter.py)."""
    vm = blank(VM_DISKS="data.qcow2", **NO_WAITING)
    qemu_img(vm, "create", "-q", "-f", "qcow2", "data.qcow2", "16M")
    counter.install(vm.directory / "demo-backing.qcow2")
    vm.ok("start", "--no-wait")
    wait_for_more(vm)
    return vm
