"""Saving, restoring and deleting snapshots of a whole machine, on or off: on all disks, or on none.

May import: `host`, `qemu`, `machine`.

    save(vm, "ready", Request(message="before the upgrade"))
    restore(vm, "ready", is_forced=False, is_waiting=True)

`stop --savevm` and `start --loadvm` stand on the same: `take` and `resolve`. What was under way when a
command ended is in the journal (`machine.unfinished`).
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

from qvmsh.errors import QmpError, QvmError, StateError, UsageError
from qvmsh.machine import (
    blockers,
    catalogue,
    guest,
    launch,
    log,
    owner,
    ready,
    saved,
    state,
    unfinished,
    volumes,
)
from qvmsh.machine.catalogue import Catalogue
from qvmsh.machine.reports import Report
from qvmsh.machine.snapshot_store import Images, Live, Store
from qvmsh.machine.unfinished import BACK, Journal
from qvmsh.qemu import ich9, qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from qvmsh.machine.machine import Machine
    from qvmsh.machine.note import Note
    from qvmsh.machine.volumes import Volume
    from qvmsh.qemu.qmp import Exchange

STAMP = "%Y-%m-%dT%H-%M-%S"
"""The form of a label that is made. Source: vmctl.sh."""

FREEZE_S = 30.0


@dataclass(frozen=True)
class Request:
    """The options of `snapshot save`; see its help."""

    message: str = ""
    disk_only: bool = False
    is_replacing: bool = False
    has_freeze: bool = True


class SnapshotSaved(Report):
    """Result of `snapshot save`.

    Args:
        snapshot: its name.
        disks: ids of the disks that have it.
        memory: it holds the memory.
        vmstate_bytes: size of that.
        frozen: the guest's file systems were frozen for it; None where that says nothing (off, memory).
        seconds: of the whole.
        woken: a guest that slept had to be woken for it (QEMU before 9.0).
    """

    __slots__ = ("disks", "frozen", "machine", "memory", "seconds", "snapshot", "vmstate_bytes", "woken")

    def __init__(
        self, machine: str, entry: dict[str, Any], disks: list[str], seconds: float, *, woken: bool
    ) -> None:
        self.machine = machine
        self.snapshot: str = entry["name"]
        self.disks = disks
        self.memory: bool = entry["memory"]
        self.vmstate_bytes: int = entry["vmstate_bytes"]
        self.frozen: bool | None = entry["frozen"]
        self.seconds = round(seconds, 3)
        self.woken = woken

    def __str__(self) -> str:
        from qvmsh.machine.diagnosis import size

        parts = [f"{len(self.disks)} disk{'s' if len(self.disks) != 1 else ''}"]
        if self.memory:
            parts.append(f"{size(self.vmstate_bytes)} of memory")
        if self.frozen is not None:
            parts.append("file systems frozen" if self.frozen else "crash-consistent")
        woken = "; the guest slept, and is awake now" if self.woken else ""
        return (
            f"{self.machine}: saved the snapshot {self.snapshot} ({', '.join(parts)}) "
            f"in {self.seconds:.1f} s{woken}"
        )


class SnapshotRestored(Report):
    """Result of `snapshot restore`.

    Args:
        snapshot: its name.
        disks: ids of the disks.
        memory: the guest goes on with its memory of then.
        ready: its ssh answers; None where nobody waited.
        clock: what was done about its clock.
        bitmaps: dirty bitmaps that had to go, so the next incremental copy is a full one.
        has_memory_left: the machine is off, and `start --loadvm` could go on.
        seconds: of the whole.
    """

    __slots__ = (
        "bitmaps", "clock", "disks", "has_memory_left", "machine", "memory", "ready", "seconds", "snapshot"
    )  # fmt: skip

    def __init__(
        self,
        machine: str,
        snapshot: str,
        disks: list[str],
        seconds: float,
        *,
        memory: bool,
        ready: bool | None = None,
        clock: str = "",
        bitmaps: int = 0,
        has_memory_left: bool = False,
    ) -> None:
        self.machine = machine
        self.snapshot = snapshot
        self.disks = disks
        self.memory = memory
        self.ready = ready
        self.clock = clock
        self.bitmaps = bitmaps
        self.has_memory_left = has_memory_left
        self.seconds = round(seconds, 3)

    def __str__(self) -> str:
        from shlex import quote

        disks = f"{len(self.disks)} disk{'s' if len(self.disks) != 1 else ''}"
        text = f"{self.machine}: restored the snapshot {self.snapshot} ({disks}"
        text += " and the memory)" if self.memory else ")"
        text += f" in {self.seconds:.1f} s"
        if self.clock:
            text += f"; {self.clock}"
        if self.has_memory_left:
            text += f"; `qvm start --loadvm {quote(self.snapshot)}` goes on with its memory"
        if self.bitmaps:
            text += "\nthe next incremental archive will be a full one (its dirty bitmaps are gone)"
        return text


class SnapshotDeleted(Report):
    """Result of `snapshot delete`: the names, and the ids of the disks that had one."""

    __slots__ = ("disks", "machine", "snapshots")

    def __init__(self, machine: str, snapshots: list[str], disks: list[str]) -> None:
        self.machine = machine
        self.snapshots = snapshots
        self.disks = disks

    def __str__(self) -> str:
        return "\n".join(f"{self.machine}: deleted the snapshot {name}" for name in self.snapshots)


def label(name: str | None, *, has_timestamp: bool) -> str:
    """The name that a snapshot gets: as it is, or with the time in front."""
    if name and not has_timestamp:
        return name
    return time.strftime(STAMP) + (f"-{name}" if name else "")


# Where the snapshots are


@contextlib.contextmanager
def opened(vm: Machine, what: str) -> Iterator[tuple[Store, list[Volume], state.Observation]]:
    """The snapshots of the machine as it is now, all its disks, and its state.

    Raises:
        StateError: it is in a state in which no snapshot can be changed.
        ImageError: an image is missing, or in use by another process.
    """
    seen = state.observe(vm)
    if not seen.is_live:
        disks = volumes.configured(vm)
        store = Images(vm, [each for each in volumes.written(disks) if each.format == "qcow2"])
        store.require_free()
        yield store, disks, seen
        return
    if seen.note is None or seen.kind not in (state.RUNNING, state.PAUSED, state.SUSPENDED):
        raise state.not_in_state(vm, seen, what, state.RUNNING)
    if seen.note.disposable:
        raise StateError(
            f"cannot {what}: it is disposable, its disks vanish when it stops",
            machine=vm.name,
            hint="`qvm stop` it first",
        )
    with live(vm, seen.note) as (found, disks):
        yield found, disks, seen


@contextlib.contextmanager
def live(vm: Machine, note: Note) -> Iterator[tuple[Live, list[Volume]]]:
    """The snapshots of a machine that is on, and all its disks."""
    try:
        with saved.exchange(note, "session") as exchange:
            disks = volumes.of_blocks(vm, exchange.ask("query-block", timeout_s=None))
            able = [each for each in volumes.written(disks) if each.format == "qcow2"]
            yield Live(vm, able, exchange), disks
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError | FileNotFoundError):
            raise state.silent(vm) from None
        raise


def resolve(store: Store, name: str) -> str:
    """The tag of the snapshot `name`: itself, or what a save that was killed while it replaced it left.

    Raises:
        StateError: it is not there, or not on every disk.
    """
    vm = store.vm
    for tag in (name, name + saved.NEW):
        if store.is_whole(tag):
            return tag
    holders = store.holders(name)
    if holders:
        missing = [each.id for each in store.volumes if each not in holders]
        raise StateError(
            f"there is no snapshot {name} on {', '.join(missing)}",
            machine=vm.name,
            hint=f"`qvm snapshot delete {name}` removes the rest: disks of different moments do not fit",
        )
    there = sorted({tag for each in store.volumes for tag in store.tags(each)})
    raise StateError(
        f"there is no snapshot {name}",
        machine=vm.name,
        hint=f"there are: {', '.join(there)}" if there else "`qvm snapshot save NAME` makes one",
    )


# Save


@log.failures
def save(vm: Machine, name: str, request: Request) -> SnapshotSaved:
    """Take a snapshot; see `commands.snapshot`."""
    began = time.monotonic()
    saved.require_name(vm, name)
    with launch.work_lock(vm, "snapshot save"), opened(vm, "save a snapshot") as (store, disks, seen):
        if not isinstance(store, Live):
            entry = _save_off(store, disks, name, request)
            woken = False
        else:
            assert seen.note is not None
            has_memory = not request.disk_only
            _require_able(store, disks, seen, has_memory=has_memory)
            registers = ich9.read(store.exchange) if seen.kind == state.SUSPENDED else None
            entry = take(
                store, seen.note, name, request,
                kind=seen.kind, registers=registers, pid=seen.pid or 0, stays_held=False,
            )  # fmt: skip
            woken = (
                seen.kind == state.SUSPENDED
                and has_memory
                and store.exchange.ask("query-status")["status"] == "running"
            )
        owner.share(vm)
    ids = [each.id for each in store.volumes]
    log.note(vm, f"saved the snapshot {name} on {', '.join(ids)}")
    return SnapshotSaved(vm.name, entry, ids, time.monotonic() - began, woken=woken)


def _require_able(store: Live, disks: list[Volume], seen: state.Observation, *, has_memory: bool) -> None:
    blockers.require(
        store.vm, disks, "save a snapshot", exchange=store.exchange, pid=seen.pid, has_memory=has_memory
    )


def _save_off(store: Store, disks: list[Volume], name: str, request: Request) -> dict[str, Any]:
    vm = store.vm
    blockers.require(vm, disks, "save a snapshot")
    known = Catalogue.read(vm)
    entry = catalogue.entry(
        store, name, message=request.message, parent=_parent(known, store, name), has_memory=False,
        is_frozen=None, qemu="", machine="", arguments=[],
    )  # fmt: skip
    is_there = _require_new(store, name, request)
    with (
        vm.io.stage(f"saving {name}"),
        Journal(store, "save", name, was_running=False, has_memory=False, entry=entry) as journal,
    ):
        _create(store, name, journal, has_memory=False, is_there=is_there)
        entry = catalogue.completed(store, entry)
        known.add(entry)
    return entry


def _parent(known: Catalogue, store: Store, name: str) -> str:
    """The snapshot that the present state descends from, if it is still there."""
    head = known.head
    if head == name:  # replaced by its own successor
        head = str(known.entries.get(name, {}).get("parent") or "")
    return head if head and store.holders(head) else ""


def _require_new(store: Store, name: str, request: Request) -> bool:
    """True if there is one of that name already, which may be replaced.

    Raises:
        StateError: it may not.
    """
    is_there = bool(store.holders(name) or store.holders(name + saved.NEW))
    if is_there and not request.is_replacing:
        raise StateError(
            f"there is a snapshot {name} already",
            machine=store.vm.name,
            hint="choose another name, or `--replace`; `--timestamp` puts the time in front",
        )
    return is_there


def _create(store: Store, name: str, journal: Journal, *, has_memory: bool, is_there: bool) -> None:
    """Take the snapshot; one of the same name goes only when the new one is whole."""
    if not is_there:
        store.create(name, has_memory=has_memory)
        return
    new = name + saved.NEW
    if not store.is_whole(new) or store.holders(name):
        journal.write(phase="new")
        store.delete(new)
        store.create(new, has_memory=has_memory)
    journal.write(phase="old")
    store.delete(name)
    journal.write(phase="again")
    store.create(name, has_memory=has_memory)
    store.delete(new)


def take(
    store: Live,
    note: Note,
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
        registers: what q35 needs to wake from a sleep, None elsewhere.
        stays_held: the guest does not go on afterwards (`stop --savevm`), unless this fails.
    """
    vm, has_memory = store.vm, not request.disk_only
    is_there = _require_new(store, name, request)
    known = Catalogue.read(vm)
    is_running = kind == state.RUNNING or (kind == state.SUSPENDED and has_memory)
    entry = catalogue.entry(
        store, name, message=request.message, parent=_parent(known, store, name), has_memory=has_memory,
        is_frozen=None, arguments=_arguments(pid), **_versions(store.exchange),
    )  # fmt: skip
    journal = Journal(store, "save", name, was_running=is_running, has_memory=has_memory, entry=entry)
    with vm.io.stage(f"saving {name}") as stage, journal:
        if has_memory:
            if kind == state.SUSPENDED or stays_held:
                saved.hold(store.exchange, registers)
            _create(store, name, journal, has_memory=True, is_there=is_there)
            if not stays_held and kind == state.SUSPENDED:
                saved.let_go(store.exchange)
        else:
            with _at_rest(vm, note, journal, kind, has_freeze=request.has_freeze) as is_frozen:
                entry["frozen"] = is_frozen
                _create(store, name, journal, has_memory=False, is_there=is_there)
        entry = catalogue.completed(store, entry)
        known.add(entry)
        stage.note = f"{entry['vmstate_bytes'] >> 20} MiB of memory" if has_memory else ""
    return entry


