"""Going back to a snapshot: all disks, and the memory of a machine that is on, or nothing.

May import: `host`, `qemu`, `machine`.

    restore(vm, "ready", is_forced=False, is_waiting=True)

The present state is kept as a snapshot of its own until the other one is whole.
"""

from __future__ import annotations

import time

from qvmsh.errors import StateError
from qvmsh.machine import (
    blockers,
    catalogue,
    guest,
    launch,
    log,
    owner,
    ready,
    saved,
    snapshot_fit,
    snapshots,
    state,
    volumes,
)
from qvmsh.machine.catalogue import Catalogue
from qvmsh.machine.snapshot_reports import SnapshotRestored, word
from qvmsh.machine.snapshot_store import Images, Live, Store
from qvmsh.machine.unfinished import BACK, Journal
from qvmsh.qemu import ich9

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import Machine


@log.failures
def restore(
    vm: Machine, name: str, *, is_forced: bool, is_waiting: bool, timeout_s: float | None = None
) -> SnapshotRestored:
    """Put the machine back; see `commands.snapshot`."""
    began = time.monotonic()
    with (
        launch.work_lock(vm, "snapshot restore"),
        snapshots.opened(vm, "restore a snapshot") as (store, disks, seen),
    ):
        known = Catalogue.read(vm)
        entry = known.entries.get(name)
        left = snapshot_fit.without(volumes.written(disks), store.on(name), entry) if is_forced else []
        if left and not isinstance(store, Live):
            store = Images(vm, [each for each in store.volumes if each not in left])
            disks = [each for each in disks if each not in left]
        blockers.require(vm, disks, "restore a snapshot")
        tag = snapshots.resolve(store, name, entry)
        _require_fitting(store, name, tag, entry, seen, is_forced=is_forced)
        if isinstance(store, Live):
            count = _restore_live(store, seen, name, tag)
        else:
            count = _restore_off(store, name, tag)
        known.moved_to(name)
        owner.share(vm)
    ids = [each.id for each in store.volumes]
    log.note(vm, f"restored the snapshot {name}")
    if not seen.is_live or seen.note is None or seen.pid is None:
        has_memory = bool(store.memory_bytes(tag)) and not left
        seconds = time.monotonic() - began
        return SnapshotRestored(
            vm.name, name, ids, seconds, memory=False, bitmaps=count, has_memory_left=has_memory,
            left=[each.id for each in left],
        )  # fmt: skip
    is_ready: bool | None = None
    clock = ""
    if seen.kind == state.PAUSED:
        clock = "`qvm resume` lets it go on, and puts its clock right"
    elif is_waiting and seen.note.ssh_port:
        with ready.waiting(vm, "snapshot restore"), vm.io.stage("waiting for ssh"):
            limit_s = ready.attempt_seconds(vm) if timeout_s is None else timeout_s
            ready.wait(vm, seen.pid, seen.note, timeout_s=limit_s)
        clock = saved.put_clock_right(vm, seen.note)
        is_ready = True
    seconds = time.monotonic() - began
    return SnapshotRestored(
        vm.name, name, ids, seconds, memory=True, ready=is_ready, clock=clock, bitmaps=count
    )


def _require_fitting(
    store: Store, name: str, tag: str, entry: dict[str, Any] | None, seen: state.Observation, *,
    is_forced: bool,
) -> None:  # fmt: skip
    """Refuse (or, for disks alone, warn) where moment, disks or hardware are not those of then.

    Raises:
        StateError: disks of different moments; memory for other hardware; a disk that has gone.
    """
    vm, has_memory = store.vm, bool(store.memory_bytes(tag))
    if isinstance(store, Live):
        if not has_memory:
            raise StateError(
                f"the snapshot {name} holds only disks, no memory; the machine is {seen.kind}",
                machine=vm.name,
                hint=f"`qvm stop`, then `qvm snapshot restore {word(name)}`, then `qvm start`",
                actual=seen.kind,
            )
        store.require_no_number(tag)
    snapshots.require_one_moment(store, name, tag, entry, is_forced=is_forced)
    gone = snapshot_fit.gone(store.volumes, entry)
    if gone and not is_forced:
        raise StateError(
            f"the snapshot {name} was taken with {', '.join(gone)} too, which is no disk of the machine now",
            machine=vm.name,
            hint="put it back into VM_DISKS; `--force` restores the others without it",
        )
    other = catalogue.differences(vm, entry or {})
    if isinstance(store, Live):
        now, then = snapshots.versions(store.exchange)["machine"], (entry or {}).get("machine")
        if then and now != then:
            other.insert(0, f"the machine type was {then}, and is {now}")
        if other and not is_forced:
            raise StateError(
                f"the hardware is not that of the snapshot {name}: {other[0]}",
                machine=vm.name,
                details=other[1:],
                hint="set it as it was and restart; `--force` tries, and undoes what cannot be loaded",
            )
    elif has_memory:
        for each in other:
            vm.io.warn(f"{vm.name}: {each}: the memory of {name} will not load so")


def _restore_off(store: Store, name: str, tag: str) -> int:
    vm = store.vm
    journal = Journal(store, "restore", name, was_running=False, has_memory=False)
    with vm.io.stage(f"restoring {name}"), journal:
        store.create(BACK, has_memory=False)
        journal.write(phase="load")
        count = store.bitmaps()
        store.apply(tag)
        journal.write(phase="clean")
        store.delete(BACK)
    return count


def _restore_live(store: Live, seen: state.Observation, name: str, tag: str) -> int:
    """Load into the QEMU that runs; the state before it is kept until the new one is whole."""
    vm, note = store.vm, seen.note
    assert note is not None
    assert seen.pid is not None
    is_running = seen.kind != state.PAUSED
    registers = ich9.read(store.exchange) if seen.kind == state.SUSPENDED else None
    has_way_back = not (
        blockers.of_devices(store.exchange)
        or blockers.of_room(store.volumes[0], blockers.memory_bytes(seen.pid))
    )
    journal = Journal(store, "restore", name, was_running=is_running, has_memory=has_way_back)
    with journal:
        saved.hold(store.exchange, registers)
        with vm.io.stage("keeping the present state"):
            store.create(BACK, has_memory=has_way_back)
        journal.write(phase="load")
        note.loading = name
        note.write(vm.files.note)
        count = store.bitmaps()
        with vm.io.stage(f"restoring {name}"):
            store.apply(tag)
        journal.write(phase="clean")
        note.loading = ""
        note.is_clock_behind = not is_running
        note.write(vm.files.note)
        guest.close(vm, note)
        if is_running:
            saved.let_go(store.exchange)
        store.delete(BACK)
    return count
