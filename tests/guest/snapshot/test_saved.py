"""stop --savevm, start --loadvm: suspend, save, quit, load, with real guests."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import pytest

from tests.support.world import Vm

pytestmark = pytest.mark.guest


def check_in_a_row(guest: Vm, ways: Sequence[str]) -> None:
    """Save and load again and again: `awake`, so that it is put to sleep first, or `asleep` already."""
    uptime = "cut -d. -f1 /proc/uptime"
    for turn, way in enumerate(ways):
        guest.ok("ssh", f"echo {turn} >> turns; sync; echo {turn} > /tmp/in-memory")
        up = int(guest.ok("ssh", uptime).out)
        words = []
        if way == "asleep":
            guest.ok("suspend")
            words = ["--no-suspend"]
        saved = guest.ok("stop", "--savevm", "ready", *words)
        assert "demo: state saved as ready in " in saved.out
        assert guest.qvm("status").out == "demo: stopped\n"
        loaded = guest.ok("start", "--loadvm", "ready")
        assert "demo: ready after " in loaded.out
        assert guest.ok("ssh", "cat /tmp/in-memory").out == f"{turn}\n"  # the memory is the same
        assert int(guest.ok("ssh", uptime).out) >= up  # it did not boot
        assert guest.clock_error_s() < 5, (loaded.out, guest.ok("ssh", "date; hwclock; uptime").out)
    assert guest.ok("ssh", "cat turns").out == "".join(f"{turn}\n" for turn in range(len(ways)))
    assert "powered off" in guest.ok("stop").out


def test_savevm_loadvm_q35_in_a_row_continues(guest: Vm) -> None:
    """q35, where SeaBIOS forgets at the first wake-up the ACPI registers that the second one needs."""
    guest.set(VM_QEMU_MACHINE="q35")
    guest.start()
    check_in_a_row(guest, ["awake", "asleep"])


def test_savevm_loadvm_of_a_sleeping_guest_continues(loaded: Vm) -> None:
    """pc; `loaded` has been saved awake and loaded before."""
    check_in_a_row(loaded, ["asleep"])


@pytest.mark.long
@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_savevm_loadvm_three_times_in_a_row_continues_long(guest: Vm, machine: str) -> None:
    guest.set(VM_QEMU_MACHINE=machine)
    guest.start()
    check_in_a_row(guest, ["awake"] * 3 + ["asleep"] * 3)


def test_savevm_guest_that_refuses_to_suspend_runs_on(loaded: Vm) -> None:
    loaded.end_in_guest("qemu-ga")
    loaded.ok("ssh", "sudo -n sh -c 'rm /bin/systemctl; rm -f /bin/loginctl'")
    result = loaded.qvm("stop", "-s", "ready")
    assert result.status == 3
    assert "demo: the guest refused to suspend and is still running" in result.err
    assert "hint: " in result.err
    loaded.ok("status")
    assert "ready" not in loaded.ok("cmd", "info", "snapshots").out


def test_loadvm_that_is_refused_keeps_the_state_to_load_later(loaded: Vm) -> None:
    """A missing snapshot, other hardware; then the clock is put right, as the guest was not suspended."""
    loaded.ok("ssh", "echo kept > note; sync")
    loaded.ok("stop", "--vm-save", "as it is", "--nosuspend")
    since = time.monotonic()
    result = loaded.qvm("start", "-l", "two")
    assert result.status == 3
    assert "demo: there is no snapshot two" in result.err
    assert "hint: there are: as it is" in result.err
    assert loaded.qvm("status").out == "demo: stopped\n"
    other = ["--set", "VM_MACHINE_MEM=300", "start"]
    result = loaded.qvm(*other, "-l", "as it is")
    assert result.status == 3
    assert "demo: the hardware differs from that of the snapshot as it is: VM_MACHINE_MEM was " in result.err
    result = loaded.qvm(*other, "--force", "-l", "as it is")
    assert result.status == 1
    assert "demo: cannot load the snapshot as it is" in result.err
    assert "hint: it was saved with other hardware" in result.err
    assert loaded.qvm("status").out == "demo: stopped\n"
    time.sleep(max(0.0, since + 6 - time.monotonic()))  # the guest's clock stands still until it is loaded
    started = loaded.patiently("start", "-l", "as it is")
    assert re.search(r"; clock was \d+ s behind, set by (the guest agent|ssh)$", started.out.strip())
    assert loaded.clock_error_s() < 5
    assert loaded.ok("ssh", "cat note").out == "kept\n"
