"""A conversation with a machine's QEMU: a few QMP questions in a row.

    with conversation.begin(record) as qemu:            # or begin(record, "session")
        qemu.ask("query-status")

QEMU serves one client at a time on each of its sockets: `qmp` is for questions that take no time, `session`
for work that others wait for, `events` for a client that follows the events.
"""

from __future__ import annotations

from qvmsh.machine import state
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.session import Session


def begin(note: LaunchRecord, name: str = "qmp", *, timeout_s: float = state.GREETING_S) -> qmp.Exchange:
    """Connect to one of QEMU's sockets; the conversation ends with the `with` block.

    Raises:
        OSError: QEMU does not answer (TimeoutError: perhaps it serves another client).
    """
    return qmp.Exchange(note.socket(name), timeout_s).negotiate()


def session(vm: BaseMachine, note: LaunchRecord) -> Session:
    """A session, which follows jobs and events; late, since asyncio costs more than a command.

    Raises:
        QmpError: QEMU does not answer.
    """
    from qvmsh.qemu.session import Session

    return Session(note.socket("session"), vm.io.checkpoint)
