"""stop --savevm, start --loadvm: suspend, save, quit, load, with real guests."""

from __future__ import annotations

import re
import subprocess
import time

import pytest

from tests.support.world import Vm

pytestmark = pytest.mark.guest


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_savevm_loadvm_three_times_in_a_row_continues(guest: Vm, machine: str) -> None:
    """q35 too, where SeaBIOS forgets the ACPI registers at the first wake-up."""
    guest.set(VM_QEMU_MACHINE=machine)
    guest.start()
    uptime = "cut -d. -f1 /proc/uptime"
    for turn in range(3):
        guest.ok("ssh", f"echo {turn} >> turns; sync; echo {turn} > /tmp/in-memory")
        up = int(guest.ok("ssh", uptime).out)
        saved = guest.ok("stop", "--savevm", "ready")
        assert "demo: state saved as ready in " in saved.out
        assert guest.qvm("status").out == "demo: stopped\n"
        loaded = guest.ok("start", "--loadvm", "ready")
        assert "demo: ready after " in loaded.out
        assert guest.ok("ssh", "cat /tmp/in-memory").out == f"{turn}\n"  # the memory is the same
        assert int(guest.ok("ssh", uptime).out) >= up  # it did not boot
        assert guest.clock_error_s() < 5
    assert guest.ok("ssh", "cat turns").out == "0\n1\n2\n"
    assert "powered off" in guest.ok("stop").out


def test_savevm_no_suspend_clock_is_put_right(loaded: Vm) -> None:
    loaded.ok("stop", "--vm-save", "as it is", "--nosuspend")
    time.sleep(6)
    started = loaded.ok("start", "-l", "as it is")
    assert re.search(r"; clock was \d+ s behind, set by (the guest agent|ssh)$", started.out.strip())
    assert loaded.clock_error_s() < 5


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_savevm_no_suspend_of_a_sleeping_guest_continues(guest: Vm, machine: str) -> None:
    guest.set(VM_QEMU_MACHINE=machine)
    guest.start()
    guest.ok("ssh", "echo kept > /tmp/in-memory")
    for _ in range(2):  # what SeaBIOS forgets at the first wake-up, the second needs
        guest.ok("suspend")
        guest.ok("stop", "--savevm", "asleep", "--no-suspend")
        guest.ok("start", "--loadvm", "asleep")
        assert guest.ok("ssh", "cat /tmp/in-memory").out == "kept\n"
    assert "powered off by" in guest.ok("stop").out


def test_savevm_guest_that_refuses_to_suspend_runs_on(loaded: Vm) -> None:
    loaded.end_in_guest("qemu-ga")
    loaded.ok("ssh", "sudo -n sh -c 'rm /bin/systemctl; rm -f /bin/loginctl'")
    result = loaded.qvm("stop", "-s", "ready")
    assert result.status == 3
    assert "demo: the guest refused to suspend and is still running" in result.err
    assert "hint: " in result.err
    loaded.ok("status")
    assert "ready" not in loaded.ok("cmd", "info", "snapshots").out


def test_loadvm_missing_snapshot_names_those_that_are_there(loaded: Vm) -> None:
    loaded.ok("stop", "-s", "one")
    result = loaded.qvm("start", "-l", "two")
    assert result.status == 3
    assert "demo: there is no snapshot two" in result.err
    assert "hint: there are: one" in result.err
    assert loaded.qvm("status").out == "demo: stopped\n"
    loaded.ok("start", "-l", "one")


def test_loadvm_of_other_hardware_is_refused_and_nothing_runs(loaded: Vm) -> None:
    loaded.ok("ssh", "echo kept > note; sync")
    loaded.ok("stop", "-s", "ready")
    result = loaded.qvm("--set", "VM_MACHINE_MEM=300", "start", "-l", "ready")
    assert result.status == 3
    assert "demo: the hardware differs from that of the snapshot ready: VM_MACHINE_MEM was " in result.err
    result = loaded.qvm("--set", "VM_MACHINE_MEM=300", "start", "--force", "-l", "ready")
    assert result.status == 1
    assert "demo: cannot load the snapshot ready" in result.err
    assert "hint: it was saved with other hardware" in result.err
    assert loaded.qvm("status").out == "demo: stopped\n"
    loaded.ok("start", "-l", "ready")
    assert loaded.ok("ssh", "cat note").out == "kept\n"


def test_savevm_with_a_raw_disk_says_why_and_runs_on(guest: Vm) -> None:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "raw", "data.raw", "1M"], cwd=guest.directory, check=True
    )
    with (guest.directory / ".vmrc").open("a") as file:
        file.write('VM_QEMU_EXTRA="$VM_QEMU_EXTRA -drive file=data.raw,format=raw,if=virtio"\n')
    guest.start()
    result = guest.qvm("stop", "-s", "ready")
    assert result.status == 3
    assert "data.raw is raw, which cannot hold snapshots" in result.err
    guest.ok("status")


def test_stop_reboot_comes_back(loaded: Vm) -> None:
    loaded.ok("ssh", "echo gone > /tmp/x")
    assert "demo: rebooted by guest agent in " in loaded.ok("stop", "--reboot").out
    assert loaded.qvm("ssh", "cat /tmp/x").status == 1


def test_stop_savevm_with_poweroff_is_refused(guest: Vm) -> None:
    for words in (("-s", "x", "-p"), ("-p", "-r"), ("-s", "x", "-r")):
        result = guest.qvm("stop", *words)
        assert result.status == 2
        assert "exclude each other" in result.err
