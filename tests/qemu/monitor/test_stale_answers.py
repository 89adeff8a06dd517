"""Answers that belong to a client that was killed do not pass for one's own."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qvmsh.qemu import jobs, qmp
from tests.support.world import Vm


@contextlib.contextmanager
def served(folder: Path, *answers: list[dict[str, Any]]) -> Iterator[qmp.Exchange]:
    """A conversation with a monitor that says these messages after each request; the answer gets its id."""
    path = str(folder / "qmp")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def answer() -> None:
        client, _ = server.accept()
        lines = client.makefile("rw")

        def say(message: dict[str, Any]) -> None:
            lines.write(json.dumps(message) + "\n")
            lines.flush()

        say({"QMP": {"version": {}, "capabilities": []}})
        say({"return": [{"device": "disk0"}]})
        for messages in answers:
            number = json.loads(lines.readline())["id"]
            for each in messages:
                say({"id": number} | each if "return" in each else each)
        client.close()

    thread = threading.Thread(target=answer)
    thread.start()
    exchange = qmp.Exchange(path, 10.0).negotiate()
    try:
        yield exchange
    finally:
        exchange.close()
        thread.join(10)
        server.close()


def test_answers_of_an_earlier_client_are_passed_over(tmp_path: Path) -> None:
    """As QEMU 7.2 does it: the next client gets the answer to what a killed one has asked.

    Seen once in some twenty `kill -9` of `qvm snapshot`: `query-jobs` was answered with disks.
    """
    stray = {"return": [{"device": "disk0"}], "id": 5}
    mine = {"id": "mine", "type": "commit", "status": "running"}
    event = {"event": "STOP", "data": {}}
    with served(tmp_path, [stray, event, {"return": {}}], [stray, event, {"return": [mine]}]) as exchange:
        assert exchange.ask("query-jobs") == [mine]


def test_a_job_that_is_ready_before_the_answer_that_says_it_runs(tmp_path: Path) -> None:
    """As QEMU 7.2 does it, once in some fifty commits: the event overtakes the older answer."""
    changed = {"event": "JOB_STATUS_CHANGE", "data": {"status": "ready", "id": "qvm-commit"}}
    running, ready = ({"return": [{"id": "qvm-commit", "status": status}]} for status in ("running", "ready"))
    with served(tmp_path, [{"return": {}}], [changed, running], [ready]) as exchange:
        found = jobs.Jobs(exchange).until("qvm-commit", "ready")
    assert found == {"id": "qvm-commit", "status": "ready"}


def test_requests_are_answered_by_their_numbers(blank: Callable[..., Vm]) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    runtime = (vm.directory / ".qvm/running").read_text().split()[1]
    exchange = qmp.Exchange(f"{runtime}/session", 10.0).negotiate()
    exchange.together("stop", "cont")
    assert exchange.ask("query-status")["status"] == "running"
    exchange.close()
