"""A guest whose agent is missing, frozen, or lies: each verb that asks it ends in time and says why."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qvmsh import Machine
from qvmsh.errors import DeadlineError, GuestUnreachableError, QmpError, QvmError, printable
from qvmsh.machine.guest import address, agent, facts, freeze_keeper, frozen, set_time
from qvmsh.machine.guest.transports import agent as agent_way
from qvmsh.machine.guest.transports import serial
from tests.support.hostile_sockets import (
    PATIENCE_S,
    Answering,
    Speak,
    drip,
    flood,
    hang_up,
    of_agent,
    repeat,
    requests,
    say,
    silence,
)
from tests.support.world import DEADLINE_S, Vm, World, create_blank, wait_until

HOSTILE = "x\x1b]0;pwn\x07\x1b[2J\x9b31m\u202e\r\nforged: line"
NO_AGENT: dict[str, Speak] = {
    "silence": silence,
    "drip": drip,
    "flood": flood,
    "hang up": hang_up,
    "junk": repeat(b"zzz\n" * 1000),
    "other's answers": repeat(b'{"return": 1}\n'),
}
"""What is no agent at all."""


def answering(answers: dict[str, Any]) -> Speak:
    """An agent that has these answers, and refuses everything else."""

    def speak(line: socket.socket) -> None:
        for request in requests(line):
            command = request["execute"]
            if command == "guest-sync-delimited":
                reply = b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode()
            elif command in answers:
                reply = json.dumps({"return": answers[command]}).encode()
            else:
                desc = f"{HOSTILE} {command}"
                reply = json.dumps({"error": {"class": "GenericError", "desc": desc}}).encode()
            line.sendall(reply + b"\n")

    return speak


@pytest.fixture(scope="module")
def machine(module_world: World) -> Iterator[Vm]:
    """A running machine without a network, whose guest does nothing."""
    vm = create_blank(module_world, "demo", VM_READY="none", VM_NET_MODEL="none")
    vm.ok("start")
    yield vm
    vm.kill()


@pytest.fixture
def vm(machine: Vm, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same in Python, with little patience; another listens at its agent's socket."""
    for module, name, seconds in (
        (agent, "PRESENT_S", 1.0), (address, "ASK_S", 1.0), (facts, "ASK_S", 1.0), (set_time, "ASK_S", 1.0),
        (freeze_keeper, "FREEZE_S", 1.0), (serial, "PROMPT_S", 0.5), (frozen, "THAW_S", 2.0),
        (agent_way, "ANSWER_S", 1.0), (agent_way, "LOST_S", 1.0),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setenv("QVM_TEST_MARK", machine.world.mark)
    (machine.runtime / "qga").unlink(missing_ok=True)
    return machine.library()


def speaking(machine: Vm, speak: Speak) -> Answering:
    (machine.runtime / "qga").unlink(missing_ok=True)
    return Answering(speak, str(machine.runtime / "qga"))


def verbs(vm: Machine) -> dict[str, Callable[[], object]]:
    return {
        "agent": lambda: vm.agent("guest-get-osinfo", timeout=1.0),
        "freeze": vm.freeze,
        "info": vm.info,
        "ip": vm.ip,
        "set-time": vm.set_time,
        "thaw": vm.thaw,
    }


def failure(call: Callable[[], object]) -> QvmError:
    began = time.monotonic()
    with pytest.raises(QvmError) as caught:
        call()
    assert time.monotonic() - began < PATIENCE_S
    error = caught.value
    assert all(printable(line) == line for line in error.lines()), error.lines()
    return error


@pytest.mark.parametrize("name", NO_AGENT)
def test_verbs_without_an_agent_say_so_in_time(machine: Vm, vm: Machine, name: str) -> None:
    with speaking(machine, NO_AGENT[name]):
        for verb, call in verbs(vm).items():
            error = failure(call)
            assert isinstance(error, GuestUnreachableError), (verb, error)
            assert error.hint, verb
            text = " ".join(error.lines())
            assert "agent" in text, (verb, text)
    assert frozen.of(vm) is None


@pytest.mark.parametrize("name", [name for name in NO_AGENT if name != "other's answers"])
def test_verbs_whose_agent_goes_silent_say_so_in_time(machine: Vm, vm: Machine, name: str) -> None:
    with speaking(machine, of_agent(NO_AGENT[name])):
        for verb in ("agent", "info", "ip", "set-time", "thaw"):
            error = failure(verbs(vm)[verb])
            assert isinstance(error, GuestUnreachableError | DeadlineError), (verb, error)


@pytest.mark.parametrize("name", NO_AGENT)
def test_command_without_an_agent_is_not_run(machine: Vm, vm: Machine, name: str) -> None:
    with speaking(machine, NO_AGENT[name]):
        error = failure(lambda: vm.execute("true", via="agent,serial"))
        assert isinstance(error, GuestUnreachableError)
        assert "nothing was run" in error.what
        assert [line.partition(":")[0] for line in error.details] == ["agent", "serial"]


@pytest.mark.parametrize("name", NO_AGENT)
def test_command_that_may_have_begun_is_not_run_again(machine: Vm, vm: Machine, name: str) -> None:
    with speaking(machine, of_agent(NO_AGENT[name])):
        error = failure(lambda: vm.execute("true", via="agent,serial"))
        assert isinstance(error, GuestUnreachableError)
        assert "it may have run" in error.what


def test_freeze_that_is_not_answered_is_thawed_when_it_can_be(machine: Vm, vm: Machine) -> None:
    status = {"guest-fsfreeze-status": "thawed"}
    commands: list[str] = []

    def speak(line: socket.socket) -> None:
        """An agent that freezes, but does not say so."""
        for request in requests(line):
            command = request["execute"]
            commands.append(command)
            if command == "guest-sync-delimited":
                line.sendall(b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode() + b"\n")
            elif command in status:
                line.sendall(json.dumps({"return": status[command]}).encode() + b"\n")
            elif command == "guest-fsfreeze-thaw":
                line.sendall(b'{"return": 1}\n')

    with speaking(machine, speak):
        error = failure(vm.freeze)
        assert isinstance(error, DeadlineError)
        assert "thawed" in str(error.hint)
        wait_until(lambda: frozen.of(vm) is None)
    assert "guest-fsfreeze-thaw" in commands


@pytest.mark.parametrize("count", [0, -3])
def test_freeze_that_freezes_nothing_is_an_error(machine: Vm, vm: Machine, count: int) -> None:
    answers = {"guest-fsfreeze-status": "thawed", "guest-fsfreeze-freeze": count, "guest-fsfreeze-thaw": 0}
    with speaking(machine, answering(answers)):
        assert "no file system of the guest could be frozen" in failure(vm.freeze).what
        wait_until(lambda: frozen.of(vm) is None)


def test_agent_refusals_reach_the_user_as_plain_text(machine: Vm, vm: Machine) -> None:
    with speaking(machine, answering({})):
        for verb in ("agent", "freeze", "thaw"):
            assert isinstance(failure(verbs(vm)[verb]), QmpError), verb
        for verb in ("info", "ip", "set-time"):
            assert "pwn" in " ".join(failure(verbs(vm)[verb]).details), verb


LIES: dict[str, Any] = {
    "guest-get-osinfo": {"pretty-name": HOSTILE, "kernel-release": HOSTILE * 10},
    "guest-get-host-name": {"host-name": HOSTILE},
    "guest-get-users": [{"user": HOSTILE, "login-time": -1e300}] * 500,
    "guest-get-fsinfo": [
        {"name": HOSTILE, "mountpoint": HOSTILE, "type": "", "used-bytes": -5, "total-bytes": -(2**63)},
        {"name": "a", "mountpoint": "/", "type": "x", "used-bytes": 2**63, "total-bytes": 2**64 - 1},
    ],
    "guest-get-time": -(2**63),
    "guest-set-time": {},
    "guest-network-get-interfaces": [
        {"name": HOSTILE, "ip-addresses": [
            {"ip-address": each, "ip-address-type": "ipv4", "prefix": -1}
            for each in (HOSTILE, "127.0.0.1", "10.9.0.7", "::1", "fe80::1%eth0", "999.1.1.1", "")
        ]},
        {"name": "lo"},
    ],
}  # fmt: skip


def test_lies_of_an_agent_are_shown_as_plain_lines(machine: Vm, vm: Machine) -> None:
    with speaking(machine, answering(LIES)):
        shown, addresses = vm.info(), vm.ip()
        text = str(shown)
        assert "set" in failure(vm.set_time).what
        answer = machine.ok("agent", "guest-get-host-name").out
        both = [json.loads(machine.ok(verb, "--json").out) for verb in ("info", "ip")]
    for line in (*text.splitlines(), *str(addresses).splitlines()):
        assert line.isprintable()
        assert not line.startswith("forged")
    assert len(text.splitlines()) < 60
    assert [row["size_bytes"] for row in shown.file_systems] == [2**64 - 1, None]
    assert [row["address"] for row in addresses] == ["10.9.0.7"]
    assert json.loads(answer) == {"host-name": HOSTILE}
    assert both[0]["host_name"] == HOSTILE
    assert both[1]["addresses"] == addresses.addresses


@pytest.mark.parametrize("answer", [None, 5, "x", [], {}, [[]], [{"name": 5}], {"host-name": []}, 1e400])
def test_answers_of_another_shape_are_missing_parts(machine: Vm, vm: Machine, answer: object) -> None:
    answers = {**dict.fromkeys(LIES, answer), "guest-get-host-name": {"host-name": "ok"}}
    with speaking(machine, answering(answers)):
        found = vm.info()
        assert found.host_name == "ok"
        assert all(each for each in found.missing.values())
        assert str(found).isprintable() or "\n" in str(found)


def test_agent_with_a_huge_answer_is_refused(
    machine: Vm, vm: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "MOST_BYTES", 2 << 20)
    with speaking(machine, of_agent(say(b'{"return": "' + b"A" * (3 << 20) + b'"}\n'))):
        error = failure(lambda: vm.agent("guest-ping"))
        assert "larger than" in error.what


def test_agent_command_without_an_answer_succeeds(machine: Vm, vm: Machine) -> None:
    with speaking(machine, of_agent(silence)):
        assert vm.agent("guest-suspend-ram").value == {}
    with speaking(machine, of_agent(hang_up)):
        assert vm.agent("guest-shutdown", "mode=halt").value == {}


def test_agent_of_a_machine_without_a_port_says_how_to_get_one(vm: Machine) -> None:
    error = failure(lambda: vm.agent("guest-ping"))
    assert "VM_GUEST_AGENT=yes" in str(error.hint)


def test_agent_interrupted_ends_at_once(machine: Vm, vm: Machine) -> None:
    is_asked = threading.Event()

    def speak(line: socket.socket) -> None:
        is_asked.set()
        silence(line)

    with speaking(machine, of_agent(speak)):
        child = machine.world.popen("agent", "-t", "1000", "guest-get-osinfo", cwd=machine.directory)
        assert is_asked.wait(DEADLINE_S)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=DEADLINE_S)
    assert (child.returncode, out) == (130, "")
    assert "Traceback" not in err


FAKE = {"guest-fsfreeze-status": "thawed", "guest-fsfreeze-freeze": 2, "guest-fsfreeze-thaw": 2}


def test_freeze_of_a_killed_machine_leaves_nothing(machine: Vm, vm: Machine) -> None:
    with speaking(machine, answering(FAKE)):
        assert machine.ok("freeze", "600").out.startswith("demo: froze 2 file systems until ")
        assert machine.world.pids(frozen.KEEPER)
        machine.ok("kill")
    assert not machine.world.pids(frozen.KEEPER)
    assert not os.path.lexists(vm.files.freeze_lock)
    machine.ok("start")
    assert "frozen" not in machine.qvm("status").out
