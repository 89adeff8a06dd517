"""suspend, wakeup, pause, resume, restart, reboot and qmp with a real guest."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest

from tests.support.world import QVM, Vm, World, create_tiny

pytestmark = pytest.mark.guest

DEAFEN = "sudo -n sh -c '(sleep 1; killall dropbear) >/dev/null 2>&1 &'"


def without_ssh(guest: Vm, *more: str) -> None:
    """End sshd in the guest, and `more` programs with it."""
    if more:
        guest.end_in_guest(*more)
    guest.ok("ssh", DEAFEN)
    deadline = time.monotonic() + 60
    while guest.qvm("ssh", "true").status == 0 and time.monotonic() < deadline:
        time.sleep(0.2)


def ssh_port(guest: Vm) -> int:
    return int(json.loads(guest.qvm("--json", "status", "-s").out)["ssh_port"])


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_suspend_and_wakeup_three_times_keep_the_power_button(guest: Vm, machine: str) -> None:
    """On q35 SeaBIOS forgets the power registers at the first wake-up: they are given back."""
    guest.set(VM_QEMU_MACHINE=machine)
    guest.start()
    guest.ok("ssh", "echo kept > /tmp/in-memory")
    for _ in range(3):
        assert "demo: suspended by ssh in " in guest.ok("suspend").out
        assert guest.qvm("status").out.startswith("demo: suspended (pid ")
        asleep = guest.qvm("ssh", "true", timeout=30)
        assert (asleep.status, "it is suspended" in asleep.err) == (3, True)
        again = guest.qvm("suspend")
        assert (again.status, "hint: `qvm wakeup` wakes it" in again.err) == (3, True)
        assert "demo: awake, ready after " in guest.ok("wakeup").out
        assert guest.ok("ssh", "cat /tmp/in-memory").out == "kept\n"
        assert abs(float(guest.ok("ssh", "date +%s").out) - time.time()) < 5
    without_ssh(guest, "qemu-ga")
    assert "powered off by ACPI power button" in guest.ok("stop").out


def test_suspend_without_ssh_goes_by_the_agent_and_savevm_too(loaded: Vm) -> None:
    loaded.ok("ssh", "echo kept > /tmp/in-memory")
    without_ssh(loaded)
    assert "demo: suspended by guest agent in " in loaded.ok("suspend").out
    assert "demo: awake; did not wait for the guest" in loaded.ok("wakeup", "--no-wait").out
    loaded.ok("stop", "--savevm", "ready")
    loaded.ok("start", "--loadvm", "ready", "--no-wait")
    assert loaded.qvm("status", "-s").out.startswith("demo: running")
    assert "powered off by guest agent" in loaded.ok("stop").out


def test_suspend_without_agent_and_ssh_fails_and_the_guest_runs(loaded: Vm) -> None:
    without_ssh(loaded, "qemu-ga")
    for words in (["suspend"], ["stop", "--savevm", "ready"]):
        refused = loaded.qvm(*words)
        assert refused.status == 3
        assert "demo: nothing in the guest could be asked to suspend; it is still running" in refused.err
        assert "ssh: " in refused.err
        assert "guest agent: no answer" in refused.err
        assert loaded.qvm("status", "-s").out.startswith("demo: running")
    assert "ready" not in loaded.ok("cmd", "info", "snapshots").out
    loaded.ok("stop", "--savevm", "ready", "--no-suspend")


def test_suspend_by_a_guest_that_does_not_sleep_runs_on(loaded: Vm) -> None:
    """The command succeeds, but nothing happens: the deadline, and words."""
    loaded.ok("ssh", "sudo -n sh -c 'echo \"#!/bin/sh\" > /bin/systemctl; chmod 755 /bin/systemctl'")
    late = loaded.qvm("suspend", "--timeout", "3")
    assert late.status == 124
    assert "did not suspend within 3 s (asked by ssh); it is still running" in late.err
    loaded.ok("status")


@pytest.mark.both_qemus
def test_savevm_of_a_suspended_guest_resumes_where_it_was(loaded: Vm) -> None:
    loaded.ok("ssh", "echo kept > /tmp/in-memory")
    loaded.ok("suspend")
    loaded.ok("stop", "--savevm", "ready")
    loaded.ok("start", "--loadvm", "ready")
    assert loaded.ok("ssh", "cat /tmp/in-memory").out == "kept\n"


def test_stop_of_a_suspended_guest_wakes_it_first(guest: Vm) -> None:
    guest.set(VM_QEMU_MACHINE="q35")
    guest.start()
    guest.ok("suspend")
    stopped = guest.ok("stop")
    assert "demo is suspended: resuming it, so that it can power off" in stopped.err
    assert "demo: powered off by " in stopped.out


def test_pause_and_resume_the_guest_continues(loaded: Vm) -> None:
    loaded.ok("ssh", "echo kept > /tmp/in-memory")
    assert loaded.ok("pause").out == "demo: paused; `qvm resume` resumes it\n"
    assert loaded.qvm("status").out.startswith("demo: paused")
    held = loaded.qvm("ssh", "true", timeout=30)
    assert (held.status, "hint: `qvm resume` resumes it" in held.err) == (3, True)
    assert loaded.ok("resume").out.startswith("demo: resumed")
    assert loaded.ok("ssh", "cat /tmp/in-memory").out == "kept\n"


def test_resume_puts_the_clock_right_by_the_agent_or_ssh(loaded: Vm) -> None:
    for by in ("the guest agent", "ssh"):
        if by == "ssh":
            loaded.end_in_guest("qemu-ga")
        loaded.ok("ssh", "sudo -n date -s @$(( $(date +%s) - 7200 ))")  # as if it had been paused for long
        loaded.ok("pause")
        end = time.time() + 4
        while time.time() < end:  # a guest that stood still for a moment is not asked
            assert loaded.qvm("status", "-s").out.startswith("demo: paused")
        output = loaded.ok("resume").out
        assert re.match(rf"demo: resumed; clock was 72\d\d s behind, set by {by}\n", output), output
        assert abs(time.time() - float(loaded.ok("ssh", "date +%s").out)) < 10


@pytest.mark.both_qemus
def test_restart_takes_a_new_qemu_and_keeps_disk_and_port(guest: Vm) -> None:
    started = guest.ok("restart")
    assert "demo: was not running; ready after " in started.out
    guest.ok("ssh", "echo kept > note; echo gone > /tmp/note")
    port, pid = ssh_port(guest), guest.pid
    guest.ok("config", "VM_MACHINE_MEM=200")
    restarted = json.loads(guest.ok("--json", "restart").out)
    assert restarted["by"] in ("guest agent", "ssh")
    assert restarted["ready"] is True
    assert restarted["ssh_port"] == port
    assert restarted["pid"] == guest.pid != pid
    assert guest.ok("ssh", "cat note; cat /tmp/note 2>/dev/null || echo -n").out == "kept\n"
    assert int(guest.ok("ssh", "sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").out) < 200 << 10


def test_restart_of_a_disposable_run_stays_disposable(guest: Vm) -> None:
    guest.start("--disposable")
    guest.ok("ssh", "echo one > note; sync")
    assert "disposable: changes will be discarded" in guest.ok("restart").out
    guest.ok("ssh", "test ! -e note; echo two > note; sync")
    guest.ok("stop")
    guest.ok("start")
    guest.ok("ssh", "test ! -e note")


def test_reboot_by_each_of_its_ways(loaded: Vm) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    ids = [loaded.ok("ssh", boot).out]
    assert "demo: rebooted by guest agent in " in loaded.ok("reboot").out
    ids.append(loaded.ok("ssh", boot).out)
    loaded.ok("ssh", "until pidof qemu-ga; do usleep 100000; done")
    loaded.end_in_guest("qemu-ga")
    assert "demo: rebooted by ssh in " in loaded.ok("reboot").out
    ids.append(loaded.ok("ssh", boot).out)
    loaded.ok("ssh", "until pidof qemu-ga; do usleep 100000; done")
    without_ssh(loaded, "qemu-ga")
    refused = loaded.qvm("reboot")
    assert (refused.status, "it is still running" in refused.err) == (3, True)
    assert "demo: rebooted by reset in " in loaded.ok("reboot", "--force").out
    ids.append(loaded.ok("ssh", boot).out)
    loaded.ok("pause")
    assert loaded.qvm("reboot").status == 3
    assert "demo: rebooted by reset in " in loaded.ok("reboot", "--force").out
    ids.append(loaded.ok("ssh", boot).out)
    assert len(set(ids)) == 5


def test_reboot_of_a_guest_that_does_not_obey_is_reset_by_force(loaded: Vm) -> None:
    loaded.end_in_guest("qemu-ga")
    loaded.ok("ssh", "sudo -n sh -c 'printf \"#!/bin/sh\\n\" > /bin/systemctl; "
             "chmod 755 /bin/systemctl; sync'")  # fmt: skip
    late = loaded.qvm("reboot", "--timeout", "3")
    assert late.status == 124
    assert "did not reboot within 3 s (asked by ssh); it is still running" in late.err
    loaded.ok("status")
    assert "demo: rebooted by reset in " in loaded.ok("reboot", "--timeout", "3", "--force").out


def test_verbs_for_several_machines_work_side_by_side(world: World, tiny: str) -> None:
    machines = [create_tiny(world, name) for name in ("one", "two")]
    names = ("one", "two")

    def states() -> list[str]:
        output = world.run("--json", "status", "-s", *names).out
        return [each["state"] for each in json.loads(output)["machines"]]

    try:
        assert world.run("start", *names).status == 0
        for verb, after in (
            ("pause", "paused"),
            ("resume", "running"),
            ("suspend", "suspended"),
            ("wakeup", "running"),
            ("reboot", "running"),
            ("restart", "running"),
        ):
            done = world.run(verb, *names)
            assert done.status == 0, str(done)
            assert {line.partition(":")[0] for line in done.out.splitlines()} == set(names)
            assert states() == [after, after], verb
    finally:
        for vm in machines:
            vm.kill()


def test_qmp_events_follow_the_guest_beside_other_verbs(loaded: Vm) -> None:
    following = subprocess.Popen(
        [QVM, "qmp", "--events", "--count", "2", "--timeout", "120", "suspend", "WAKEUP"],
        cwd=loaded.directory, env=loaded.world.environ, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while loaded.qvm("qmp", "--events", "--timeout", "0").status == 0 and time.monotonic() < deadline:
        pass  # until the follower has the socket: then no other client gets it
    loaded.ok("suspend")
    loaded.ok("wakeup")
    out, _ = following.communicate(timeout=120)
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["SUSPEND", "WAKEUP"]
    assert following.returncode == 0


def test_loadvm_in_a_running_machine_leaves_no_dead_connection(loaded: Vm) -> None:
    nodes = {"tag": "other", "vmstate": "disk0", "devices": ["disk0"]}
    loaded.ok("cmd", "savevm", "here")
    loaded.ok("ssh", "echo later > /tmp/later")
    loaded.ok("cmd", "loadvm", "here")
    assert loaded.ok("ssh", "cat /tmp/later 2>/dev/null || echo none", timeout=60).out == "none\n"
    loaded.ok("qmp", "snapshot-save", json.dumps({"job-id": "save", **nodes}))
    loaded.ok("qmp", "snapshot-load", json.dumps({"job-id": "load", **nodes}))
    assert loaded.ok("ssh", "echo alive", timeout=60).out == "alive\n"
