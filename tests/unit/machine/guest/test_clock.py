"""Setting a guest's clock: what a busy guest answers late, and does late, makes it no worse."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qvmsh.machine.guest import clock
from qvmsh.machine.launch_record import LaunchRecord
from qvmsh.machine.machine import BaseMachine
from tests.support.world import DEADLINE_S, bare_environ, write_vmrc

LATE_S = 1.6


class LateAgent:
    """A guest agent on a real socket, with a clock of its own.

    Args:
        behind_s: how far its clock is behind.
        late: says how many seconds it takes for a command.
    """

    def __init__(self, folder: str, behind_s: float, late: Callable[[LateAgent, str], float]) -> None:
        self.behind_s = behind_s
        self._late = late
        self.commands: list[str] = []
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(os.path.join(folder, "qga"))
        self._door.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._door.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line = self._door.accept()[0]
                with line, contextlib.suppress(OSError), line.makefile("rb") as lines:
                    for each in lines:
                        line.sendall(self._answer(json.loads(each.lstrip(b"\xff"))))

    def _answer(self, request: dict[str, Any]) -> bytes:
        command, given = request["execute"], request.get("arguments", {})
        self.commands.append(command)
        time.sleep(self._late(self, command))
        if command == "guest-sync-delimited":
            return b"\xff" + json.dumps({"return": given["id"]}).encode() + b"\n"
        if command == "guest-set-time":
            self.behind_s = time.time() - given["time"] / 1e9
            return b'{"return": {}}\n'
        return json.dumps({"return": int((time.time() - self.behind_s) * 1e9)}).encode() + b"\n"


Begin = Callable[..., tuple[LateAgent, str]]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Sets the clock of a guest with such an agent, which has all the time that it needs."""
    monkeypatch.setattr(clock, "CLOCK_S", DEADLINE_S)
    write_vmrc(tmp_path / "demo")
    vm = BaseMachine(tmp_path / "demo", environ=bare_environ(tmp_path))
    agents = []
    folder = tempfile.mkdtemp(prefix="qvmt-")  # sockets need a short path

    def put_right(behind_s: float, late: Callable[[LateAgent, str], float]) -> tuple[LateAgent, str]:
        agents.append(LateAgent(folder, behind_s, late))
        return agents[-1], clock.put_clock_right(vm, LaunchRecord(runtime=folder))

    yield put_right
    for each in agents:
        each.close()
    shutil.rmtree(folder)


def test_right_clock_that_is_told_late_is_not_set(begin: Begin) -> None:
    agent, done = begin(0.0, lambda *_: LATE_S)
    assert (done, agent.commands) == ("clock is right", ["guest-sync-delimited", "guest-get-time"])


def test_clock_that_is_set_late_is_set_again(begin: Begin) -> None:
    def late(agent: LateAgent, command: str) -> float:
        return LATE_S if command == "guest-set-time" and agent.commands.count(command) == 1 else 0.0

    agent, done = begin(7200.0, late)
    assert done == "clock was 7200 s behind, set by the guest agent"
    assert agent.commands.count("guest-set-time") >= 2
    assert agent.behind_s < LATE_S


def test_clock_is_set_to_the_time_when_the_agent_listens(begin: Begin) -> None:
    """An agent that is slow to listen sets a time from before, which is wrong again."""
    agent, done = begin(7200.0, lambda _, command: LATE_S if command == "guest-sync-delimited" else 0.0)
    assert done.endswith(" s behind, set by the guest agent")
    assert agent.commands.count("guest-set-time") == 1
    assert agent.behind_s < LATE_S
