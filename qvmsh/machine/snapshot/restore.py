"""Going back to a snapshot: all disks, and the memory of a machine that is on, or nothing.

    restore(vm, "ready", is_forced=False, is_waiting=True)
    load(vm, note, "ready", is_forced=False)        # `start --loadvm`: into a QEMU that waits (-S)

The current state is kept as a snapshot of its own until the other one is complete.
"""

from __future__ import annotations

import time

from qvmsh.errors import CommandError, GuestUnreachableError, ImageError, QmpError, StateError
from qvmsh.machine import log, state
from qvmsh.machine.guest import readiness, sleep
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest.clock import put_clock_right
from qvmsh.machine.guest.shares import aside as shares
from qvmsh.machine.guest.shares import devices, mounts, plan
from qvmsh.machine.journal import Journal, Kind, Phase, Record
from qvmsh.machine.snapshot import consistency, hardware, obstacles, of_s2e
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.recovery import BACK, loaded
from qvmsh.machine.snapshot.reports import NEXT_IS_WHOLE, SnapshotRestored, word
from qvmsh.machine.snapshot.store import Images, Live, Store, live, named, opened, resolve
from qvmsh.machine.storage import dependents, own_disk, volumes
from qvmsh.machine.work.lock import work_lock
from qvmsh.machine.work.recovery import Transaction
from qvmsh.qemu import ich9, qcow2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine


@log.failures
def restore(
    vm: BaseMachine, name: str, *, is_forced: bool, is_waiting: bool, timeout_s: float | None = None
) -> SnapshotRestored:
    """Put the machine back; see `commands.snapshot`."""
    began = time.monotonic()
    with work_lock(vm, "snapshot restore"), opened(vm, "restore a snapshot") as (store, disks, seen):
        known = Catalogue.read(vm)
        name = named(store, name, known.entries)
        of_s2e.require_not(vm, name)
        entry = known.entries.get(name)
        left = consistency.without(volumes.written(disks), store.on(name), entry) if is_forced else []
        if left and not isinstance(store, Live):
            store = Images(vm, [each for each in store.volumes if each not in left])
            disks = [each for each in disks if each not in left]
        obstacles.require(vm, disks, "restore a snapshot")
        tag = resolve(store, name, entry)
        if isinstance(store, Live) and not store.memory_bytes(tag):
            raise StateError(
                f"the snapshot {name} holds only disks, no memory; the machine is {seen.kind}",
                machine=vm.name,
                hint=f"`qvm stop`, then `qvm snapshot restore {word(name)}`, then `qvm start`",
                actual=seen.kind,
            )
        consistency.require_one_moment(vm, store.volumes, store.on(tag), name, entry, is_forced=is_forced)
        _require_fitting(store, name, tag, entry, is_forced=is_forced)
        if not is_forced:
            paths = [each.path for each in store.volumes]
            dependents.require_top(vm, paths, "restore a snapshot", has_disposable=False)
        if isinstance(store, Live):
            count = _without_shares(store, seen, name, tag, (entry or {}).get("shares") or ())
        else:
            count = _restore_off(store, name, tag)
        known.moved_to(name)
    ids = [each.id for each in store.volumes]
    log.note(vm, f"restored the snapshot {name}")
    if not seen.is_live or seen.note is None or seen.pid is None:
        seconds = time.monotonic() - began
        report = SnapshotRestored(vm.name, name, ids, seconds, memory=False, bitmaps=count)
        report.has_memory_left = bool(store.memory_bytes(tag)) and not left
        report.left = [each.id for each in left]
        return report
    is_ready: bool | None = None
    clock = ""
    places = []
    if seen.kind == state.PAUSED:
        clock = "`qvm resume` resumes it and sets its clock"
    elif is_waiting:
        is_ready = readiness.await_guest(vm, "snapshot restore", seen.pid, seen.note, timeout_s) or None
        if is_ready:
            places = mounts.wanted(plan.of_record(seen.note))
        clock = put_clock_right(vm, seen.note)
    shares.put_back(vm, seen.note, places)
    seconds = time.monotonic() - began
    return SnapshotRestored(
        vm.name, name, ids, seconds, memory=True, ready=is_ready, clock=clock, bitmaps=count
    )


