"""start, status, ssh, cmd, stop, kill with real guests."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pytest

from tests.support.guest_writer import file_system
from tests.support.programs import output_of
from tests.support.world import DEADLINE_S, QVM, SAVED, Vm, wait_until

pytestmark = pytest.mark.guest


def test_start_tiny_guest_answers_through_every_command(guest: Vm) -> None:
    starting = guest.world.popen("start", cwd=guest.directory)
    wait_until(lambda: guest.qvm("status").out.startswith("demo: starting"))
    started, _ = starting.communicate(timeout=DEADLINE_S)
    assert "demo: ready after" in started
    assert guest.answering().out.startswith("demo: running (pid ")
    assert guest.ok("ssh", "echo $((6*7)); echo kept > note").out == "42\n"
    assert guest.ok("cmd", "info", "status").out == "VM status: running\n"
    again = guest.qvm("start")
    assert again.status == 3
    assert "demo: cannot start: it is already running (pid " in again.err
    guest.wait_for_agent()
    assert "powered off by guest agent" in guest.patiently("stop").out
    off = guest.qvm("status")
    assert (off.status, off.out) == (1, "demo: stopped\n")
    with file_system(guest, "demo-backing.qcow2") as raw:
        assert output_of(guest, "debugfs", "-R", "cat /home/qvm/note", raw) == "kept\n"


def test_start_interrupted_in_wait_ends_the_machine(guest: Vm) -> None:
    starting = guest.world.popen("-v", "start", cwd=guest.directory)
    assert starting.stderr is not None
    for line in starting.stderr:
        if "starting QEMU" in line:
            break
    starting.send_signal(signal.SIGINT)
    assert starting.wait(DEADLINE_S) == 130
    starting.communicate()
    assert guest.qvm("status", "-s").out == "demo: stopped\n"


def test_start_terminated_in_wait_ends_the_machine(guest: Vm) -> None:
    starting = guest.world.popen("-v", "start", cwd=guest.directory)
    assert starting.stderr is not None
    for line in starting.stderr:
        if "starting QEMU" in line:
            break
    starting.terminate()
    assert starting.wait(DEADLINE_S) == 143
    starting.communicate()
    assert guest.qvm("status", "-s").out == "demo: stopped\n"


def test_start_no_wait_returns_before_the_guest_is_up(guest: Vm) -> None:
    result = guest.ok("--json", "start", "--no-wait")
    report = json.loads(result.out)
    assert report["ready"] is False
    assert report["pid"] == guest.pid
    assert report["accelerator"] == "tcg"


def test_stop_without_agent_and_ssh_uses_the_button(loaded: Vm) -> None:
    loaded.end_in_guest("qemu-ga")
    loaded.qvm("ssh", "sudo -n killall dropbear")  # ends its own connection too
    result = loaded.ok("stop", "--timeout", str(DEADLINE_S))
    assert "powered off by ACPI power button" in result.out


def test_stop_paused_guest_without_agent_is_resumed_and_uses_ssh(loaded: Vm) -> None:
    loaded.end_in_guest("qemu-ga")
    loaded.ok("cmd", "stop")
    assert loaded.qvm("status").out.startswith("demo: paused")
    result = loaded.ok("stop")
    assert "is paused: resuming it" in result.err
    # the connection may have died meanwhile
    assert re.search("powered off by (ssh|ACPI power button)", result.out)


def test_stop_deaf_guest_leaves_it_running_then_force_ends_it(loaded: Vm) -> None:
    loaded.end_in_guest("qemu-ga", "acpid")
    loaded.qvm("ssh", "sudo -n killall dropbear")  # ends its own connection too
    refused = loaded.qvm("stop", "--timeout", "2")
    assert refused.status == 124
    assert "it is still running" in refused.err
    assert "hint:" in refused.err
    assert loaded.qvm("status", "-s").out.startswith("demo: running")
    forced = loaded.ok("stop", "--timeout", "2", "--force")
    assert re.search("powered off by (quit|SIGTERM)", forced.out)


def test_start_survives_the_end_of_its_session(loadable: Vm) -> None:
    """A hang-up of the whole session, as a closed terminal sends it, does not reach QEMU."""
    subprocess.run(
        ["sh", "-c", f"{QVM} start --loadvm {SAVED} && kill -HUP 0"],
        cwd=loadable.directory,
        env=loadable.world.environ,
        start_new_session=True,
        capture_output=True,
    )
    assert loadable.answering().out.startswith("demo: running")
