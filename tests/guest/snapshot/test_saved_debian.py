"""Saved state of a real distribution: systemd, OpenSSH, logind."""

from __future__ import annotations

import time

import pytest

from tests.support.guests import debian as debian_guest
from tests.support.world import Vm, World, create_debian

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]


def start(vm: Vm, *words: str) -> str:
    return vm.ok("start", "--ssh-attempts", "120", *words, timeout=300).out


def check_in_a_row(world: World, debian: debian_guest.DebianImage, machine: str, count: int) -> None:
    vm = create_debian(world, debian, VM_QEMU_MACHINE=machine)
    try:
        start(vm)
        vm.qvm("ssh", "systemctl is-system-running --wait", timeout=300)
        for turn in range(count):
            vm.ok("ssh", f"echo before {turn} >> turns; echo {turn} > /dev/shm/memory; sync")
            up = float(vm.ok("ssh", "cut -d' ' -f1 /proc/uptime").out)
            assert "demo: state saved as ready in " in vm.ok("stop", "--savevm", "ready").out
            assert vm.qvm("status").out == "demo: stopped\n"
            output = start(vm, "--loadvm", "ready")
            assert "; clock " in output, output
            assert vm.ok("ssh", "cat /dev/shm/memory").out == f"{turn}\n"
            assert float(vm.ok("ssh", "cut -d' ' -f1 /proc/uptime").out) >= up
            assert abs(float(vm.ok("ssh", "date +%s").out) - time.time()) < 5
            vm.ok("ssh", f"echo after {turn} >> turns; sync")
        lines = vm.ok("ssh", "cat turns").out.splitlines()
        assert lines == [f"{when} {turn}" for turn in range(count) for when in ("before", "after")]
        assert "demo: suspended by ssh" in vm.ok("suspend").out
        assert "demo: awake, ready after " in vm.ok("wakeup").out
        assert "powered off" in vm.ok("stop", timeout=300).out
    finally:
        vm.kill()


def test_savevm_loadvm_debian_continues(world: World, debian: debian_guest.DebianImage) -> None:
    """On q35, where SeaBIOS forgets at the first wake-up what the second one, after `suspend`, needs."""
    check_in_a_row(world, debian, "q35", 1)


@pytest.mark.long
@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_savevm_loadvm_debian_three_times_in_a_row_continues_long(
    world: World, debian: debian_guest.DebianImage, machine: str
) -> None:
    check_in_a_row(world, debian, machine, 3)
