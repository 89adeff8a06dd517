"""Ending a conversation with QEMU at any moment leaves no task behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

from qvmsh.machine import launch_record as notes
from qvmsh.machine.machine import BaseMachine
from qvmsh.qemu import events
from tests.support.world import Vm


def test_conversation_that_is_cancelled_leaves_no_task(blank: Callable[..., Vm]) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    note = notes.read(BaseMachine(str(vm.directory)).files)
    assert note is not None
    for when in ("connecting", "waiting for the greeting", "greeted", "hearing"):
        assert complaints_of(note.socket("watch"), when) == [], when


def complaints_of(path: str, when: str) -> list[str]:
    """What the loop reports after a conversation was cancelled at that moment; no task is left."""
    complaints: list[str] = []

    async def hear(greeted: asyncio.Event) -> None:
        await events.hear(path, greeted=greeted.set, heard=lambda _: None)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(str(context["message"])))
        first, second = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.ensure_future(hear(first))]
        if when != "connecting":
            await asyncio.wait_for(first.wait(), 60)
        if when == "waiting for the greeting":  # QEMU talks to one client of a socket at a time
            tasks.append(asyncio.ensure_future(hear(second)))
        for _ in range({"connecting": 2, "greeted": 0}.get(when, 50)):
            await asyncio.sleep(0)
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        left: list[Any] = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert left == []
        del tasks[:]
        gc.collect()

    asyncio.run(run())
    gc.collect()
    return complaints