def _require_fitting(
    store: Store, name: str, tag: str, entry: dict[str, Any] | None, *, is_forced: bool, is_new: bool = False
) -> None:
    """Refuse (or, for disks only, warn) if disks or hardware differ from those of the snapshot.

    Args:
        is_new: the QEMU was started to load it.
    """
    vm = store.vm
    if isinstance(store, Live):
        store.require_no_number(tag)
    gone = consistency.gone(store.volumes, entry)
    if gone and not is_forced:
        raise StateError(
            f"the snapshot {name} includes {', '.join(gone)}, which is no longer a disk of the machine",
            machine=vm.name,
            hint="add it to VM_DISKS again; `--force` restores the others without it",
        )
    other = hardware.differences(vm, entry or {})
    if isinstance(store, Live):
        absent = devices.missing(store.exchange, (entry or {}).get("shares") or ())
        if absent and not is_forced:
            raise StateError(
                f"the snapshot {name} was saved with the share {absent[0]}, which is not attached now",
                machine=vm.name,
                hint=f"add its line to VM_SHARE, and {'then start' if is_new else '`qvm restart`'}; its "
                "directory may be another one",
            )
        now, then = hardware.versions(store.exchange)["machine"], (entry or {}).get("machine")
        if then and now != then:
            other.insert(0, f"the machine type was {then}, and is {now}")
        if other and not is_forced:
            words = ["qvm", *hardware.remedy(vm, entry or {}), "start --loadvm", word(name)]
            way = f"`{' '.join(words)}` starts with its hardware"
            raise StateError(
                f"the hardware differs from that of the snapshot {name}: {other[0]}",
                machine=vm.name,
                details=other[1:],
                hint=f"{way if is_new else f'`qvm stop`, then {way}'}; `--force` tries anyway, and "
                "undoes it on failure",
            )
        if is_new and then:
            _tell_of_alias(store, then)
    elif store.memory_bytes(tag):
        for each in other:
            vm.io.warn(f"{vm.name}: {each}: the memory of {name} will not load")


def _tell_of_alias(store: Live, then: str) -> None:
    """Warn that the guest has the machine type of its snapshot if the alias means another now."""
    vm = store.vm
    kind = vm.settings.text("VM_QEMU_MACHINE").partition(",")[0]
    means = [each["name"] for each in store.exchange.ask("query-machines") if each.get("alias") == kind]
    if means and means[0] != then and not own_disk.is_by_hand(vm):
        vm.io.warn(
            f"{vm.name}: runs as {then}, as it was saved; {kind} means {means[0]} in this QEMU, "
            "from the next start on"
        )


def _put_back(store: Store, journal: Journal, tag: str, *, has_memory: bool, stage: str) -> int:
    """Put the disks (and the memory) back; the state before stays as `BACK`, the journal is at "clean".

    Args:
        has_memory: the memory is kept too.

    Returns:
        How many dirty bitmaps were removed.
    """
    io = store.vm.io
    store.delete(BACK)  # of a restore whose journal is gone
    with io.stage("keeping the current state"):
        store.create(BACK, has_memory=has_memory)
    journal.write(phase=Phase.LOAD)
    count = store.bitmaps()
    with io.stage(stage):
        store.apply(tag)
    journal.write(phase=Phase.CLEAN)
    return count


def _restore_off(store: Store, name: str, tag: str) -> int:
    with Transaction(store.vm, Record(Kind.SNAPSHOT_RESTORE, name=name, disks=store.named())) as journal:
        count = _put_back(store, journal, tag, has_memory=False, stage=f"restoring {name}")
        store.delete(BACK)
    return count


def _without_shares(
    store: Live, seen: state.Observation, name: str, tag: str, attached: Sequence[str]
) -> int:
    """Load with those shares only that the snapshot was saved with; the others come back afterwards.

    Args:
        attached: the tags of those.
    """
    assert seen.note is not None
    try:
        with shares.put_aside(store.vm, seen.note, keeps=attached, is_last=True, qemu=store.exchange):
            return _restore_live(store, seen, name, tag)
    except (CommandError, GuestUnreachableError) as error:
        error.hint = f"`qvm kill`, then `qvm start --loadvm {word(name)}` does without the guest"
        error.what = f"cannot unmount the shares of the guest, which the snapshot {name} lacks: {error.what}"
        raise


