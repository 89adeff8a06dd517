"""Looking for a guest's sshd: how often, on how many connections, what each answer is called."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest

from qvmsh.host import sshd


class Greeter:
    """A server that greets each connection some time after it came, as a slow guest does."""

    def __init__(self, after_s: float, words: bytes = b"SSH-2.0-x\r\n", deaf: int = 0) -> None:
        self.after_s, self.words, self.deaf = after_s, words, deaf
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.accepted: list[tuple[float, socket.socket]] = []
        self.most_open = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self.listener.settimeout(0.01)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        for each in [self.listener, *(connection for _, connection in self.accepted)]:
            each.close()

    def _serve(self) -> None:
        while not self.stop.is_set():
            try:
                connection, _ = self.listener.accept()
            except TimeoutError:
                pass
            else:
                connection.setblocking(False)
                self.accepted.append((time.monotonic(), connection))
            self.most_open = max(self.most_open, sum(is_open(one) for _, one in self.accepted))
            for began, connection in self.accepted[self.deaf :]:
                if time.monotonic() - began > self.after_s and is_open(connection):
                    connection.send(self.words)


def is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port without a listener, which no other program can take."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def knock(port: int, seconds: float, share: float = sshd.Knocking.SHARE) -> tuple[str, float, sshd.Knocking]:
    knocking = sshd.Knocking("127.0.0.1", port)
    began = time.monotonic()
    answer = ""
    with knocking:
        while answer != "ssh" and time.monotonic() - began < seconds:
            answer = knocking.step(-1, 0.1, share=share)
        return answer, time.monotonic() - began, knocking


def test_knock_hears_a_later_connection_if_the_first_are_lost() -> None:
    with Greeter(0.0, deaf=5) as server:
        answer, took_s, knocking = knock(server.port, 300)
        assert answer == "ssh"
        assert took_s < 60
        assert knocking._probes == []


def test_knock_sshd_slower_than_a_look_is_heard() -> None:
    """The guest needs longer to greet than looks last at first: they have to get longer."""
    with Greeter(0.8) as server:
        answer, _, _ = knock(server.port, 240, share=0.2)  # as with 0.05, in less time
        assert answer == "ssh"
        assert server.most_open <= sshd.Knocking.KEPT + 1  # one closed, the server has not seen it yet


def test_knock_long_without_an_answer_becomes_rare() -> None:
    with Greeter(3600) as server:
        answer, _, _ = knock(server.port, 5, share=0.3)
        assert answer == "open"
        assert 1 <= len(server.accepted) <= 20  # 50 at the first pace


def test_look_without_a_listener_is_closed_at_once(closed_port: int) -> None:
    began = time.monotonic()
    with sshd.Knocking("127.0.0.1", closed_port) as knocking:
        assert knocking.look(-1, 600.0) == "closed"
    assert time.monotonic() - began < 60


def test_step_without_a_listener_waits_for_the_next_look(closed_port: int) -> None:
    """A loop around it must not spin, nor try again at once."""
    began = time.monotonic()
    with sshd.Knocking("127.0.0.1", closed_port, first_s=0.2) as knocking:
        assert [knocking.step(-1, 600.0) for _ in range(3)] == ["closed"] * 3
    assert 0.6 <= time.monotonic() - began < 60


def test_step_end_of_qemu_ends_the_listening() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"x")
    with Greeter(3600) as server, sshd.Knocking("127.0.0.1", server.port) as knocking:
        began = time.monotonic()
        assert knocking.look(reader, 600.0) == "open"
        assert time.monotonic() - began < 60
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(("words", "answer"), [(b"SSH-2.0-x\r\n", "ssh"), (b"220 mail\r\n", "closed")])
def test_banner_other_service_is_not_taken_for_ssh(words: bytes, answer: str) -> None:
    with Greeter(0.0, words) as server:
        assert sshd.banner("127.0.0.1", server.port, -1, 10.0) == answer


def test_banner_silent_port_is_open() -> None:
    with Greeter(3600) as server:
        assert sshd.banner("127.0.0.1", server.port, -1, 0.2) == "open"
