"""The journal of the work on snapshots, and what is done about work that was cut off.

May import: `qemu`, `machine`.

    with Journal(store, "save", "ready", ...) as journal: ...     # removed at the end, settled on failure
    settle(vm)              # "the save of the snapshot ready, ..., is undone", or "" for nothing

Everything that fails, is interrupted or killed ends here, so there is one way back, not three. The work
lock is held by whoever calls. A save that is whole is kept, one that is not is removed from all disks;
a deletion is finished; a restore goes back to the state before it, which was kept as the snapshot
`.qvm-back` until the new state was whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from qvmsh.errors import QmpError, QvmError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process
from qvmsh.machine import catalogue, guardian, guest, log, saved, state, volumes
from qvmsh.machine import note as notes
from qvmsh.machine.catalogue import Catalogue
from qvmsh.machine.snapshot_store import Images, Live, Store
from qvmsh.machine.volumes import Volume
from qvmsh.qemu import qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any

    from qvmsh.machine.machine import Machine
    from qvmsh.machine.note import Note

BACK = ".qvm-back"
"""The snapshot of the state before a restore."""

LAYER = ".part0"
"""Suffix of the overlay that a commit makes while the machine is on."""

WORDS = {
    "save": "the save of the snapshot",
    "delete": "the deletion of the snapshot",
    "restore": "the restore of the snapshot",
    "commit": "the commit of",
    "rebase": "the rebase of",
}


class Journal:
    """What is under way, on the disk before it begins.

    Args:
        what: `save`, `delete`, `restore`; `commit`, `rebase` of a disk while the machine is on.
        name: the snapshot.
        was_running: the guest has to go on afterwards, however it ends.
        has_memory: what is saved (or kept as the way back) holds memory.
        entry: the metadata of a save.
    """

    def __init__(
        self,
        store: Store,
        what: str,
        name: str,
        *,
        was_running: bool,
        has_memory: bool,
        entry: dict[str, Any] | None = None,
    ) -> None:
        self.vm = store.vm
        self.store = store
        self._guardian = guardian.Guardian(store.vm) if isinstance(store, Live) else None
        self.data: dict[str, Any] = {
            "what": what,
            "name": name,
            "phase": "begin",
            "disks": [[each.id, each.path] for each in store.volumes],
            "was_running": was_running,
            "has_memory": has_memory,
            "is_frozen": False,
            "entry": entry,
            "pid": os.getpid(),
            "since": time.strftime("%F %T"),
        }

    def __enter__(self) -> Journal:
        try:
            self.write()
            if self._guardian:
                self._guardian.__enter__()
        except BaseException:  # interrupted: nothing has been begun
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close(error)
        finally:
            if self._guardian:
                self._guardian.__exit__(kind, error, trace)

    def _close(self, error: BaseException | None) -> None:
        if error is None:
            with process.Shielded():
                self.end()
            return
        if isinstance(self.store, Live):
            self.store.exchange.close()  # QEMU serves one at a time
        with process.Shielded(
            process.SIGINT, process.SIGTERM, process.SIGTSTP
        ):  # a second Ctrl-C must not cut the way back off
            try:
                told = settle(self.vm)
            except (QvmError, OSError) as second:
                self.vm.io.warn(f"{self.vm.name}: {second}; `qvm doctor --fix` tries again")
                return
        if isinstance(error, QvmError) and told:
            error.details = (*error.details, told)
        elif told:
            self.vm.io.warn(f"{self.vm.name}: {told}")

    def write(self, **changes: Any) -> None:
        """Note how far it is; on the disk when this returns."""
        self.data.update(changes)
        self.vm.state_folder()
        host_files.write_atomic(self.vm.files.unfinished, json.dumps(self.data, ensure_ascii=False))

    def end(self) -> None:
        host_files.remove(self.vm.files.unfinished)
        host_files.sync_folder(self.vm.files.state)


def read(vm: Machine) -> dict[str, Any] | None:
    """What a command that is no longer at work has left; None for nothing."""
    try:
        with open(vm.files.unfinished, encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
            return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise QvmError(
            f"cannot read .qvm/snapshot.unfinished: {error}",
            machine=vm.name,
            hint="`qvm snapshot list` shows what the images hold; then remove that file",
        ) from None


def settle(vm: Machine) -> str:
    """Finish or undo what was cut off, and say which; "" where nothing was.

    Raises:
        QvmError: it cannot be done now; the journal stays.
    """
    data = read(vm)
    if data is None:
        return ""
    pid = locks.holder(vm.files.pid_file)
    note = notes.read(vm.files)
    is_on = pid is not None and note is not None
    outcome = _settle_live(vm, note, data) if is_on and note else _settle_off(vm, data)
    host_files.remove(vm.files.unfinished)
    told = f"{WORDS[data['what']]} {data['name']}, begun {data['since']}, {outcome}"
    log.note(vm, told)
    return told


# While QEMU runs


def _settle_live(vm: Machine, note: Note, data: dict[str, Any]) -> str:
    with _live(vm, note, data) as store:
        store.jobs.drain()
        if data["is_frozen"]:
            thaw(note)
        if data["what"] == "restore" and data["phase"] == "load":
            return _back_live(vm, note, data, store)
        outcome = _STEPS[data["what"]](store, data)
        if note.loading:
            guest.close(vm, note)
            _loaded(vm, note)
        if data["was_running"] and store.jobs.execute("query-status")["status"] == "paused":
            saved.let_go(store.exchange)
        return outcome


@contextlib.contextmanager
def _live(vm: Machine, note: Note, data: dict[str, Any]) -> Iterator[Live]:
    """The store of the journal's disks in the QEMU that has them open."""
    wanted = {path for _, path in data["disks"]}
    try:
        with saved.exchange(note, "session") as exchange:
            blocks = exchange.ask("query-block", timeout_s=None)
            found = [each for each in volumes.of_blocks(vm, blocks) if each.path in wanted]
            yield Live(vm, volumes.written(found), exchange)
    except OSError:
        raise state.silent(vm) from None


