"""The line of a long copy, on a real terminal (a pty)."""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections.abc import Iterator

import pytest

from qvmsh.errors import QvmError, StateError, Terminated
from qvmsh.io import Io
from qvmsh.machine.progress import Progress, clock, size

MIB = 1 << 20


class Screen:
    """A terminal: what is written to it is read here."""

    def __init__(self) -> None:
        self._fd, other = os.openpty()
        self._stream = open(other, "w", encoding="utf-8")
        self.io = Io(stderr=self._stream)
        self.text = ""

    def close(self) -> None:
        self._stream.close()
        os.close(self._fd)

    def wait(self, what: str) -> str:
        while what not in self.text:
            self.text += os.read(self._fd, 4096).decode()
        return self.text


@pytest.fixture
def screen() -> Iterator[Screen]:
    made = Screen()
    yield made
    made.close()


def test_line_has_bytes_part_rate_and_time_left(screen: Screen) -> None:
    with Progress(screen.io, "archiving big.raw", 10 * MIB) as shown:
        shown.tell(MIB)  # too early to say how fast it is
        time.sleep(0.5)
        shown.tell(5 * MIB)
        text = screen.wait(" left")
    line = next(each for each in text.split("\r") if "5.0 MiB of" in each or "1.0 MiB of" in each)
    assert line.startswith("  archiving big.raw: ")
    assert "of 10.0 MiB, " in line
    assert " %, " in line
    assert re.search(r"/s, \d+:\d\d left", line)
    end = screen.wait("\n").split("\r")
    assert any(re.match(r"  archiving big\.raw: 10\.0 MiB in \d+\.\d s.*iB/s", each) for each in end)


def test_line_moves_without_a_report(screen: Screen) -> None:
    """A compressor reads the file itself, and may write nothing for a long time."""
    at = [0]
    with Progress(screen.io, "x", 10 * MIB, lambda: at[0]):
        screen.wait("waiting")
        at[0] = 4 * MIB
        screen.wait("4.0 MiB of 10.0 MiB, 40 %")


def test_failure_ends_the_line(screen: Screen) -> None:
    with pytest.raises(KeyboardInterrupt), Progress(screen.io, "x", 10):
        raise KeyboardInterrupt
    assert "x: interrupted" in screen.wait("\n")
    with pytest.raises(OSError, match="full"), Progress(screen.io, "y", 10):
        raise OSError("full")
    assert "y: failed" in screen.wait("y: ")


@pytest.mark.parametrize(("error", "mark"), [(Terminated(), "interrupted"), (QvmError("x"), "failed")])
def test_stage_distinguishes_an_interruption_from_a_failure(error: BaseException, mark: str) -> None:
    stream = io.StringIO()
    with contextlib.suppress(type(error)), Io(stderr=stream, level=2).stage("saving one"):
        raise error
    assert stream.getvalue() == f"  saving one: {mark}\n"


def test_stage_of_what_was_refused_leaves_no_line(screen: Screen) -> None:
    with contextlib.suppress(StateError), screen.io.stage("starting QEMU"):
        screen.wait("starting QEMU ...")
        raise StateError("it is running")
    screen.io.warn("demo: it is running")
    assert screen.wait("\n").endswith("starting QEMU ...\r\x1b[Kqvm: demo: it is running\r\n")


def test_progress_without_a_terminal_shows_nothing() -> None:
    stream = io.StringIO()
    with Progress(Io(stderr=stream), "x", 10) as shown:
        shown.tell(5)
        time.sleep(0.5)
        shown.tell(10)
    assert stream.getvalue() == ""
    with Progress(Io(stderr=stream, level=2), "x", 10) as shown:  # -v
        shown.tell(10)
    assert re.match(r"  x: 10 B in \d+\.\d s", stream.getvalue())


def test_clock_is_short() -> None:
    assert [clock(seconds) for seconds in (-1, 7.9, 750, 3723)] == ["0:00", "0:07", "12:30", "1:02:03"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (35861504, "34.2 MiB"),
        (3 << 40, "3.0 TiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_size_is_for_people(count: int, text: str) -> None:
    assert size(count) == text
