"""QEMU's events in words, and one connection that receives them until QEMU ends.

    asyncio.run(hear("/run/user/1000/qvm/3f2a/watch", greeted=print, heard=print))
    Teller().line({"event": "RESET", "data": {"reason": "guest-reset", "guest": True}})

Source: QEMU docs/interop/qemu-qmp-ref, "Events".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

from qemu.qmp import ExecuteError, QMPClient, QMPError
from qemu.qmp.events import EventListener

from qvmsh.qemu import qmp, shapes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Event = dict[str, Any]

logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
logging.getLogger("qemu.qmp").propagate = False  # some packages give the root a handler: see a11y_pygments
ENDS = {
    "guest-shutdown": "the guest has shut down",
    "guest-reset": "the guest has reset itself, and QEMU ended (-no-reboot)",
    "guest-panic": "the guest's kernel panicked, and QEMU ended",
    "host-error": "QEMU ended after an error",
    "host-qmp-quit": "QEMU was asked to quit",
    "host-qmp-system-reset": "it was reset, and QEMU ended (-no-reboot)",
    "host-signal": "a signal ended QEMU",
    "host-ui": "its window was closed",
}
"""Why a machine shuts down, by QEMU's ShutdownCause."""

RESETS = {"guest-reset": "the guest has reset itself", "host-qmp-system-reset": "it was reset"}


MOST_EVENTS = 1000
"""How many unread events are kept; a real QEMU does not send more."""


class Inbox:
    """The events of some names (none = all), in order: a bounded number, and of the right shape.

    The client's own lists are unbounded, and keep what was read; so they get nothing.
    """

    def __init__(self, client: QMPClient, names: tuple[str, ...] = ()) -> None:
        client.events.event_filter = lambda _: False
        self.listener = EventListener(names, self._take)
        self._waiting: deque[Event] = deque()
        self._came = asyncio.Event()

    def _take(self, message: Any) -> bool:
        event = dict(message)
        if len(self._waiting) < MOST_EVENTS and shapes.fits_event(event):
            self._waiting.append(event)
            self._came.set()
        return False

    async def get(self) -> Event:
        """The next event."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        return self._waiting.popleft()

    @property
    def is_empty(self) -> bool:
        return not self._waiting


class Teller:
    """Puts events into words; remembers what was reported of a job."""

    def __init__(self) -> None:
        self._aborted: set[str] = set()

    def line(self, event: Event) -> str:
        """What the user should know of this event, in one line; "" for other events."""
        data = event.get("data", {})
        match event["event"]:
            case "SHUTDOWN":
                return ENDS.get(data.get("reason", ""), "it shuts down")
            case "RESET":
                return RESETS.get(data.get("reason", ""), "")  # QEMU resets the guest at a load too
            case "GUEST_PANICKED":
                return f"the guest's kernel panicked{_action(data)}"
            case "GUEST_CRASHLOADED":
                return "the guest's kernel panicked, and its crash kernel takes over"
            case "WATCHDOG":
                return f"the guest's watchdog fired{_action(data)}"
            case "BLOCK_IO_ERROR":
                where = data.get("node-name") or data.get("device") or "a disk"
                why = "no space left on the host" if data.get("nospace") else data.get("reason", "")
                paused = ", the guest is paused" if data.get("action") == "stop" else ""
                return (
                    f"{data.get('operation', 'I/O')} error on {where}" + (f": {why}" if why else "") + paused
                )
            case "BLOCK_JOB_ERROR":
                return f"the job {data.get('device')} met a {data.get('operation')} error"
            case "JOB_STATUS_CHANGE":
                return self._job(data)
        return ""

    def _job(self, data: Event) -> str:
        name = data["id"]
        if data["status"] == "aborting":
            self._aborted.add(name)
        if data["status"] != "concluded":
            return ""
        is_failed = name in self._aborted or "error" in data
        self._aborted.discard(name)
        why = f": {data['error']}" if "error" in data else ""
        return f"the job {name} {'failed' if is_failed else 'is done'}{why}"


def _action(data: Event) -> str:
    """What QEMU did about it."""
    shown = {"pause": "the guest is paused", "poweroff": "QEMU ends", "shutdown": "QEMU ends"}
    action = data.get("action", "")
    return f", {shown[action]}" if action in shown else ""


async def hear(path: str, *, greeted: Callable[[], None], heard: Callable[[Event], None]) -> None:
    """Be the client of the QMP socket `path` and pass its events on, until QEMU ends.

    QEMU serves one client of a socket at a time; the others wait here for its greeting.

    Args:
        greeted: called when QEMU talks to us.
        heard: called with each event, in order; that a job failed comes with `data["error"]`.

    Raises:
        OSError: nothing listens there.
    """
    client = QMPClient("qvm-watch")
    inbox = Inbox(client)
    client.register_listener(inbox.listener)
    try:
        await client.connect(path)
    except QMPError as error:
        raise ConnectionError(str(error)) from error
    end = asyncio.ensure_future(client.runstate_changed())
    event = asyncio.ensure_future(inbox.get())
    try:
        greeted()
        while True:
            await asyncio.wait({event, end}, return_when=asyncio.FIRST_COMPLETED)
            if not event.done():
                event.cancel()
                break
            heard(await _with_error(client, event.result()))
            event = asyncio.ensure_future(inbox.get())
        while not inbox.is_empty:
            heard(await inbox.get())
    finally:
        for task in (event, end):
            task.cancel()
        await asyncio.gather(event, end, return_exceptions=True)
        with contextlib.suppress(Exception):  # QEMU has gone first, or does not speak QMP
            await client.disconnect()


async def _with_error(client: QMPClient, event: Event) -> Event:
    """The event of a job's end, with the job's error; QEMU has it only in `query-jobs`."""
    data = event.get("data", {})
    if event["event"] != "JOB_STATUS_CHANGE" or data.get("status") != "concluded":
        return event
    try:
        jobs: Any = qmp.checked("query-jobs", await client.execute("query-jobs"))
    except (ExecuteError, QMPError, OSError, EOFError):
        return event
    errors = [job["error"] for job in jobs if job["id"] == data["id"] and job.get("error")]
    return {**event, "data": {**data, "error": errors[0]}} if errors else event
