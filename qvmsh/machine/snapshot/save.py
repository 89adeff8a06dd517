"""Saving a snapshot of a whole machine, on or off: on all disks, or on none.

    save(vm, "ready", Request(message="before the upgrade"))

`stop --savevm` uses `take` too. Work that was interrupted is in the journal (`machine.journal`).
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace

from qvmsh.errors import StateError
from qvmsh.host import process
from qvmsh.machine import log, programs, snapshot_names, state
from qvmsh.machine.guest import filesystems, sleep
from qvmsh.machine.guest.clock import put_clock_right_after
from qvmsh.machine.guest.shares import aside as shares
from qvmsh.machine.guest.shares import devices, plan
from qvmsh.machine.journal import Journal, Kind, Phase, Record
from qvmsh.machine.snapshot import catalogue, hardware, obstacles, prune
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.prune import EVERYTHING, Keep
from qvmsh.machine.snapshot.reports import SnapshotSaved
from qvmsh.machine.snapshot.store import Live, Store, opened
from qvmsh.machine.work.lock import work_lock
from qvmsh.machine.work.recovery import Transaction
from qvmsh.qemu import ich9, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.storage.volumes import Volume

NEXT_S = 0.05
"""How often a snapshot whose name is the time checks for the next second."""


@dataclass(frozen=True)
class Request:
    """The options of `snapshot save`; see its help."""

    message: str = ""
    disk_only: bool = False
    is_replacing: bool = False
    has_freeze: bool = True
    has_stamp: bool = False
    unmounts: bool = False
    keep: Keep = EVERYTHING


@log.failures
def save(vm: BaseMachine, name: str, request: Request) -> SnapshotSaved:
    """Take a snapshot; see `commands.snapshot`.

    Args:
        name: its name; with `has_stamp`, what comes after the time ("": nothing does).
    """
    request.keep.require_sense("snapshot save")
    snapshot_names.require_name(vm, snapshot_names.stamped(name) if request.has_stamp else name)
    with work_lock(vm, "snapshot save"):
        seen = state.observe(vm)
        if request.disk_only or not request.unmounts or seen.kind != state.RUNNING or seen.note is None:
            return save_and_prune(vm, name, request)
        with shares.put_aside(vm, seen.note):
            return save_and_prune(vm, name, request)


def save_and_prune(vm: BaseMachine, name: str, request: Request) -> SnapshotSaved:
    """Take a snapshot, and then remove old ones of its series; the work lock is held."""
    report = _save(vm, name, request)
    if request.keep.is_asked:
        report.pruned = prune.after_save(vm, report.snapshot, request.keep)
    return report


def _save(vm: BaseMachine, name: str, request: Request) -> SnapshotSaved:
    began = time.monotonic()
    with opened(vm, "save a snapshot") as (store, disks, seen):
        if request.has_stamp:
            name = _stamped(store, name)
        if not isinstance(store, Live):
            entry = _save_off(store, disks, name, request)
            woken = is_on = False
        else:
            assert seen.note is not None
            has_memory = not request.disk_only
            _require_able(store, disks, seen, has_memory=has_memory)
            registers = ich9.read(store.exchange) if seen.kind == state.SUSPENDED else None
            entry = take(
                store, seen.note, name, request,
                kind=seen.kind, registers=registers, pid=seen.pid or 0, stays_held=False,
            )  # fmt: skip
            is_on = has_memory and store.exchange.ask("query-status")["status"] == "running"
            woken = seen.kind == state.SUSPENDED and is_on
    clock = ""
    held_s = time.monotonic() - began
    if is_on and seen.note is not None:
        clock = put_clock_right_after(vm, seen.note, held_s)
    ids = [each.id for each in store.volumes]
    log.note(vm, f"saved the snapshot {name} on {', '.join(ids)}")
    return SnapshotSaved(vm.name, entry, ids, held_s, woken=woken, clock=clock)


def _stamped(store: Store, name: str) -> str:
    """A name with the time in front that is free: of two in one second the other waits for the next."""
    while store.holders(found := snapshot_names.stamped(name)):
        process.wait_readable([], NEXT_S, store.vm.io.checkpoint)
    return found


def _require_able(store: Live, disks: list[Volume], seen: state.Observation, *, has_memory: bool) -> None:
    obstacles.require(
        store.vm, disks, "save a snapshot", exchange=store.exchange, pid=seen.pid, has_memory=has_memory
    )


def _save_off(store: Store, disks: list[Volume], name: str, request: Request) -> dict[str, Any]:
    vm = store.vm
    obstacles.require(vm, disks, "save a snapshot")
    known = Catalogue.read(vm)
    entry = catalogue.entry(
        store, name, message=request.message, parent=_parent(known, store, name), has_memory=False,
        qemu=qemuimg.version(programs.qemu_img(vm)), machine="", arguments=[],
    )  # fmt: skip
    is_there = _require_new(store, name, request)
    with (
        vm.io.stage(f"saving {name}"),
        Transaction(vm, _record(store, name, entry, is_there=is_there)) as journal,
    ):
        _create(store, name, journal, has_memory=False, is_there=is_there)
        entry = catalogue.completed(store, entry)
        known.add(entry)
    return entry


def _record(store: Store, name: str, entry: dict[str, Any], *, is_there: bool) -> Record:
    """Of a save; one of the same name stays until the new one is complete."""
    phase = Phase.REPLACE if is_there else Phase.BEGIN
    return Record(Kind.SNAPSHOT_SAVE, phase, name=name, disks=store.named(), entry=entry)


def _parent(known: Catalogue, store: Store, name: str) -> str:
    """The snapshot that the current state is based on, if it still exists."""
    head = known.head
    if head == name:  # replaced by its own successor
        head = str(known.entries.get(name, {}).get("parent") or "")
    return head if head and store.holders(head) else ""


def _require_new(store: Store, name: str, request: Request) -> bool:
    """True if there is already one of that name, which may be replaced."""
    store.require_one(name)
    is_there = bool(store.holders(name) or store.holders(name + snapshot_names.NEW))
    if is_there and not request.is_replacing:
        raise StateError(
            f"the snapshot {name} already exists",
            machine=store.vm.name,
            hint="choose another name, or `--replace` it; `--timestamp` prefixes the time",
        )
    return is_there


def _create(store: Store, name: str, journal: Journal, *, has_memory: bool, is_there: bool) -> None:
    """Take the snapshot; one of the same name is removed when the new one is complete."""
    if not is_there:
        store.create(name, has_memory=has_memory)
        return
    new = name + snapshot_names.NEW
    if not store.is_whole(new) or store.holders(name):
        journal.write(phase=Phase.NEW)
        store.delete(new)
        store.create(new, has_memory=has_memory)
    journal.write(phase=Phase.OLD)
    store.delete(name)
    journal.write(phase=Phase.AGAIN)
    store.create(name, has_memory=has_memory)
    store.delete(new)


def take(
    store: Live,
    note: LaunchRecord,
    name: str,
    request: Request,
    *,
    kind: str,
    registers: ich9.Registers | None,
    pid: int,
    stays_held: bool,
) -> dict[str, Any]:
    """Take a snapshot of a machine that is on; its metadata. The work lock is held.

    Args:
        kind: its state: running, paused or suspended.
        registers: what q35 needs to wake up, None elsewhere.
        stays_held: the guest stays paused afterwards (`stop --savevm`), unless this fails.
    """
    vm, has_memory = store.vm, not request.disk_only
    is_there = _require_new(store, name, request)
    known = Catalogue.read(vm)
    is_running = kind == state.RUNNING or (kind == state.SUSPENDED and has_memory)
    entry = catalogue.entry(
        store, name, message=request.message, parent=_parent(known, store, name), has_memory=has_memory,
        arguments=process.arguments(pid), **hardware.versions(store.exchange),
    )  # fmt: skip
    if has_memory:
        entry["shares"] = devices.tags(store.exchange, plan.of_record(note))
    record = replace(
        _record(store, name, entry, is_there=is_there), was_running=is_running, has_memory=has_memory
    )
    with vm.io.stage(f"saving {name}") as stage, Transaction(vm, record, store.exchange) as journal:
        if has_memory:
            if kind == state.SUSPENDED or stays_held:
                sleep.hold(store.exchange, registers)
            _create(store, name, journal, has_memory=True, is_there=is_there)
            if not stays_held and kind == state.SUSPENDED:
                sleep.resume(store.exchange)
        else:
            with _at_rest(vm, note, journal, kind, has_freeze=request.has_freeze) as is_frozen:
                entry["frozen"] = is_frozen
                _create(store, name, journal, has_memory=False, is_there=is_there)
        entry = catalogue.completed(store, entry)
        known.add(entry)
        stage.note = f"{entry['vmstate_bytes'] >> 20} MiB of memory" if has_memory else ""
    return entry


@contextlib.contextmanager
def _at_rest(
    vm: BaseMachine, note: LaunchRecord, journal: Journal, kind: str, *, has_freeze: bool
) -> Iterator[bool]:
    """The guest's file systems frozen by its agent for the moment; else written out (`sync`).

    Yields:
        True if they are frozen.
    """
    if not has_freeze or kind != state.RUNNING:
        yield False
        return
    inside = filesystems.Freezing(vm, note)
    inside.write_out()
    if not inside.has_agent:
        yield False
        return
    try:
        journal.write(is_frozen=True)
        yield inside.freeze()
    finally:
        inside.thaw()
        journal.write(is_frozen=False)
