"""Sockets that listen, and what a hostile other end says on them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

PATIENCE_S = 240.0
"""On a busy machine; what has no limit never ends."""
Speak = Callable[[socket.socket], None]


class Answering:
    """A listening socket, each of whose callers gets what `speak` says.

    Args:
        path: where it listens; in a folder of its own by default.
    """

    def __init__(self, speak: Speak, path: str = "") -> None:
        self._speak = speak
        self._folder = tempfile.TemporaryDirectory(prefix="qvmt-")
        self.path = path or os.path.join(self._folder.name, "s")
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(self.path)
        self._door.listen(16)
        self._lines: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line = self._door.accept()[0]
                self._lines.append(line)
                self._threads.append(threading.Thread(target=self._talk, args=(line,), daemon=True))
                self._threads[-1].start()

    def _talk(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError), line:
            self._speak(line)

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *_: object) -> None:
        for each in (self._door, *self._lines):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._folder.cleanup()


def drip(line: socket.socket) -> None:
    while True:
        line.sendall(b"A")
        time.sleep(0.05)


def flood(line: socket.socket) -> None:
    data = b"A" * 65536
    while True:
        line.sendall(data)


def repeat(data: bytes) -> Speak:
    def speak(line: socket.socket) -> None:
        while True:
            line.sendall(data)

    return speak


def silence(line: socket.socket) -> None:
    while line.recv(65536):
        pass


def hang_up(line: socket.socket) -> None:
    pass


def say(data: bytes) -> Speak:
    def speak(line: socket.socket) -> None:
        line.sendall(data)
        silence(line)

    return speak


def requests(line: socket.socket) -> Iterator[dict[str, Any]]:
    """The requests that come, with or without a line's end (`qemu.qmp` sends none)."""
    data = b""
    while piece := line.recv(65536):
        data = (data + piece).rpartition(b"\xff")[2]
        with contextlib.suppress(ValueError):
            while text := data.decode().lstrip():
                found, end = json.JSONDecoder().raw_decode(text)
                data = text[end:].encode()
                yield found


def of_agent(after: Speak) -> Speak:
    """An agent that synchronises as it should, then is something else."""

    def speak(line: socket.socket) -> None:
        asked = requests(line)
        token = next(asked)["arguments"]["id"]
        line.sendall(b"\xff" + json.dumps({"return": token}).encode() + b"\n")
        next(asked, None)
        after(line)

    return speak
