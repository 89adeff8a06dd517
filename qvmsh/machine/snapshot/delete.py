"""Deleting snapshots, from all disks of a machine that is on or off."""

from __future__ import annotations

import os

from qvmsh.errors import StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import log, snapshot_names
from qvmsh.machine.journal import Kind, Record
from qvmsh.machine.progress import size
from qvmsh.machine.snapshot import of_s2e
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.reports import SnapshotDeleted
from qvmsh.machine.snapshot.store import Store, named, opened, resolve
from qvmsh.machine.work.lock import work_lock
from qvmsh.machine.work.recovery import Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from qvmsh.machine.machine import BaseMachine

TABLES_BYTES = 256 << 10
"""The most that an image grows while a snapshot is deleted; the freed space is used afterwards."""


@log.failures
def delete(vm: BaseMachine, names: tuple[str, ...]) -> SnapshotDeleted:
    """Remove snapshots; see `commands.snapshot`."""
    if not names:
        raise UsageError("snapshot delete: no name given", hint="`qvm snapshot list` shows the names")
    with work_lock(vm, "snapshot delete"), opened(vm, "delete a snapshot") as (store, _, _seen):
        known = Catalogue.read(vm)
        names = tuple(each if each in known.entries else named(store, each, known.entries) for each in names)
        of_qemu = [each for each in names if each not in of_s2e.paths(vm)]
        for name in of_qemu:
            store.require_one(name)
            if not (store.holders(name) or store.holders(name + snapshot_names.NEW) or name in known.entries):
                resolve(store, name)
        disks = [each.id for each in store.volumes if set(names) & set(store.tags(each))]
        remove(store, known, dict.fromkeys(of_qemu))
        of_s2e.remove(vm, set(names).difference(of_qemu))
    log.note(vm, f"deleted the snapshot{'s' if len(names) > 1 else ''} {', '.join(names)}")
    return SnapshotDeleted(vm.name, list(names), disks)


def remove(store: Store, known: Catalogue, names: Iterable[str]) -> None:
    """Remove snapshots, one after the other; the work lock is held.

    Raises:
        StateError, QmpError, ImageError: one cannot be removed; those before it are gone.
    """
    vm = store.vm
    for at, name in enumerate(names):
        if not at:
            _require_room_for_tables(store)
        record = Record(Kind.SNAPSHOT_DELETE, name=name, disks=store.named())
        with vm.io.stage(f"deleting {name}"), Transaction(vm, record, store.exchange):
            store.delete(name)
            store.delete(name + snapshot_names.NEW)
            known.remove(name)


def _require_room_for_tables(store: Store) -> None:
    """Even a deletion writes new tables first. StateError: not enough free space; nothing was changed."""
    for each in store.volumes:
        folder = os.path.dirname(os.path.realpath(each.path))
        free = host_files.free_bytes(folder)
        if free < TABLES_BYTES:
            raise StateError(
                f"cannot delete: {each.name} needs {size(TABLES_BYTES)} free for its new tables, "
                f"but only {size(free)} is free",
                machine=store.vm.name,
                hint=f"free space in {folder}; no snapshot was changed",
            )
