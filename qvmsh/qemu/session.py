"""A long connection to QEMU, and its events, by `qemu.qmp`, used synchronously.

    with Session(path) as qemu:
        with qemu.listen("SUSPEND") as events:
            ...the guest is asked to sleep...
            events.wait(timeout_s=5.0)

One loop for each session, run only while a call waits; Ctrl-C ends the call, and only the call: a
signal that came while the loop was using the connection would break it, and the code that has to
restore the guest could not ask QEMU any more. So it is kept until the answer has been read.
Source: QEMU docs/interop/qmp-spec.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError, Runstate

from qvmsh.errors import DeadlineError, QmpError
from qvmsh.qemu import qmp
from qvmsh.qemu.events import Inbox

CONNECT_S = 5.0
EXECUTE_S = 120.0
"""How long QEMU may take for a command: it may have to flush its disks."""
LOOK_S = 0.2
"""How often a wait checks whether QEMU still runs, and whether the user has interrupted it."""
ANSWER_S = 2.0
"""How long an interrupted call still waits for QEMU's answer: it is needed to undo the command."""


class Kept:
    """SIGINT, SIGTERM and SIGHUP, kept from the loop until they are taken, or the block ends.

    Their handlers mostly raise, which must not happen in the middle of the loop. The mask of
    `process.Shielded` is not enough: the loop could not see what it holds back.
    In another thread than the main one nothing is kept, and nothing comes.
    """

    def __init__(self) -> None:
        self._came: list[int] = []
        self._before: dict[int, Any] = {}

    def _keep(self, number: int, _frame: object) -> None:
        self._came.append(number)

    def deliver(self) -> None:
        """Call the handlers of those that have come; what these raise is raised here."""
        while self._came:
            number = self._came.pop(0)
            self._before[number](number, sys._getframe())

    def __enter__(self) -> Kept:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                before = signal.getsignal(number)
                if callable(before):
                    self._before[number] = before
                    signal.signal(number, self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self.deliver()


class Session:
    """A connection to one of QEMU's QMP sockets.

    Args:
        path: the Unix socket.
        checkpoint: called while waiting for an event, so that a caller can interrupt the wait.

    Raises:
        QmpError: nothing answers there (another long session may hold the socket).
    """

    def __init__(self, path: str, checkpoint: Callable[[], None] | None = None) -> None:
        self._path = path
        self._checkpoint = checkpoint
        self._loop = asyncio.new_event_loop()
        self._client = QMPClient("qvm")
        Inbox(self._client)  # events without a listener are not kept

    def __enter__(self) -> Session:
        try:
            self._ask(asyncio.wait_for(self._client.connect(self._path), CONNECT_S))
        except BaseException as error:
            if self._client.runstate == Runstate.RUNNING:  # a Ctrl-C is kept until QEMU has answered
                self.__exit__()
            else:
                self._close()
            if not isinstance(error, (QMPError, OSError, TimeoutError)):
                raise
            raise QmpError(f"cannot connect to QEMU: {error or 'it does not answer'}") from error
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with contextlib.suppress(Exception):  # QEMU has gone first, or does not speak QMP
                self._ask(asyncio.wait_for(self._client.disconnect(), CONNECT_S))
        finally:
            self._close()

    def _close(self) -> None:
        """End the loop, and what an interrupted wait has left in it."""
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    @contextlib.contextmanager
    def undisturbed(self, checkpoint: Callable[[], None]) -> Iterator[None]:
        """Another checkpoint while the block lasts: a Ctrl-C must not interrupt a recovery."""
        before, self._checkpoint = self._checkpoint, checkpoint
        try:
            yield
        finally:
            self._checkpoint = before

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Execute one command; events go to their listeners.

        Raises:
            QmpError: QEMU refused, has ended, or does not answer.
        """
        try:
            work = asyncio.wait_for(self._client.execute(command, arguments), EXECUTE_S)
            return qmp.checked(command, self._ask(work))
        except ExecuteError as error:
            raise QmpError(f"{command}: {error}", error_class=error.error_class) from None
        except (TimeoutError, qmp.Nonsense) as error:
            raise QmpError(f"{command}: {error or 'QEMU does not answer'}") from None
        except (QMPError, OSError, EOFError):
            raise QmpError(f"{command}: QEMU ended") from None

    def listen(self, *names: str) -> Listening:
        """Gather events of these names from now on: `with qemu.listen("SUSPEND") as events:`."""
        return Listening(self._loop, self._client, names, self._checkpoint)

    def _ask(self, work: Coroutine[Any, Any, Any]) -> Any:
        return _turn(self._loop, work, self._checkpoint, patience_s=ANSWER_S)


def _turn(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, Any],
    checkpoint: Callable[[], None] | None,
    *,
    patience_s: float = 0.0,
) -> Any:
    """Run the loop until the work is done and return its result, or until the user interrupts it.

    Args:
        patience_s: how long the work may still continue after that.

    Raises:
        BaseException: the work's own; what `checkpoint` or a signal's handler raises.
    """
    enough: list[BaseException] = []

    async def watched(kept: Kept) -> Any:
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=LOOK_S))[0]:
                try:
                    kept.deliver()
                    if checkpoint:
                        checkpoint()
                except BaseException as error:  # raised again outside the loop
                    enough.append(error)
                    await asyncio.wait({task}, timeout=patience_s)
                    break
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        return None if task.cancelled() else task.result()

    with Kept() as kept:
        try:
            result = loop.run_until_complete(watched(kept))
        except BaseException as error:
            if enough:  # a Ctrl-C counts even if the work failed as well
                raise enough[0] from error
            raise
    if enough:
        raise enough[0]
    return result


class Listening:
    """The events of some names, from the moment the block is entered."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: QMPClient,
        names: tuple[str, ...],
        checkpoint: Callable[[], None] | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._loop = loop
        self._client = client
        self._inbox = Inbox(client, names)

    def __enter__(self) -> Listening:
        self._client.register_listener(self._inbox.listener)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.remove_listener(self._inbox.listener)

    def wait(self, wanted: Any = None, *, timeout_s: float) -> dict[str, Any]:
        """The first event for which `wanted(event)` is true (None: any).

        Raises:
            DeadlineError: none within `timeout_s`.
            QmpError: QEMU went away.
        """

        async def first() -> dict[str, Any]:
            while True:
                event = await self._inbox.get()
                if wanted is None or wanted(event):
                    return event

        async def first_or_end() -> dict[str, Any]:
            event = asyncio.ensure_future(first())
            deadline = time.monotonic() + timeout_s
            try:
                while True:
                    # checked each time: `runstate_changed` misses an earlier change
                    is_over = self._client.runstate != Runstate.RUNNING
                    left = max(0.0, deadline - time.monotonic())
                    await asyncio.wait({event}, timeout=0.01 if is_over else min(left, LOOK_S))
                    if event.done():
                        return event.result()
                    if is_over:
                        raise QmpError("QEMU ended")
                    if not left:
                        raise DeadlineError(f"QEMU did not report it within {timeout_s:.0f} s")
            finally:
                event.cancel()
                await asyncio.gather(event, return_exceptions=True)

        found: dict[str, Any] = _turn(self._loop, first_or_end(), self._checkpoint)
        return found
