"""start, status, ssh, cmd, stop, kill with real guests."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from tests.support.world import QVM, Vm, World, create_tiny

pytestmark = pytest.mark.guest


def test_start_tiny_guest_answers_through_every_command(guest: Vm) -> None:
    started = guest.start()
    assert "demo: ready after" in started.out
    assert guest.ok("status").out.startswith("demo: running (pid ")
    assert guest.ok("ssh", "echo $((6*7))").out == "42\n"
    assert guest.ok("cmd", "info", "status").out == "VM status: running\n"
    again = guest.qvm("start")
    assert again.status == 3
    assert "demo: cannot start: it is already running (pid " in again.err
    stopped = guest.ok("stop")
    assert "powered off by guest agent" in stopped.out
    off = guest.qvm("status")
    assert (off.status, off.out) == (1, "demo: stopped\n")


def test_start_disposable_changes_vanish(guest: Vm) -> None:
    guest.ok("start", "--disposable")
    guest.ok("ssh", "echo kept > note; sync")
    assert not list((guest.directory / ".qvm").glob("disposable-*"))  # unlinked while in use
    guest.ok("kill")
    guest.ok("start")
    assert guest.qvm("ssh", "cat note").status == 1


def test_stop_start_keeps_what_was_written(loaded: Vm) -> None:
    loaded.ok("ssh", "echo kept > note")
    loaded.ok("stop")
    loaded.ok("start")
    assert loaded.ok("ssh", "cat note").out == "kept\n"


def test_start_interrupted_in_wait_ends_the_machine(guest: Vm) -> None:
    starting = guest.world.popen("-v", "start", cwd=guest.directory)
    assert starting.stderr is not None
    for line in starting.stderr:
        if "starting QEMU" in line:
            break
    starting.send_signal(signal.SIGINT)
    assert starting.wait(60) == 130
    starting.communicate()
    assert guest.qvm("status", "-s").out == "demo: stopped\n"


def test_start_terminated_in_wait_ends_the_machine(guest: Vm) -> None:
    starting = guest.world.popen("-v", "start", cwd=guest.directory)
    assert starting.stderr is not None
    for line in starting.stderr:
        if "starting QEMU" in line:
            break
    starting.terminate()
    assert starting.wait(60) == 143
    starting.communicate()
    assert guest.qvm("status", "-s").out == "demo: stopped\n"


def test_status_while_start_waits_says_starting(guest: Vm) -> None:
    starting = guest.world.popen("start", cwd=guest.directory)
    seen = set()
    while starting.poll() is None:
        seen.add(guest.qvm("status").out.partition("demo: ")[2].partition(" ")[0].strip())
    starting.communicate()
    assert "starting" in seen
    assert guest.ok("status").out.startswith("demo: running")


def test_start_no_wait_returns_before_the_guest_is_up(guest: Vm) -> None:
    result = guest.ok("--json", "start", "--no-wait")
    report = json.loads(result.out)
    assert report["ready"] is False
    assert report["pid"] == guest.pid
    assert report["accelerator"] == "tcg"


def test_stop_without_agent_and_ssh_uses_the_button(loaded: Vm) -> None:
    loaded.end_in_guest("qemu-ga")
    loaded.qvm("ssh", "sudo -n killall dropbear")  # ends its own connection too
    result = loaded.ok("stop", "--timeout", "60")
    assert "powered off by ACPI power button" in result.out


def test_stop_without_agent_uses_ssh(loaded: Vm) -> None:
    loaded.end_in_guest("qemu-ga")
    assert "powered off by ssh" in loaded.ok("stop").out


def test_stop_deaf_guest_leaves_it_running_then_force_ends_it(loaded: Vm) -> None:
    loaded.end_in_guest("qemu-ga", "acpid")
    loaded.ok("ssh", "sudo -n sh -c '(sleep 1; killall dropbear) >/dev/null 2>&1 &'")
    time.sleep(2)
    refused = loaded.qvm("stop", "--timeout", "5")
    assert refused.status == 124
    assert "it is still running" in refused.err
    assert "hint:" in refused.err
    assert loaded.qvm("status", "-s").out.startswith("demo: running")
    assert "powered off by quit" in loaded.ok("stop", "--timeout", "2", "--force").out


def test_stop_paused_guest_is_resumed_first(loaded: Vm) -> None:
    loaded.ok("cmd", "stop")
    assert loaded.qvm("status").out.startswith("demo: paused")
    result = loaded.ok("stop")
    assert "is paused: resuming it" in result.err


def test_start_several_side_by_side(world: World, tiny: str) -> None:
    machines = [create_tiny(world, name) for name in ("one", "two")]
    try:
        started = world.run("start", "one", "two")
        assert started.status == 0, str(started)
        assert "one: ready" in started.out
        assert "two: ready" in started.out
        status = world.run("--json", "status", "one", "two")
        assert [each["state"] for each in json.loads(status.out)["machines"]] == ["running", "running"]
        assert world.run("stop", "one", "two").status == 0
        assert world.run("status", "one", "two").status == 1
    finally:
        for vm in machines:
            vm.kill()


def test_start_survives_the_end_of_its_session(guest: Vm) -> None:
    """A hang-up of the whole session, as a closed terminal sends it, does not reach QEMU."""
    subprocess.run(
        ["sh", "-c", f"{QVM} start && kill -HUP 0"],
        cwd=guest.directory,
        env=guest.world.environ,
        start_new_session=True,
        capture_output=True,
    )
    assert guest.ok("status").out.startswith("demo: running")
