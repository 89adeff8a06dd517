"""Work on snapshots that was interrupted: completed or undone.

A complete save is kept, an incomplete one is removed from all disks; a deletion is completed once one disk
has lost its part; a restore goes back to the state before it, kept as the snapshot `.qvm-back` until the new
state was complete.
"""

from __future__ import annotations

import contextlib
import os
import time

from qvmsh.errors import QmpError, QvmError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process
from qvmsh.machine import launch_record, snapshot_names, state
from qvmsh.machine.guest import filesystems, sleep
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest.clock import put_clock_right
from qvmsh.machine.journal import Journal, Kind, Phase, Record
from qvmsh.machine.snapshot import catalogue
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.store import Images, Live, Store
from qvmsh.machine.storage import chain, volumes
from qvmsh.machine.storage.volumes import Volume
from qvmsh.machine.work import kill
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

    Step = Callable[[Store, Record], str]

BACK = ".qvm-back"
"""The snapshot of the state before a restore."""

SHORT_S, HANGS_S = 0.3, 30.0
"""How long QEMU may take to greet before it is reported as busy; to move a byte before it hangs."""


def recover(journal: Journal) -> str:
    """See `work.recovery`."""
    vm, record = journal.vm, journal.record
    note = launch_record.read(vm.files)
    if locks.holder(vm.files.pid_file) is not None and note is not None:
        return _recover_live(vm, note, record)
    return recover_off(vm, record, _STEPS[record.kind])


def left(vm: BaseMachine, record: Record) -> tuple[str, str | None]:
    """See `work.recovery`."""
    if record.kind is Kind.SNAPSHOT_DELETE:
        disks = ", ".join(name for name, path in record.disks if _has(path, record.name))
        return f"{record.name} is left on {disks or 'no disk'} and cannot be restored", None
    return "", None


def _has(path: str, tag: str) -> bool:
    try:
        return any(each.name in (tag, tag + snapshot_names.NEW) for each in chain.snapshots_in(path, "qcow2"))
    except QvmError:
        return True


# While QEMU runs


def _recover_live(vm: BaseMachine, note: LaunchRecord, record: Record) -> str:
    if record.kind is Kind.SNAPSHOT_LOAD and record.phase is not Phase.CLEAN:
        return _back_off(vm, note, record)
    with live(vm, note, record) as store:
        if record.kind is Kind.SNAPSHOT_RESTORE and record.phase is Phase.LOAD:
            return _back_live(vm, note, record, store)
        outcome = _STEPS[record.kind](store, record)
        if note.loading:
            guest.close(vm, note)
            loaded(vm, note)
        resume(vm, note, record, store)
        return outcome


def resume(vm: BaseMachine, note: LaunchRecord, record: Record, store: Live) -> None:
    """Resume a guest that the work has stopped."""
    if record.was_running and store.jobs.execute("query-status")["status"] in ("paused", "prelaunch"):
        sleep.resume(store.exchange)
    if record.was_running and (record.has_memory or record.kind is Kind.SNAPSHOT_LOAD):
        put_clock_right(vm, note, has_ssh=False)  # it was paused meanwhile


@contextlib.contextmanager
def live(vm: BaseMachine, note: LaunchRecord, record: Record) -> Iterator[Live]:
    """The store of the record's disks in the QEMU that has them open; no job runs, the guest is thawed."""
    wanted = {os.path.realpath(path) for _, path in record.disks}
    with state.Answering(vm):
        exchange = _patient(vm, note)
    with exchange, state.Answering(vm, ConnectionError, TimeoutError):
        blocks = exchange.ask("query-block", timeout_s=qmp.ANSWER_S)
        found = [each for each in volumes.of_blocks(vm, blocks) if os.path.realpath(each.path) in wanted]
        store = Live(vm, volumes.written(found), exchange)
        store.jobs.drain()
        if record.is_frozen:
            filesystems.thaw(note)
        yield store


def _patient(vm: BaseMachine, note: LaunchRecord) -> qmp.Exchange:
    """A conversation with a QEMU that may still be busy with what a command has begun.

    While it saves or loads memory it does not answer and cannot be stopped. The wait lasts as long as it
    makes progress; another Ctrl-C ends it.

    Raises:
        OSError: it does not answer.
    """
    exchange = qmp.Exchange(note.socket("session"), state.GREETING_S)
    try:
        if not exchange.is_readable(SHORT_S):
            pid = locks.holder(vm.files.pid_file) or 0
            moved, since = process.moved_bytes(pid), time.monotonic()
            with vm.io.stage("waiting for QEMU, which cannot be interrupted now"):
                while not exchange.is_readable(SHORT_S):
                    before, moved = moved, process.moved_bytes(pid)
                    since = time.monotonic() if moved != before else since
                    limit_s = state.GREETING_S if process.is_stopped(pid) else HANGS_S
                    if time.monotonic() - since > limit_s or process.is_interrupted():
                        raise TimeoutError("QEMU does not answer")
        return exchange.negotiate()
    except BaseException:
        exchange.close()
        raise


