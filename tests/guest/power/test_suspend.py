"""suspend, wakeup, pause, resume, restart, reboot and qmp with a real guest."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvmsh.qemu import ich9, qmp
from tests.support.programs import file_hash, qemu_img
from tests.support.world import DEADLINE_S, QVM, SAVED, Vm, World, copy_of

pytestmark = pytest.mark.guest

NOT_WAITING = ("--set", "VM_READY=none")
"""Where the guest's boot afterwards is not tested."""

DEAFEN = "sudo -n sh -c '(sleep 1; killall dropbear) >/dev/null 2>&1 &'"


def without_ssh(guest: Vm, *more: str) -> None:
    """End sshd in the guest, and `more` programs with it."""
    if more:
        guest.end_in_guest(*more)
    guest.ok("ssh", DEAFEN)
    deadline = time.monotonic() + DEADLINE_S
    while guest.qvm("ssh", "true").status == 0 and time.monotonic() < deadline:
        time.sleep(0.2)


def ssh_port(guest: Vm) -> int:
    return int(json.loads(guest.qvm("--json", "status", "-s").out)["ssh_port"])


@pytest.mark.parametrize(
    ("machine", "rounds"),
    [("q35", 1), *(pytest.param(each, 3, marks=pytest.mark.long) for each in ("pc", "q35"))],
)
def test_suspend_and_wakeup_keep_memory_and_power_button(guest: Vm, machine: str, rounds: int) -> None:
    """On q35 SeaBIOS forgets the power registers at the first wake-up: they are given back."""
    guest.set(VM_QEMU_MACHINE=machine)
    guest.start()
    guest.ok("ssh", "echo kept > /tmp/in-memory")
    for _ in range(rounds):
        assert "demo: suspended by ssh in " in guest.ok("suspend").out
        assert guest.qvm("status").out.startswith("demo: suspended (pid ")
        asleep = guest.qvm("ssh", "true", timeout=DEADLINE_S)
        assert (asleep.status, "it is suspended" in asleep.err) == (3, True)
        again = guest.qvm("suspend")
        assert (again.status, "hint: `qvm wakeup` wakes it" in again.err) == (3, True)
        assert "demo: awake, ready after " in guest.ok("wakeup").out
        assert guest.ok("ssh", "cat /tmp/in-memory").out == "kept\n"
        assert guest.clock_error_s() < 5
    guest.end_in_guest("qemu-ga")
    sshd = r"/^suspend/s|sync; \(.*\)\"|kill $(cat /run/dropbear.pid); sync; \1; killall dropbear\"|"
    guest.ok("ssh", f"sudo -n sed -i '{sshd}' /bin/systemctl")
    guest.ok("suspend")  # and it wakes up without ssh
    stopped = guest.ok("stop")
    assert "demo is suspended: resuming it, so that it can power off" in stopped.err
    assert "demo: powered off by ACPI power button" in stopped.out


def test_registers_restored_late_do_not_press_the_power_button(guest: Vm) -> None:
    """On a busy host QEMU stops it late: the button that QEMU pretends has woken it is not pressed then."""
    guest.set(VM_QEMU_MACHINE="q35")
    guest.start()
    guest.ok("suspend")
    with qmp.Exchange(str(guest.runtime / "qmp"), DEADLINE_S).negotiate() as exchange:
        registers = ich9.read(exchange)
        exchange.ask("system_wakeup")
    guest.ok("ssh", "true")  # it is awake
    with qmp.Exchange(str(guest.runtime / "qmp"), DEADLINE_S).negotiate() as exchange:
        exchange.ask("stop")
        assert ich9.restore(exchange, registers)
        exchange.ask("cont")
    guest.ok("ssh", "sleep 3; pidof acpid")
    assert "demo: suspended by ssh in " in guest.ok("suspend").out
    guest.ok("wakeup")
    without_ssh(guest, "qemu-ga")
    assert "demo: powered off by ACPI power button" in guest.ok("stop").out


def test_suspend_without_ssh_goes_by_the_agent_and_savevm_too(loaded: Vm) -> None:
    loaded.ok("ssh", "echo kept > /tmp/in-memory")
    without_ssh(loaded)
    loaded.wait_for_agent()
    assert "demo: suspended by guest agent in " in loaded.ok("suspend").out
    assert "demo: awake; did not wait for the guest" in loaded.ok("wakeup", "--no-wait").out
    loaded.wait_for_agent()
    loaded.ok("stop", "--savevm", "ready")
    loaded.ok("start", "--loadvm", "ready", "--no-wait")
    assert loaded.qvm("status", "-s").out.startswith("demo: running")
    loaded.wait_for_agent()
    assert "powered off by guest agent" in loaded.patiently("stop").out


