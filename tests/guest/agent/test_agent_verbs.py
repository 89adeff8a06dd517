"""The verbs that ask the guest, with a real one: agent, ip, info, set-time, freeze and thaw."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from qvmsh.machine.guest.frozen import KEEPER
from tests.support.world import DEADLINE_S, QVM, Vm, World, create_tiny, wait_until

pytestmark = [pytest.mark.guest]

LONG = "600"
"""A time that no test waits for."""


@pytest.fixture(scope="module")
def machine(module_world: World, tiny: str) -> Iterator[Vm]:
    vm = create_tiny(module_world)
    yield vm
    vm.kill()


@pytest.fixture
def up(machine: Vm) -> Iterator[Vm]:
    """The machine, running, with its agent; thawed after the test."""
    if machine.qvm("status", "-s").status:
        machine.start()
    yield machine
    if machine.qvm("status", "-s").status == 0 or (machine.directory / ".qvm/freeze.lock").exists():
        machine.qvm("thaw")


def is_frozen(vm: Vm) -> bool:
    return bool(json.loads(vm.ok("agent", "guest-fsfreeze-status").out) == "frozen")


def test_agent_prints_what_the_agent_answers(up: Vm) -> None:
    assert json.loads(up.ok("agent", "guest-get-osinfo").out)["id"] == "tiny"
    handle = up.ok("agent", "guest-file-open", "path=/etc/passwd", "mode=r").out.strip()
    read = json.loads(up.ok("agent", "--json", "guest-file-read", f"handle={handle}", "count=5").out)
    assert read["return"]["count"] == 5
    closed = up.ok("agent", f'{{"execute": "guest-file-close", "arguments": {{"handle": {handle}}}}}')
    assert closed.out == "{}\n"


def test_agent_refusal_names_the_command_and_a_way_on(up: Vm) -> None:
    result = up.qvm("agent", "guest-nosuch")
    assert (result.status, result.out) == (1, "")
    assert "guest-nosuch" in result.err
    assert "`qvm agent guest-info`" in result.err


def test_completion_of_agent_lists_the_agents_commands(up: Vm) -> None:
    found = up.ok("completion", "bash", "--", "qvm", "agent", "guest-fsfreeze-").out.split()
    assert {"guest-fsfreeze-freeze", "guest-fsfreeze-thaw"} <= {*found}


def test_ip_and_info_say_what_the_guest_says(up: Vm) -> None:
    addresses = json.loads(up.ok("ip", "--json").out)["addresses"]
    assert [row["way"] for row in addresses] == ["agent"] * (len(addresses) - 1) + ["forward"]
    assert up.ok("ip", "-4").out == f"{addresses[0]['address']}\n" == "10.0.2.15\n"
    assert f"127.0.0.1:{addresses[-1]['port']} on the host leads to the guest's ssh" in up.ok("ip").out
    facts = json.loads(up.ok("info", "--json").out)
    assert (facts["via"], facts["os_id"], facts["missing"]) == ("agent", "tiny", {})
    assert facts["kernel"] == up.ok("ssh", "uname -r").out.strip()
    assert [row["type"] for row in facts["file_systems"] if row["mount_point"] == "/"] == ["ext4"]
    lines = up.ok("info").out.splitlines()
    assert lines[0] == "demo: by the guest agent"
    assert facts["os"] in lines[1]


def test_set_time_sets_a_clock_that_is_ahead(up: Vm) -> None:
    up.ok("ssh", f"sudo -n date -s @{int(time.time()) + 100000}")
    assert "1 d 3 h ahead of the host" in up.ok("info").out
    assert "1 d 3 h ahead of the host; set by the guest agent" in up.ok("set-time").out
    assert up.clock_error_s() < 3
    assert "the clock was right" in up.ok("set-time").out


def test_freeze_ends_by_itself_after_its_time(up: Vm) -> None:
    assert up.ok("freeze", "1").out.startswith("demo: froze 1 file system until ")
    wait_until(lambda: not up.world.pids(KEEPER))
    assert not is_frozen(up)
    log = (up.directory / ".qvm/log/qvm.log").read_text()
    assert re.search(r"thawed 1 file system after \d+ s", log), log
    up.answering()


def test_freeze_is_said_by_what_needs_the_guest(up: Vm) -> None:
    froze = up.ok("freeze", LONG).out
    until = froze.partition("until ")[2].partition(";")[0]
    assert is_frozen(up)
    status = up.qvm("status")
    assert status.status == 1
    assert f"frozen until {until} " in status.out
    assert "the guest's file systems are frozen until" in status.out
    for words in (
        ["freeze"], ["ssh", "true"], ["exec", "true"], ["info"], ["set-time"], ["snapshot", "save", "x"],
        ["archive"], ["stop", "--savevm", "x"], ["pause"], ["suspend"], ["reboot"], ["clone", "../twin"],
        ["export"], ["put", ".vmrc", "/tmp/"], ["put", "--via", "agent", ".vmrc", "/tmp/"],
        ["get", "/etc/hosts", "hosts"], ["sync", ".vmrc", ":x"], ["ssh", "--copy-id"], ["disk", "trim"],
        ["ssh-config", "--connect"], ["forward", "add", "--via", "ssh", "1:1"],
    ):  # fmt: skip
        result = up.qvm(*words)
        assert result.status == 3, str(result)
        assert "are frozen until" in result.err, str(result)
        assert "`qvm thaw`" in result.err, str(result)
    assert up.qvm("agent", "guest-get-time").status == 1
    assert up.ok("thaw").out == "demo: thawed 1 file system\n"
    assert not up.world.pids(KEEPER)
    assert up.ok("thaw").out == "demo: no file system was frozen\n"
    up.ok("ssh", "true")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_freeze_survives_the_end_of_the_shell_that_began_it(up: Vm, number: signal.Signals) -> None:
    line = f"{QVM} freeze 3 && echo frozen && sleep {LONG}"
    shell = subprocess.Popen(
        ["/bin/sh", "-c", line], cwd=up.directory, env=up.world.environ, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert shell.stdout is not None
    assert "until" in shell.stdout.readline()
    assert shell.stdout.readline() == "frozen\n"
    os.killpg(shell.pid, number)
    shell.communicate(timeout=DEADLINE_S)
    wait_until(lambda: not up.world.pids(KEEPER))
    assert not is_frozen(up)


def begun(vm: Vm, child: subprocess.Popen[str]) -> None:
    """Wait until the keeper is there, or the command has ended."""
    wait_until(lambda: child.poll() is not None or vm.world.pids(KEEPER))


def test_freeze_killed_before_its_report_leaves_no_frozen_guest(up: Vm) -> None:
    for delay in (0.0, 0.05, 0.1, 0.2, 0.3):
        child = up.world.popen("freeze", LONG, cwd=up.directory)
        begun(up, child)
        time.sleep(delay)
        child.kill()
        out, _ = child.communicate(timeout=DEADLINE_S)
        if out:
            assert is_frozen(up)
            up.ok("thaw")
        wait_until(lambda: not up.world.pids(KEEPER))
        assert not is_frozen(up)


def test_freeze_whose_keeper_was_killed_is_known(up: Vm) -> None:
    up.ok("freeze", LONG)
    os.kill(up.world.pids(KEEPER)[0], signal.SIGKILL)
    wait_until(lambda: not up.world.pids(KEEPER))
    assert "may be frozen: what was to thaw them was killed" in up.qvm("status").out
    assert up.qvm("ssh", "true").status == 3
    assert up.ok("thaw").out == "demo: thawed 1 file system\n"
    up.answering()


def test_freeze_of_a_guest_frozen_by_another_is_refused(up: Vm) -> None:
    assert "stays frozen" in up.ok("agent", "guest-fsfreeze-freeze").err
    result = up.qvm("freeze")
    assert (result.status, "frozen already" in result.err) == (3, True)
    assert is_frozen(up)
    up.ok("agent", "guest-fsfreeze-thaw")


def test_freeze_of_a_paused_guest_is_thawed_when_it_runs_again(up: Vm) -> None:
    up.ok("freeze", "1")
    up.ok("cmd", "stop")
    time.sleep(1.5)
    assert up.world.pids(KEEPER)
    up.ok("cmd", "cont")
    wait_until(lambda: not up.world.pids(KEEPER))
    assert not is_frozen(up)


SESSION = """
print(agent.guest_get_osinfo()["id"], agent("guest-get-osinfo").value["id"])
print(info().os_id, [row["address"] for row in ip()][0])
print(freeze(timeout=600).file_systems, thaw().file_systems)
print(abs(set_time().behind_s) < 60)
agent guest-fsfreeze-status
freeze 600
thaw
"""


def test_session_has_the_verbs_as_functions_and_words(up: Vm) -> None:
    lines = up.ok("sh", stdin=SESSION).out.splitlines()
    assert lines[:5] == ["tiny tiny", "tiny 10.0.2.15", "1 1", "True", '"thawed"']
    assert lines[5].startswith("demo: froze 1 file system until")
    assert lines[6:] == ["demo: thawed 1 file system"]


def test_stop_of_a_frozen_guest_thaws_it_first(up: Vm) -> None:
    up.ok("freeze", LONG)
    result = up.ok("stop")
    assert "thawing them" in result.err
    assert "powered off by" in result.out
    assert not up.world.pids(KEEPER)
    assert not (up.directory / ".qvm/freeze.lock").exists()


def test_info_and_set_time_without_an_agent_go_by_ssh(up: Vm) -> None:
    up.end_in_guest("qemu-ga")
    facts = json.loads(up.ok("info", "--json").out)
    assert (facts["via"], facts["os_id"], facts["missing"]) == ("ssh", "tiny", {})
    assert "no answer" in facts["refused"]["agent"]
    assert facts["host_name"] == "demo"
    assert [row["type"] for row in facts["file_systems"] if row["mount_point"] == "/"] == ["ext4"]
    refused = up.ok("ip").out
    assert "leads to the guest's ssh" in refused
    assert "demo: agent: no answer" in refused
    up.ok("ssh", "sudo -n date -s @1700000000")
    result = json.loads(up.ok("set-time", "--json").out)
    assert result["via"] == "ssh"
    assert result["was_behind_s"] > 86400
    assert up.clock_error_s() < 2 + result["within_s"]
    assert up.qvm("freeze").status == 125
