"""Work on the overlays of a machine that is on: commit and flatten, by QEMU's block jobs.

    commit(vm, seen, disk)         # block-commit; then the base goes under a fresh, empty overlay

At the end of a commit QEMU works on the base itself. The guest is paused from then until the new overlay is
in place: it must not write to the base, since a start would not see that. So after any kill overlay and base
together hold the same data, and recovery completes or undoes the change.
Source: QEMU docs/interop/live-block-operations.rst; measured on 7.2.
"""

from __future__ import annotations

from qvmsh.errors import StateError
from qvmsh.machine import state
from qvmsh.machine.disk import recovery
from qvmsh.machine.guest import sleep
from qvmsh.machine.journal import Kind, Phase, Record
from qvmsh.machine.snapshot.store import Live, live
from qvmsh.machine.storage import chain
from qvmsh.machine.work.recovery import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.storage.volumes import Volume


def commit(vm: BaseMachine, seen: state.Observation, disk: Volume) -> None:
    """Write the overlay's data into its base; the guest keeps running, and has an empty overlay at the end.

    Raises:
        StateError: it does not run, or qvm did not attach the disk.
        QmpError: QEMU failed; the disk is as before.
    """
    pid, note = state.require(vm, seen, "commit a disk", state.RUNNING, state.PAUSED)
    if not recovery.options_of(pid, disk.node):
        is_by_words = disk.source == "words"
        why = (
            "it is named in VM_QEMU_EXTRA or VM_QEMU_ARGS"
            if is_by_words
            else "it was added while the machine was on"
        )
        raise StateError(
            f"cannot commit {disk.id} while it runs: {why}", machine=vm.name, hint="`qvm stop` first"
        )
    with live(vm, note) as (found, disks):
        store = Live(vm, [each for each in disks if each.node == disk.node], found.exchange)
        block = recovery.block_of(store, disk.node)
        is_running = seen.kind == state.RUNNING
        record = Record(Kind.DISK_COMMIT, name=disk.id, disks=store.named(), was_running=is_running)
        with vm.io.stage(f"committing {disk.name}"), Transaction(vm, record, store.exchange) as journal:
            journal.write(device=block.device, node=disk.node)
            recovery.new_layer(vm, disk.path)  # while there is a way back, from a full disk for example
            words = {"job-id": recovery.COMMIT, "device": disk.node, "auto-dismiss": False}
            if block.layers > 1:
                words["base"] = block.backing
            store.jobs.execute("block-commit", words)
            job = store.jobs.until(recovery.COMMIT, "ready")
            if job is None or job["status"] != "ready":
                store.jobs.finish(recovery.COMMIT, "block-commit")
            store.exchange.ask("stop", timeout_s=30.0)
            journal.write(phase=Phase.PIVOT)
            store.jobs.execute("job-complete", {"id": recovery.COMMIT})
            store.jobs.finish(recovery.COMMIT, "block-commit")
            recovery.under_new_layer(store, disk.path, disk.node, block.device, pid)
            if is_running:
                sleep.resume(store.exchange)


def flatten(vm: BaseMachine, seen: state.Observation, disk: Volume) -> None:
    """Copy all that the overlay reads from below into it (`block-stream`).

    QEMU removes the base from the header before it writes where the data is, which it keeps in memory until
    a flush: killed in between, the disk would lose the data from below. So the journal has the old base
    until everything is flushed.

    Raises:
        StateError: it does not run.
        QmpError: QEMU failed; the disk has its old base.
    """
    _, note = state.require(vm, seen, "rebase a disk", state.RUNNING, state.PAUSED)
    with live(vm, note) as (store, disks):
        one = Live(vm, [each for each in disks if each.node == disk.node], store.exchange)
        record = Record(Kind.DISK_REBASE, name=disk.id, disks=one.named())
        with vm.io.stage(f"rebasing {disk.name}"), Transaction(vm, record, one.exchange) as journal:
            top, below = chain.layers(disk.path, "qcow2", vm.name, vm.directory)[:2]
            assert top.header is not None
            journal.write(backing=top.header.backing, backing_format=below.format)
            words = {"job-id": recovery.STREAM, "device": disk.node, "auto-dismiss": False}
            store.jobs.execute("block-stream", words)
            store.jobs.finish(recovery.STREAM, "block-stream")
            recovery.flush(store, disk.node)