def _back_live(vm: BaseMachine, note: LaunchRecord, record: Record, store: Live) -> str:
    """The guest's disks and memory may not fit together: back to what was before, or its end."""
    if record.has_memory and store.is_whole(BACK):
        try:
            store.apply(BACK)
        except QmpError as error:
            vm.io.warn(f"{vm.name}: {error.what}")
        else:
            guest.close(vm, note)
            loaded(vm, note)
            if record.was_running:
                sleep.resume(store.exchange)
            store.delete(BACK)
            if record.was_running:
                put_clock_right(vm, note, has_ssh=False)
            return "was undone: the guest is as before"
    return _back_off(vm, note, record) + "; QEMU had to be killed"


def _back_off(vm: BaseMachine, note: LaunchRecord, record: Record) -> str:
    """Kill a QEMU whose guest must never run, and put its disks back."""
    pid = locks.holder(vm.files.pid_file)
    if pid is not None:
        with process.Process(pid) as handle:
            kill.end_qemu(handle, note)
        host_files.remove(vm.files.pid_file)  # left by SIGKILL; it did not crash
    return recover_off(vm, record, _STEPS[record.kind])


def loaded(vm: BaseMachine, note: LaunchRecord) -> None:
    """The guest's memory is complete now."""
    note.loading = ""
    note.write(vm.files.launch_record)


# While it is off


def recover_off(vm: BaseMachine, record: Record, step: Step) -> str:
    """Carry out a step on the images of a machine that is off."""
    own = {os.path.realpath(each.path) for each in volumes.configured(vm)}
    disks = [Volume(name, path, "qcow2") for name, path in record.disks]
    gone = [
        each for each in disks if not os.path.lexists(each.path) and os.path.realpath(each.path) not in own
    ]
    store = Images(vm, [each for each in disks if each not in gone])
    store.require_free()
    outcome = step(store, record)
    store.repair_leaks()
    return "; ".join(
        [outcome, *(f"{each.name} is missing and is no longer a disk of the machine" for each in gone)]
    )


# What is done for each


def _save(store: Store, record: Record) -> str:
    name, new = record.name, record.name + snapshot_names.NEW
    if record.phase is Phase.BEGIN:  # nothing was there of this name
        if store.is_whole(name):
            return _kept(store, record, name)
        store.delete(name)
        return "was undone: no disk has it"
    if record.phase is Phase.REPLACE:  # nothing has been done yet
        return "was undone: the older snapshot of that name was kept"
    if record.phase is Phase.NEW:  # beside the one that it replaces
        store.delete(new)
        return "was undone: the older snapshot of that name was kept"
    if record.phase is Phase.AGAIN and store.is_whole(name):
        store.delete(new)
        return _kept(store, record, name)
    if store.is_whole(new):  # `resolve` finds it under its name
        store.delete(name)
        return _kept(store, record, new)
    return "was undone"


def _kept(store: Store, record: Record, tag: str) -> str:
    if record.entry:
        Catalogue.read(store.vm).add(catalogue.completed(store, dict(record.entry), tag))
    return "was complete: it was kept"


def _delete(store: Store, record: Record) -> str:
    if store.is_whole(record.name):
        return "was undone: all disks have it"
    for tag in (record.name, record.name + snapshot_names.NEW):
        store.delete(tag)
    left = [name for name, path in record.disks if _has(path, record.name)]
    if left:  # QEMU forgets a snapshot whose table it could not write (7.2); the file still has it
        raise QvmError(f"QEMU could not write the table of {', '.join(left)}", hint="is the disk full?")
    Catalogue.read(store.vm).remove(record.name)
    return "was completed: no disk has it"


def _restore(store: Store, record: Record) -> str:
    if record.phase is Phase.LOAD and store.is_whole(BACK):
        store.bitmaps()
        store.apply(BACK)
    store.delete(BACK)
    if record.phase is Phase.CLEAN:
        Catalogue.read(store.vm).moved_to(record.name)
        return "was complete"
    return "was undone: the disks are as before"


_STEPS = {
    Kind.SNAPSHOT_SAVE: _save,
    Kind.SNAPSHOT_DELETE: _delete,
    Kind.SNAPSHOT_RESTORE: _restore,
    Kind.SNAPSHOT_LOAD: _restore,
}
