"""Answers that belong to a client that was killed do not pass for one's own."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from conftest import Vm

from qvmsh.qemu import qmp


def test_answers_of_an_earlier_client_are_passed_over(tmp_path: Path) -> None:
    """As QEMU 7.2 does it: the next client gets the answer to what a killed one has asked.

    Seen once in some twenty `kill -9` of `qvm snapshot`: `query-jobs` was answered with disks.
    """
    path = str(tmp_path / "qmp")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def answer() -> None:
        client, _ = server.accept()
        lines = client.makefile("rw")

        def say(**message: object) -> None:
            lines.write(json.dumps(message) + "\n")
            lines.flush()

        say(QMP={"version": {}, "capabilities": []})
        say(**{"return": [{"device": "disk0"}]})
        for value in ({}, ["mine"]):
            request = json.loads(lines.readline())
            say(**{"return": [{"device": "disk0"}], "id": 5})
            say(event="STOP", data={})
            say(**{"return": value, "id": request["id"]})
        client.close()

    thread = threading.Thread(target=answer)
    thread.start()
    exchange = qmp.Exchange(path, 10.0).negotiate()
    assert exchange.ask("query-jobs") == ["mine"]
    exchange.close()
    thread.join(10)
    server.close()


def test_requests_are_answered_by_their_numbers(blank: Callable[..., Vm]) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    runtime = (vm.directory / ".qvm/running").read_text().split()[1]
    exchange = qmp.Exchange(f"{runtime}/session", 10.0).negotiate()
    exchange.together("stop", "cont")
    assert exchange.ask("query-status")["status"] == "running"
    exchange.close()