def test_suspend_and_reboot_without_agent_and_ssh_are_refused(loaded: Vm) -> None:
    without_ssh(loaded, "qemu-ga")
    for words, what in (
        (["suspend"], "suspend"),
        (["stop", "--savevm", "ready", "--timeout", "1"], "suspend"),
        (["reboot"], "reboot"),
    ):
        refused = loaded.qvm(*words)
        assert refused.status == 3
        assert f"demo: nothing in the guest could be asked to {what}; it is still running" in refused.err
        assert "ssh: " in refused.err
        assert "guest agent: no answer" in refused.err
        assert loaded.qvm("status", "-s").out.startswith("demo: running")
    assert "ready" not in loaded.ok("cmd", "info", "snapshots").out
    assert "demo: rebooted by reset in " in loaded.ok("reboot", "--force", *NOT_WAITING).out
    loaded.ok("stop", "--savevm", "ready", "--no-suspend")


def test_suspend_by_a_guest_that_does_not_sleep_runs_on(running: Vm) -> None:
    """The command succeeds, but nothing happens: the deadline, and words."""
    running.ok("ssh", "sudo -n sh -c 'cp /bin/systemctl /tmp; echo \"#!/bin/sh\" > /bin/systemctl'")
    late = running.qvm("suspend", "--timeout", "10")
    assert late.status == 124
    assert "did not suspend within 10 s (asked by ssh); it is still running" in late.err
    running.ok("ssh", "sudo -n cp /tmp/systemctl /bin")


@pytest.mark.both_qemus
def test_savevm_of_a_suspended_guest_then_restart(loaded: Vm) -> None:
    """It resumes where it was; `restart` takes a new QEMU, and keeps disk and port."""
    loaded.ok("ssh", "echo kept > /tmp/in-memory")
    loaded.ok("suspend")
    loaded.ok("stop", "--savevm", "ready")
    loaded.ok("start", "--loadvm", "ready")
    assert loaded.ok("ssh", "cat /tmp/in-memory").out == "kept\n"
    loaded.ok("ssh", "echo kept > note")
    port, pid = ssh_port(loaded), loaded.pid
    loaded.ok("config", "VM_MACHINE_MEM=200")
    restarted = json.loads(loaded.ok("--json", "restart").out)
    assert restarted["by"] in ("guest agent", "ssh")
    assert restarted["ready"] is True
    assert restarted["ssh_port"] == port
    assert restarted["pid"] == loaded.pid != pid
    assert loaded.ok("ssh", "cat note; cat /tmp/in-memory 2>/dev/null || echo -n").out == "kept\n"
    assert int(loaded.ok("ssh", "sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").out) < 200 << 10


def test_restart_of_a_disposable_run_stays_disposable(guest: Vm) -> None:
    image = guest.directory / "demo-backing.qcow2"
    before = file_hash(image)
    device = "/machine/peripheral/disk0-device/virtio-backend"
    started = guest.ok("restart", "--disposable", "--no-wait").out
    assert "demo: was not running; " in started
    for _ in range(2):
        guest.ok("cmd", f'qemu-io -d {device} "write -P 7 0 512"')
        assert not list((guest.directory / ".qvm").glob("disposable-*"))  # unlinked while in use
        again = guest.ok("restart", "--no-wait", "--timeout", "1", "--force").out
        assert "disposable: changes will be discarded" in again
    guest.ok("kill")
    assert file_hash(image) == before


def test_pause_and_resume_the_guest_continues(running: Vm) -> None:
    running.ok("ssh", "echo kept > /tmp/in-memory")
    assert running.ok("pause").out == "demo: paused; `qvm resume` resumes it\n"
    assert running.qvm("status").out.startswith("demo: paused")
    held = running.qvm("ssh", "true", timeout=DEADLINE_S)
    assert (held.status, "hint: `qvm resume` resumes it" in held.err) == (3, True)
    held = running.qvm("reboot")
    assert (held.status, "`--force` resets it" in held.err) == (3, True)
    assert running.ok("resume").out.startswith("demo: resumed")
    assert running.ok("ssh", "cat /tmp/in-memory").out == "kept\n"


def test_resume_puts_the_clock_right_by_the_agent_or_ssh(running: Vm) -> None:
    for by in ("the guest agent", "ssh"):
        if by == "ssh":
            running.end_in_guest("qemu-ga")
        running.ok("ssh", "sudo -n date -s @$(( $(date +%s) - 7200 ))")  # as if it had been paused for long
        deadline, output = time.monotonic() + DEADLINE_S, "may be behind"
        while "may be behind" in output:  # ssh did not answer within its few seconds
            assert time.monotonic() < deadline, output
            running.ok("pause")
            end = time.time() + 4
            while time.time() < end:  # a guest that stood still for a moment is not asked
                assert running.qvm("status", "-s").out.startswith("demo: paused")
                time.sleep(0.5)
            output = (running.ok if by == "ssh" else running.patiently)("resume").out
        assert re.match(rf"demo: resumed; clock was 7\d\d\d s behind, set by {by}\n", output), output
        assert running.clock_error_s() < 10
    port = "/dev/virtio-ports/org.qemu.guest_agent.0"
    running.ok("ssh", f"sudo -n /usr/sbin/qemu-ga -d -m virtio-serial -p {port} -f /run/qga.pid -t /run")


