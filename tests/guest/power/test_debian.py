"""A real distribution: systemd, OpenSSH, logind and the guest agent, as users have them.

One machine, booted once by default; with `--all` once for each of the ways in which `stop` works. It is a
q35, where SeaBIOS forgets at the first wake-up what the second one, and the power button, need.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from qvmsh.qemu import qga
from tests.support.guest_writer import file_system
from tests.support.guests import debian as debian_guest
from tests.support.programs import output_of
from tests.support.world import DEADLINE_S, Vm, World, create_debian

pytestmark = [pytest.mark.guest]

PATIENT = ("--ssh-attempts", "120")
UNITS = ("dbus", "qemu-guest-agent", "ssh", "systemd-logind", "systemd-networkd")
ENDED = {
    "guest agent": "true",
    "ssh": "sudo -n systemctl stop qemu-guest-agent",
    "ACPI power button": "sudo -n systemctl stop qemu-guest-agent ssh; sudo -n busybox killall sshd",
}
"""What is ended in the guest, so that `stop` gets as far as this."""


@pytest.fixture(scope="module")
def machine(module_world: World, debian: debian_guest.DebianImage) -> Iterator[Vm]:
    vm = create_debian(module_world, debian, VM_QEMU_MACHINE="q35")
    yield vm
    vm.kill()


@pytest.fixture
def up(machine: Vm) -> Vm:
    """The machine, running; started if the test before has stopped it."""
    if machine.qvm("status", "-s").status:
        start(machine)
    return machine


def start(vm: Vm) -> None:
    assert "demo: ready after" in vm.ok("start", *PATIENT, timeout=300).out
    vm.qvm("ssh", "systemctl is-system-running --wait", timeout=300)  # sshd is up before the agent


def test_build_debian_again_finds_it(debian: debian_guest.DebianImage) -> None:
    before = debian.image.stat().st_ino
    assert debian_guest.build(debian.image.parents[1]) == debian
    assert debian.image.stat().st_ino == before


def test_start_debian_is_ready_and_status_confirms_it(up: Vm) -> None:
    deadline = time.monotonic() + DEADLINE_S  # a busy host: status itself waits no longer than 2 s
    while (seen := up.qvm("status")).status and time.monotonic() < deadline:
        pass
    assert seen.out.startswith(f"demo: running (pid {up.pid}, ssh answers on port ")


def test_ssh_debian_gives_output_and_status_of_the_guest(up: Vm) -> None:
    result = up.qvm("ssh", "id -un; nproc; . /etc/os-release; echo $ID; exit 7")
    assert (result.status, result.out) == (7, f"{debian_guest.USER}\n2\ndebian\n")
    assert up.ok("ssh", "sudo -n id -u").out == "0\n"


def test_start_debian_brings_systemd_up_without_failed_units(up: Vm) -> None:
    state = up.qvm("ssh", "systemctl is-system-running --wait; systemctl --failed --plain --no-legend")
    assert (state.status, state.out) == (0, "running\n")
    assert up.ok("ssh", "systemctl is-active " + " ".join(UNITS)).out == "active\n" * len(UNITS)


def test_guest_agent_of_debian_answers(up: Vm) -> None:
    note = dict(line.split(" ", 1) for line in (up.directory / ".qvm/running").read_text().splitlines())
    path = f"{note['runtime']}/qga"
    assert qga.ask(path, "guest-get-osinfo", timeout_s=30)["id"] == "debian"
    assert qga.ask(path, "guest-get-host-name", timeout_s=30) == {"host-name": "debian"}


def journal(vm: Vm) -> str:
    """What the guest says of itself, where it did not do what it was asked."""
    return vm.qvm("ssh", "sudo -n journalctl -b -n 80 --no-pager").out


def check_saved(vm: Vm, count: int) -> None:
    """Save and load the state `count` times: the guest goes on, and its clock is right."""
    for turn in range(count):
        vm.ok("ssh", f"echo before {turn} >> turns; echo {turn} > /dev/shm/memory; sync")
        up = float(vm.ok("ssh", "cut -d' ' -f1 /proc/uptime").out)
        saved = vm.qvm("stop", "--savevm", "ready")
        assert "demo: state saved as ready in " in saved.out, f"{saved}{journal(vm)}"
        assert vm.qvm("status").out == "demo: stopped\n"
        output = vm.patiently("start", *PATIENT, "--loadvm", "ready", timeout=300).out
        assert "; clock " in output, output
        assert vm.ok("ssh", "cat /dev/shm/memory").out == f"{turn}\n"
        assert float(vm.ok("ssh", "cut -d' ' -f1 /proc/uptime").out) >= up
        assert vm.clock_error_s() < 5
        vm.ok("ssh", f"echo after {turn} >> turns; sync")
    lines = vm.ok("ssh", "cat turns").out.splitlines()
    assert lines == [f"{when} {turn}" for turn in range(count) for when in ("before", "after")]
    assert "demo: suspended by ssh" in vm.ok("suspend").out
    assert "demo: awake, ready after " in vm.ok("wakeup").out


def test_savevm_loadvm_debian_continues(up: Vm) -> None:
    check_saved(up, 1)


@pytest.mark.long
@pytest.mark.parametrize("machine_type", ["pc", "q35"])
def test_savevm_loadvm_debian_three_times_in_a_row_continues(
    world: World, debian: debian_guest.DebianImage, machine_type: str
) -> None:
    vm = create_debian(world, debian, VM_QEMU_MACHINE=machine_type)
    try:
        start(vm)
        check_saved(vm, 3)
        assert "powered off" in vm.ok("stop", timeout=300).out
    finally:
        vm.kill()


@pytest.mark.parametrize(
    "by",
    ["ACPI power button", *(pytest.param(each, marks=pytest.mark.long) for each in ("guest agent", "ssh"))],
)
def test_stop_debian_keeps_what_was_written(up: Vm, by: str) -> None:
    up.ok("ssh", "echo kept > note")
    up.qvm("ssh", ENDED[by])
    assert f"demo: powered off by {by}" in up.ok("stop").out
    assert up.qvm("status").out == "demo: stopped\n"
    with file_system(up, "demo-backing.qcow2") as raw:
        note = output_of(up, "debugfs", "-R", f"cat /home/{debian_guest.USER}/note", raw)
    assert note == "kept\n"


@pytest.mark.long
def test_stop_debian_on_pc_without_agent_uses_the_button(machine: Vm) -> None:
    if machine.qvm("status", "-s").status == 0:
        machine.ok("stop")
    machine.ok("config", "VM_QEMU_MACHINE=pc")
    start(machine)
    machine.qvm("ssh", ENDED["ACPI power button"])
    stopped = machine.ok("stop")
    assert "demo: powered off by ACPI power button" in stopped.out


def identity(vm: Vm) -> list[str]:
    """What a clone's guest must not have in common with the original's: machine-id, host keys, name."""
    return vm.ok(
        "ssh", "cat /etc/machine-id; cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f2; hostname"
    ).out.split()


def test_clone_of_debian_renews_its_guest(up: Vm) -> None:
    before = identity(up)
    done = up.ok("clone", "../mail", "--linked", "--renew-guest")
    assert "quiesced" in done.out, done
    up.ok("stop")
    clone = Vm(up.world, up.directory.with_name("mail"))
    try:
        output = clone.ok("start", *PATIENT, timeout=300).out
        for line in ("machine-id is new", "ssh host keys are new", "host name is mail"):
            assert line in output, output
        after = identity(clone)
        assert not set(before) & set(after)
        assert len(after) == len(before)
        assert after[-1] == "mail"
        assert clone.ok("ssh", "sudo -n hostname").out == "mail\n"  # no complaint about /etc/hosts either
        assert not (clone.directory / ".qvm/renew-guest").exists()
    finally:
        clone.kill()
