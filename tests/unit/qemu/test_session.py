"""A signal while a loop is turned: its handler decides, and never wherever the loop just is."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qvmsh.errors import QmpError
from qvmsh.qemu.session import _turn


@pytest.fixture
def handler() -> Iterator[Callable[[Any], object]]:
    """Chooses who gets SIGINT."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda chosen: signal.signal(signal.SIGINT, chosen)
    signal.signal(signal.SIGINT, before)


def turned(ended: list[str], *, fails: bool = False) -> Any:
    """A loop that works for half a second, and gets SIGINT meanwhile."""

    async def work() -> str:
        try:
            while sender.is_alive() or time.monotonic() < least:  # until it has come, and was seen
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        ended.append("done")
        if fails:
            raise QmpError("QEMU ended")
        return "done"

    loop = asyncio.new_event_loop()
    least = time.monotonic() + 0.6
    sender = threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    sender.start()
    try:
        return _turn(loop, work(), None, patience_s=30.0 if fails else 0.0)
    finally:
        sender.join()
        loop.close()


def test_handler_that_raises_ends_the_work(handler: Callable[[Any], object]) -> None:
    handler(signal.default_int_handler)
    ended: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        turned(ended)
    assert ended == ["cancelled"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handler_that_returns_lets_the_work_continue(handler: Callable[[Any], object]) -> None:
    seen: list[int] = []
    handler(lambda number, _: seen.append(number))
    ended: list[str] = []
    assert turned(ended) == "done"
    assert (seen, ended) == ([signal.SIGINT], ["done"])


def test_ctrl_c_is_not_lost_where_the_work_then_fails(handler: Callable[[Any], object]) -> None:
    handler(signal.default_int_handler)
    ended: list[str] = []
    with pytest.raises(KeyboardInterrupt) as output:
        turned(ended, fails=True)
    assert ended == ["done"]
    assert isinstance(output.value.__cause__, QmpError)