def _arguments(pid: int) -> list[str]:
    from qvmsh.host import process

    return process.arguments(pid)


def _versions(exchange: Exchange) -> dict[str, str]:
    """QEMU's version, and the version of the machine type that the guest sees."""
    told = exchange.ask("query-version")
    version = ".".join(str(told["qemu"][part]) for part in ("major", "minor", "micro"))
    try:
        machine = exchange.ask("qom-get", {"path": "/machine", "property": "type"})
    except QmpError:
        machine = ""
    return {"qemu": version, "machine": str(machine).removesuffix("-machine")}


@contextlib.contextmanager
def _at_rest(vm: Machine, note: Note, journal: Journal, kind: str, *, has_freeze: bool) -> Iterator[bool]:
    """The guest's file systems frozen by its agent for the moment; else written out (`sync`).

    Yields:
        True if they are frozen.
    """
    if not has_freeze or kind != state.RUNNING:
        yield False
        return
    path = note.socket("qga")
    try:
        qga.ask(path, "guest-ping", timeout_s=1.0)
    except (OSError, QmpError):
        _sync(vm, note)
        yield False
        return
    journal.write(is_frozen=True)
    try:
        qga.ask(path, "guest-fsfreeze-freeze", timeout_s=FREEZE_S)
        is_frozen = True
    except (OSError, QmpError) as error:
        vm.io.warn(f"{vm.name}: the guest could not be frozen ({error})")
        is_frozen = False
    try:
        yield is_frozen
    finally:
        unfinished.thaw(note)
        journal.write(is_frozen=False)