def _restore_live(store: Live, seen: state.Observation, name: str, tag: str) -> int:
    """Load into the running QEMU; the state before is kept until the new one is complete."""
    vm, note = store.vm, seen.note
    assert note is not None
    assert seen.pid is not None
    is_running = seen.kind != state.PAUSED
    registers = ich9.read(store.exchange) if seen.kind == state.SUSPENDED else None
    has_way_back = not (
        obstacles.of_devices(store.exchange)
        or obstacles.of_room(store.volumes[0], obstacles.memory_bytes(seen.pid))
    )
    record = Record(
        Kind.SNAPSHOT_RESTORE, name=name, disks=store.named(), was_running=is_running, has_memory=has_way_back
    )
    with Transaction(vm, record, store.exchange) as journal:
        sleep.hold(store.exchange, registers)
        note.loading = name
        note.write(vm.files.launch_record)
        count = _put_back(store, journal, tag, has_memory=has_way_back, stage=f"restoring {name}")
        note.paused_s = 0
        loaded(vm, note)
        guest.close(vm, note)
        if is_running:
            sleep.resume(store.exchange)
        store.delete(BACK)
    return count


def load(vm: BaseMachine, note: LaunchRecord, name: str, *, is_forced: bool) -> None:
    """Load a snapshot into a QEMU that was started with `-S`, and let the guest run.

    If the disks have not changed since, as after `stop --savevm`, there is nothing to lose, and no way back
    is kept.

    Args:
        is_forced: although the hardware differs.

    Raises:
        StateError: there is no such snapshot on every disk, it has no memory, or it does not fit.
        QmpError: QEMU cannot load it. The disks are as before; the guest must never run: kill QEMU.
    """
    with live(vm, note) as (store, disks):
        obstacles.require(vm, disks, "load a snapshot")
        known = Catalogue.read(vm)
        entry = known.entries.get(name)
        tag = resolve(store, name, entry)
        if not store.memory_bytes(tag):
            raise StateError(
                f"the snapshot {name} holds only disks, no memory",
                machine=vm.name,
                hint=f"`qvm snapshot restore {word(name)}` restores the disks while the machine is off",
            )
        consistency.require_one_moment(vm, store.volumes, store.on(tag), name, entry)
        _require_fitting(store, name, tag, entry, is_forced=is_forced, is_new=True)
        try:
            count = _load(store, note, name, tag)
        except QmpError as error:
            error.machine = vm.name
            error.what = f"cannot load the snapshot {name}: {error.what.removeprefix('snapshot-load: ')}"
            error.details = (*hardware.differences(vm, entry or {}), *error.details)
            error.hint = error.hint or (
                "it was saved with other hardware or by another QEMU: set machine type, memory, vcpus "
                "and devices as they were"
            )
            raise
        known.moved_to(name)
    if count:
        vm.io.warn(f"{vm.name}: {NEXT_IS_WHOLE}")


def _load(store: Live, note: LaunchRecord, name: str, tag: str) -> int:
    """Load, and resume the guest; return how many dirty bitmaps were removed."""
    vm, stage = store.vm, f"loading the state {name}"
    if _is_as_then(store, tag):
        count = store.bitmaps()
        with vm.io.stage(stage):
            store.apply(tag)
        loaded(vm, note)
        sleep.resume(store.exchange)
        return count
    record = Record(Kind.SNAPSHOT_LOAD, name=name, disks=store.named(), was_running=True)
    with Transaction(vm, record, store.exchange) as journal:
        count = _put_back(store, journal, tag, has_memory=False, stage=stage)
        loaded(vm, note)
        sleep.resume(store.exchange)
        store.delete(BACK)
    return count


def _is_as_then(store: Live, tag: str) -> bool:
    """True if nothing was written to any disk since the snapshot; of a QEMU whose guest has not run yet."""
    try:
        return all(qcow2.is_as_then(each.path, store.tags(each)[tag].id) for each in store.volumes)
    except (OSError, ValueError, ImageError):  # what cannot be compared might be lost
        return False