def test_reboot_by_ssh_or_agent(loaded: Vm) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = loaded.ok("ssh", boot).out
    loaded.end_in_guest("qemu-ga")
    assert "demo: rebooted by ssh in " in loaded.ok("reboot").out
    assert loaded.ok("ssh", boot).out != before
    loaded.wait_for_agent()
    assert "demo: rebooted by guest agent in " in loaded.patiently("reboot", *NOT_WAITING).out


def test_reboot_of_a_guest_that_does_not_obey_is_reset_by_force(loaded: Vm) -> None:
    for way in ("/sbin/shutdown", "/bin/systemctl"):  # the agent's and ssh's
        loaded.ok("ssh", f"sudo -n sh -c 'echo \"#!/bin/sh\" > {way}'")
    late = loaded.qvm("reboot", "--timeout", "2")
    assert late.status == 124
    found = re.search(
        r"did not reboot within 2 s \(asked by (guest agent|ssh)\); it is still running", late.err
    )
    assert found, late.err
    loaded.answering()
    forced = loaded.ok("reboot", "--timeout", "2", "--force", *NOT_WAITING)
    assert "demo: rebooted by reset in " in forced.out


def named_copy(world: World, saved: Path, name: str) -> Vm:
    """A copy of a machine that is off, under a name of its own."""
    vm = copy_of(world, saved)
    for kind in ("base", "backing"):
        (vm.directory / f"demo-{kind}.qcow2").rename(vm.directory / f"{name}-{kind}.qcow2")
    vm.directory = vm.directory.rename(world.home / name)
    base = ("-b", f"./{name}-base.qcow2", "-F", "qcow2")
    qemu_img(vm, "rebase", "-u", *base, f"{name}-backing.qcow2")
    catalogue = vm.directory / ".qvm/snapshots.json"
    catalogue.write_text(catalogue.read_text().replace("demo-", f"{name}-"))
    (vm.directory / ".qvm/uuid").unlink()
    vm.set(VM_MACHINE_NAME=name)
    return vm


@pytest.fixture
def two_loadable(world: World, saved: Path) -> Iterator[tuple[Vm, Vm]]:
    """Machines that are off, named one and two, with a saved state."""
    made = named_copy(world, saved, "one"), named_copy(world, saved, "two")
    yield made
    for vm in made:
        vm.kill()


def test_verbs_for_several_machines_work_side_by_side(two_loadable: tuple[Vm, Vm]) -> None:
    names = ("one", "two")
    world = two_loadable[0].world

    def states() -> list[str]:
        output = world.run("--json", "status", "-s", *names).out
        return [each["state"] for each in json.loads(output)["machines"]]

    for words, after in (
        (("start", "--loadvm", SAVED), "running"),
        (("pause",), "paused"),
        (("resume",), "running"),
        (("suspend",), "suspended"),
        (("wakeup",), "running"),
        (("stop",), "stopped"),
        (("restart", "--no-wait"), "running"),
        (("reboot", "--force", *NOT_WAITING), "running"),
    ):
        done = world.run(*words, *names)
        assert done.status == 0, str(done)
        assert {line.partition(":")[0] for line in done.out.splitlines()} == set(names), str(done)
        assert states() == [after, after], words


def test_qmp_events_follow_the_guest_beside_other_verbs(running: Vm) -> None:
    following = subprocess.Popen(
        [QVM, "qmp", "--events", "--count", "2", "--timeout", str(DEADLINE_S), "suspend", "WAKEUP"],
        cwd=running.directory, env=running.world.environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + DEADLINE_S
    while running.qvm("qmp", "--events", "--timeout", "0").status == 0 and time.monotonic() < deadline:
        pass  # until the follower has the socket: then no other client gets it
    running.ok("suspend")
    running.ok("wakeup")
    out, _ = following.communicate(timeout=DEADLINE_S)
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["SUSPEND", "WAKEUP"]
    assert following.returncode == 0


def test_loadvm_in_a_running_machine_leaves_no_dead_connection(running: Vm) -> None:
    nodes = {"tag": "other", "vmstate": "disk0", "devices": ["disk0"]}
    running.ok("cmd", "savevm", "here")
    running.ok("ssh", "echo later > /tmp/later")
    running.ok("cmd", "loadvm", "here")
    assert running.ok("ssh", "cat /tmp/later 2>/dev/null || echo none", timeout=DEADLINE_S).out == "none\n"
    running.ok("qmp", "snapshot-save", json.dumps({"job-id": "save", **nodes}))
    running.ok("qmp", "snapshot-load", json.dumps({"job-id": "load", **nodes}))
    assert running.ok("ssh", "echo alive", timeout=DEADLINE_S).out == "alive\n"
    running.ok("cmd", "delvm", "here")
    running.ok("cmd", "delvm", "other")
