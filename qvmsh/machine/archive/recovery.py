"""An interrupted archive, export or clone: the disks are made whole again, unfinished files removed."""

from __future__ import annotations

from qvmsh.host import locks
from qvmsh.machine.archive import changes, live_copy, maintenance
from qvmsh.machine.create import layers
from qvmsh.machine.journal import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.journal import Journal, Record
    from qvmsh.machine.machine import BaseMachine


def recover(journal: Journal) -> str:
    """See `work.recovery`."""
    vm = journal.vm
    is_running = locks.holder(vm.files.pid_file) is not None
    joined = live_copy.join(journal, is_running=is_running)
    if is_running:
        changes.clear_running(vm)
    layers.remove_parts(vm)
    changes.clear_staged(vm)
    if journal.record.kind is not Kind.ARCHIVE:
        return f"was cleaned up: {joined or 'its disks are as they were'}"
    removed = maintenance.sweep_near(vm, journal.record.state)
    return f"was cleaned up: {', '.join(filter(None, (joined, removed)))}"


def left(vm: BaseMachine, record: Record) -> tuple[str, str | None]:  # as `work.recovery` asks
    """See `work.recovery`."""
    return "", None
