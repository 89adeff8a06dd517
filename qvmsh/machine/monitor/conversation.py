"""A conversation with a machine's QEMU: a few QMP questions in a row.

    with conversation.begin(record) as qemu:            # or begin(record, "session")
        qemu.ask("query-status")
        conversation.resume(qemu)

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
    from qvmsh.qemu import ich9
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


def hold(exchange: qmp.Exchange, registers: ich9.Registers | None) -> None:
    """Stop the guest so that a snapshot of it can be loaded; see `snapshot.managed_save`.

    A QEMU that keeps "suspended" over `stop` (9.0 and later) saves and loads that state as it is.
    """
    exchange.ask("stop", timeout_s=30.0)
    if exchange.ask("query-status")["status"] == "suspended":
        exchange.together("system_wakeup", "stop")
        from qvmsh.qemu import ich9

        ich9.restore(exchange, registers)


def resume(exchange: qmp.Exchange) -> None:
    """Resume a guest that was held or loaded; where QEMU (9.0 and later) says that it sleeps, wake it."""
    exchange.ask("cont", timeout_s=30.0)
    if exchange.ask("query-status")["status"] == "suspended":
        wake(exchange)


def wake(exchange: qmp.Exchange) -> None:
    """Wake a guest that QEMU says is suspended.

    On q35 it is stopped for some milliseconds while it is still in the firmware, and gets the
    power registers back that SeaBIOS before 1.17 forgets: without them it could not sleep again.
    They are those of the sleeping guest, which keep what it had enabled.

    Raises:
        QmpError: it is not suspended.
    """
    from qvmsh.qemu import ich9

    registers = ich9.read(exchange)
    if registers is None:
        exchange.ask("system_wakeup")
        return
    exchange.together("system_wakeup", "stop")
    try:
        ich9.restore(exchange, registers)
    finally:
        exchange.ask("cont", timeout_s=30.0)