def _sync(vm: Machine, note: Note) -> None:
    """Let the guest write out what it holds back, if ssh reaches it."""
    import subprocess

    try:
        is_there, _ = guest.answers(vm, note, timeout_s=5.0)
        if is_there:
            argv = guest.link(vm, note).command(["sync"], tty=False)
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    except (QvmError, OSError, subprocess.TimeoutExpired):
        pass


# Restore


@log.failures
def restore(
    vm: Machine, name: str, *, is_forced: bool, is_waiting: bool, timeout_s: float | None = None
) -> SnapshotRestored:
    """Put the machine back; see `commands.snapshot`."""
    began = time.monotonic()
    with launch.work_lock(vm, "snapshot restore"), opened(vm, "restore a snapshot") as (store, disks, seen):
        blockers.require(vm, disks, "restore a snapshot")
        tag = resolve(store, name)
        known = Catalogue.read(vm)
        _require_fitting(store, known, name, seen, is_forced=is_forced)
        if isinstance(store, Live):
            count = _restore_live(store, seen, name, tag)
        else:
            count = _restore_off(store, name, tag)
        known.moved_to(name)
        owner.share(vm)
    ids = [each.id for each in store.volumes]
    log.note(vm, f"restored the snapshot {name}")
    if not seen.is_live or seen.note is None or seen.pid is None:
        left = bool(store.memory_bytes(tag))
        seconds = time.monotonic() - began
        return SnapshotRestored(
            vm.name, name, ids, seconds, memory=False, bitmaps=count, has_memory_left=left
        )
    is_ready: bool | None = None
    clock = ""
    if is_waiting and seen.note.ssh_port and seen.kind != state.PAUSED:
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
    store: Store, known: Catalogue, name: str, seen: state.Observation, *, is_forced: bool
) -> None:
    """Refuse (or, for disks alone, warn) where hardware or disks are not those of then.

    Raises:
        StateError: memory would be loaded into other hardware; or a disk of then is not there any more.
    """
    vm, entry = store.vm, known.entries.get(name)
    tag = resolve(store, name)
    has_memory = bool(store.memory_bytes(tag))
    if isinstance(store, Live) and not has_memory:
        raise StateError(
            f"the snapshot {name} holds only disks, no memory; the machine is {seen.kind}",
            machine=vm.name,
            hint=f"`qvm stop`, then `qvm snapshot restore {name}`, then `qvm start`",
            actual=seen.kind,
        )
    if entry is None:
        return
    here = {each.name for each in store.volumes}  # by name: the directory may have moved
    gone = [path for path in entry.get("disks", ()) if os.path.basename(path) not in here]
    if gone and not is_forced:
        raise StateError(
            f"the snapshot {name} was taken with {', '.join(gone)} too, which is no disk of the machine now",
            machine=vm.name,
            hint="put it back into VM_DISKS; `--force` restores the others without it",
        )
    other = catalogue.differences(vm, entry)
    if isinstance(store, Live):
        now = _versions(store.exchange)["machine"]
        if entry.get("machine") and now != entry["machine"]:
            other.insert(0, f"the machine type was {entry['machine']}, and is {now}")
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
    with vm.io.stage(f"restoring {name}"), journal:
        saved.hold(store.exchange, registers)
        store.create(BACK, has_memory=has_way_back)
        journal.write(phase="load")
        note.loading = name
        note.write(vm.files.note)
        count = store.bitmaps()
        store.apply(tag)
        journal.write(phase="clean")
        note.loading = ""
        note.write(vm.files.note)
        guest.close(vm, note)
        if is_running:
            saved.let_go(store.exchange)
        store.delete(BACK)
    return count


