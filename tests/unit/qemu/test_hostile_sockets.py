"""Sockets whose other end is hostile: it drips, floods, lies, closes, or is silent."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvmsh.errors import DeadlineError, QmpError, QvmError
from qvmsh.qemu import qga, qmp, shapes
from qvmsh.qemu.session import Session
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

LIMIT_S = 0.2
MEMORY_BYTES = 256 << 20

VERSION = {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}
GREETING = json.dumps({"QMP": {"version": VERSION, "capabilities": []}}).encode() + b"\n"
BROKEN = "answer|agent|timed out|closed|reset|pipe|sense"
"""What the error says, whatever it is."""
DEEP = b"[" * 100_000 + b"\n"
ALWAYS: dict[str, Speak] = {
    "drip": drip,
    "flood": flood,
    "silence": silence,
    "hang up": hang_up,
    "events": repeat(b'{"event": "X", "timestamp": {"seconds": 1, "microseconds": 0}}\n'),
    "answers to nobody": repeat(b'{"return": 1}\n'),
    "junk": repeat(b"zzz\n" * 1000),
    "list": say(b"[]\n"),
    "number": say(b"5\n"),
    "deep": say(DEEP),
    "no UTF-8": say(b'{"QMP": "\xff\xfe"}\n'),
}


def of_monitor(after: Callable[[socket.socket, Any], None]) -> Speak:
    """A monitor that greets as it should, then is something else."""

    def speak(line: socket.socket) -> None:
        line.sendall(GREETING)
        asked = requests(line)
        number = {key: value for key, value in next(asked).items() if key == "id"}
        line.sendall(json.dumps({"return": {}} | number).encode() + b"\n")
        after(line, next(asked, {}).get("id"))

    return speak


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@contextlib.contextmanager
def bounded(memory_bytes: int = MEMORY_BYTES) -> Iterator[None]:
    """The block ends in time, and takes no more memory than a little at any moment."""
    before, seen, has_ended = resident_bytes(), [0], threading.Event()

    def look() -> None:
        while not has_ended.wait(0.02):
            seen.append(resident_bytes())

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    began = time.monotonic()
    try:
        yield
    finally:
        took_s = time.monotonic() - began
        has_ended.set()
        looking.join()
    assert took_s < PATIENCE_S
    assert max(seen) - before < memory_bytes


@pytest.mark.parametrize("name", ALWAYS)
def test_agent_that_never_synchronises_is_none(name: str) -> None:
    with Answering(ALWAYS[name]) as path, bounded():
        with pytest.raises(OSError, match=BROKEN):
            qga.ask(path, "guest-ping", timeout_s=LIMIT_S)
        assert qga.shutdown(path, timeout_s=LIMIT_S) is False


@pytest.mark.parametrize("name", sorted(set(ALWAYS) - {"answers to nobody", "events"}))
def test_agent_that_turns_hostile_is_an_error(name: str) -> None:
    with Answering(of_agent(ALWAYS[name])) as path, bounded(), pytest.raises(OSError, match=BROKEN):
        qga.ask(path, "guest-get-time", timeout_s=LIMIT_S)


@pytest.mark.parametrize("name", ALWAYS)
def test_monitor_that_is_none_is_an_error(name: str) -> None:
    with Answering(ALWAYS[name]) as path, bounded(), pytest.raises(OSError, match=BROKEN):
        qmp.ask(path, "query-status", timeout_s=LIMIT_S)


@pytest.mark.parametrize("name", ALWAYS)
def test_monitor_that_turns_hostile_is_an_error(name: str) -> None:
    with (
        Answering(of_monitor(lambda line, _: ALWAYS[name](line))) as path,
        bounded(),
        pytest.raises(OSError, match=BROKEN),
    ):
        qmp.ask(path, "query-status", timeout_s=LIMIT_S)


def test_many_monitors_are_asked_also_after_a_silent_one() -> None:
    def running(line: socket.socket, number: int) -> None:
        line.sendall(json.dumps({"return": {"status": "running"}, "id": number}).encode() + b"\n")
        silence(line)

    monitors = [
        *(of_monitor(lambda line, _: silence(line)), of_monitor(running)),
        *(silence, hang_up, of_monitor(running)),
    ]
    with contextlib.ExitStack() as stack, bounded():
        paths = [stack.enter_context(Answering(speak)) for speak in monitors]
        found = qmp.ask_all([*paths, "/nonexistent"], "query-status", timeout_s=5.0)
        assert found == {path: {"status": "running"} for path in (paths[1], paths[4])}


@pytest.mark.parametrize("name", ["drip", "flood"])
def test_message_without_an_end_ends_also_without_a_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "MESSAGE_S", LIMIT_S)
    with Answering(of_monitor(lambda line, _: ALWAYS[name](line))) as path, bounded():
        exchange = qmp.Exchange(path, PATIENCE_S).negotiate()
        with contextlib.closing(exchange), pytest.raises(OSError, match=BROKEN):
            exchange.ask("human-monitor-command", {"command-line": "info status"}, timeout_s=None)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, categories=None), max_size=8)
    | st.sampled_from([10**400, "\ud800", 2**64]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["status", "pid", "exited", "class", "desc", "device", "inserted", "image", "id"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
COMMANDS = st.sampled_from([*sorted(shapes.SHAPES), "guest-ping", "stop"])
MESSAGES = st.fixed_dictionaries({}, optional={"return": VALUES, "error": VALUES, "event": VALUES})


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(COMMANDS, MESSAGES)
def test_answer_of_any_shape_is_as_described_or_an_error(command: str, message: dict[str, Any]) -> None:
    def lie(line: socket.socket, number: Any = None) -> None:
        line.sendall(json.dumps(message | ({"id": number} if number is not None else {})).encode() + b"\n")

    for speak, ask in ((of_monitor(lie), qmp.ask), (of_agent(lie), qga.ask)):
        with Answering(speak) as path:
            try:
                found = ask(path, command, timeout_s=PATIENCE_S)
            except (OSError, QmpError) as error:
                str(error).encode()  # it can be printed
            else:
                assert command not in shapes.SHAPES or shapes.fits(found, shapes.SHAPES[command])
                qmp.dumps(found).encode()


@pytest.mark.parametrize("name", ALWAYS)
def test_long_conversation_with_a_hostile_monitor_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvmsh.qemu.session.CONNECT_S", LIMIT_S)
    with Answering(ALWAYS[name]) as path, bounded(), pytest.raises(QmpError), Session(path):
        pass


@pytest.mark.parametrize("name", ALWAYS)
def test_long_conversation_that_turns_hostile_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvmsh.qemu.session.CONNECT_S", 5.0)
    monkeypatch.setattr("qvmsh.qemu.session.EXECUTE_S", 2 * LIMIT_S)
    hostile = of_monitor(lambda line, _: ALWAYS[name](line))
    with Answering(hostile) as path, bounded(), Session(path) as qemu:
        with pytest.raises(QmpError):
            qemu.execute("query-status")
        with qemu.listen("JOB_STATUS_CHANGE") as events, pytest.raises(QvmError) as caught:
            events.wait(lambda event: event["data"]["id"] == "x", timeout_s=LIMIT_S)
        assert isinstance(caught.value, DeadlineError | QmpError)


def test_events_that_are_not_read_are_not_kept() -> None:
    """Not even those of the right name and shape."""
    event = b'{"event": "JOB_STATUS_CHANGE", "data": {"id": "other", "status": "%s"}}\n' % (b"x" * 20_000)

    def speak(line: socket.socket, number: Any) -> None:
        for _ in range(6000):
            line.sendall(event)
        line.sendall(json.dumps({"return": {}, "id": number}).encode() + b"\n")
        silence(line)

    with (
        Answering(of_monitor(speak)) as path,
        bounded(96 << 20),
        Session(path) as qemu,
        qemu.listen("JOB_STATUS_CHANGE") as events,
    ):
        assert qemu.execute("stop") == {}
        assert events.wait(timeout_s=PATIENCE_S)["data"]["id"] == "other"
