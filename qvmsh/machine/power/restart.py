"""Power a machine off and start it again with a new QEMU."""

from __future__ import annotations

from dataclasses import replace

from qvmsh.errors import QvmError
from qvmsh.machine import programs as tools
from qvmsh.machine import state
from qvmsh.machine.power import start, stop
from qvmsh.machine.power.reports import Restarted
from qvmsh.machine.power.request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine


def restart(
    vm: BaseMachine,
    request: Request,
    *,
    force: bool,
    timeout_s: float | None,
    ssh_attempts: int | None,
    is_waiting: bool,
) -> Restarted:
    """Power off and start again; see `commands.restart`.

    What fits is kept: the ssh port, and whether the run before was disposable or of the base only.
    """
    tools.require_accepted(vm)
    seen = state.observe(vm)
    note = seen.note if seen.is_live else None
    if note is not None:
        request = replace(
            request,
            disposable=request.disposable or note.disposable,
            base_only=request.base_only or note.base_only,
            is_forced=request.is_forced or note.base_only,
        )
    start.require_startable(vm, request, ssh_attempts)
    by, took_s = None, 0.0
    if seen.is_live:
        by, took_s, _ = stop.stop(vm, force=force, timeout_s=stop.patience_s(vm, timeout_s))
    try:
        started = start.start(
            vm, request, ssh_attempts=ssh_attempts, is_waiting=is_waiting, port=note.ssh_port if note else 0
        )
    except QvmError as error:
        if by:
            error.details = (f"it was first powered off by {by}", *error.details)
        raise
    return Restarted(by, took_s, started)