def _back_live(vm: Machine, note: Note, data: dict[str, Any], store: Live) -> str:
    """The guest's disks and memory may not fit together: back to what was before, or its end."""
    if data["has_memory"] and store.is_whole(BACK):
        try:
            store.apply(BACK)
        except QmpError as error:
            vm.io.warn(f"{vm.name}: {error.what}")
        else:
            guest.close(vm, note)
            _loaded(vm, note)
            if data["was_running"]:
                saved.let_go(store.exchange)
            store.delete(BACK)
            return "is undone: the guest is as it was before"
    pid = locks.holder(vm.files.pid_file)
    if pid is not None:
        from qvmsh.machine import power

        with process.Process(pid) as handle:
            power.kill_process(handle, note)
    return _settle_off(vm, data) + "; QEMU had to be ended, its disks are as they were before"


def _loaded(vm: Machine, note: Note) -> None:
    note.loading = ""
    note.write(vm.files.note)


def thaw(note: Note) -> None:
    """Let the guest's file systems go on; an agent that is not there has frozen none."""
    try:
        qga.ask(note.socket("qga"), "guest-fsfreeze-thaw", timeout_s=30.0)
    except (OSError, QmpError):
        pass


# While it is off


def _settle_off(vm: Machine, data: dict[str, Any]) -> str:
    disks = [Volume(name, path, "qcow2") for name, path in data["disks"]]
    store = Images(vm, disks)
    store.require_free()
    outcome = _STEPS[data["what"]](store, data)
    store.mend_leaks()
    return outcome


# What is done for each


def _save(store: Store, data: dict[str, Any]) -> str:
    name, new = data["name"], data["name"] + saved.NEW
    if data["phase"] == "begin":  # nothing was there of this name
        if store.is_whole(name):
            return _kept(store, data, name)
        store.delete(name)
        return "is undone: no disk has it"
    if data["phase"] == "new":  # beside the one that it replaces
        store.delete(new)
        return "is undone: the older snapshot of that name is there"
    if data["phase"] == "again" and store.is_whole(name):
        store.delete(new)
        return _kept(store, data, name)
    if store.is_whole(new):  # `resolve` finds it under its name
        store.delete(name)
        return _kept(store, data, new)
    return "is undone"


def _kept(store: Store, data: dict[str, Any], tag: str) -> str:
    if data["entry"]:
        Catalogue.read(store.vm).add(catalogue.completed(store, data["entry"], tag))
    return "was whole: it is there"


def _delete(store: Store, data: dict[str, Any]) -> str:
    for tag in (data["name"], data["name"] + saved.NEW):
        store.delete(tag)
    Catalogue.read(store.vm).remove(data["name"])
    return "is finished: no disk has it"


def _restore(store: Store, data: dict[str, Any]) -> str:
    if data["phase"] == "load" and store.is_whole(BACK):
        store.bitmaps()
        store.apply(BACK)
    store.delete(BACK)
    if data["phase"] == "clean":
        Catalogue.read(store.vm).moved_to(data["name"])
        return "was whole"
    return "is undone: the disks are as they were before"


def _block_job(store: Store, data: dict[str, Any]) -> str:
    """Of a machine that has ended: the guest wrote nothing in between, so the overlay is right as it is."""
    if isinstance(store, Live):
        from qvmsh.machine import diskwork_live

        return diskwork_live.settle(store, data)
    for each in store.volumes:
        host_files.remove(each.path + LAYER)
    return "ended with QEMU: what the disk holds is the same"


_STEPS = {
    "save": _save, "delete": _delete, "restore": _restore, "commit": _block_job, "rebase": _block_job,
}  # fmt: skip
