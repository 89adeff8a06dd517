"""A signal that ends a session: it is raised where nothing is lost by it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from qvmsh.qemu.session import _turn
from qvmsh.shell.session import calls


@pytest.fixture
def received() -> Iterator[list[int]]:
    """The signals that have come to a session which catches them."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield calls.catch_signals()
    for number, handler in before.items():
        signal.signal(number, handler)
    calls.ending.clear()


def frame_of_loop(frame: FrameType) -> FrameType:
    """The frame of the event loop that has called `frame`."""
    while frame.f_globals["__name__"] != "asyncio.base_events":
        assert frame.f_back
        frame = frame.f_back
    return frame


def test_signal_in_code_outside_the_loop_is_raised_there(received: list[int]) -> None:
    ended: list[str] = []

    async def step() -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        except calls.Leaving:
            ended.append("here")
            raise

    with pytest.raises(calls.Leaving):
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(calls.Leaving):
        asyncio.run(step())
    assert (ended, received) == (["here"], [signal.SIGTERM, signal.SIGHUP])


def test_signal_in_the_loop_waits_for_the_loops_next_step(received: list[int]) -> None:
    """What comes between a step's choice and its run would take the step, and `asyncio.run` hangs."""
    handler: Any = signal.getsignal(signal.SIGHUP)
    ended: list[str] = []

    async def waiting() -> None:
        try:
            handler(signal.SIGHUP, frame_of_loop(sys._getframe()))  # as if it came there
            ended.append("not in this step")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with pytest.raises(calls.Leaving) as output:
        asyncio.run(waiting())
    assert output.value.code == 129
    assert (ended, received) == (["not in this step", "cancelled"], [signal.SIGHUP])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_is_kept_from_a_conversation_with_qemu(received: list[int], number: int) -> None:
    ended: list[str] = []
    loop = asyncio.new_event_loop()

    async def work() -> None:
        os.kill(os.getpid(), number)  # not raised here: QEMU's answer is still to be read
        ended.append("kept")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    with pytest.raises(calls.Leaving):
        _turn(loop, work(), None, patience_s=0.0)
    loop.close()
    assert (ended, received) == (["kept", "cancelled"], [number])