# Delete


@log.failures
def delete(vm: Machine, names: tuple[str, ...]) -> SnapshotDeleted:
    """Remove snapshots; see `commands.snapshot`."""
    if not names:
        raise UsageError("snapshot delete: which one?", hint="`qvm snapshot list` tells their names")
    with launch.work_lock(vm, "snapshot delete"), opened(vm, "delete a snapshot") as (store, _, _seen):
        known = Catalogue.read(vm)
        for name in names:
            if not (store.holders(name) or store.holders(name + saved.NEW) or name in known.entries):
                resolve(store, name)
        disks = [each.id for each in store.volumes if set(names) & set(store.tags(each))]
        for each in store.volumes:
            wrong = blockers.of_room(each, blockers.DISK_ROOM_BYTES // 4)
            if wrong:
                raise StateError(
                    f"cannot delete: {wrong[0].what}", machine=vm.name, hint="even that writes new tables"
                )
        for name in dict.fromkeys(names):
            journal = Journal(store, "delete", name, was_running=False, has_memory=False)
            with vm.io.stage(f"deleting {name}"), journal:
                store.delete(name)
                store.delete(name + saved.NEW)
                known.remove(name)
        owner.share(vm)
    log.note(vm, f"deleted the snapshot{'s' if len(names) > 1 else ''} {', '.join(names)}")
    return SnapshotDeleted(vm.name, list(names), disks)
