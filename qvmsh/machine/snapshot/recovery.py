"""The journal of the work on snapshots, and what is done about work that was cut off.

May import: `qemu`, `machine`.

    with Journal(store, "save", "ready", ...) as journal: ...     # removed at the end, settled on failure
    settle(vm)              # "the save of the snapshot ready, ..., is undone", or "" for nothing

Everything that fails, is interrupted or killed ends here, so there is one way back, not three. The work
lock is held by whoever calls. A save that is whole is kept, one that is not is removed from all disks;
a deletion is finished once a disk has lost its part; a restore goes back to the state before it, which was
kept as the snapshot `.qvm-back` until the new state was whole.
"""

from __future__ import annotations

import contextlib
import os
import time

from qvmsh.errors import QmpError, QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process
from qvmsh.machine import launch_record as notes
from qvmsh.machine import log, state
from qvmsh.machine import programs as tools
from qvmsh.machine.archive import recovery as interrupted
from qvmsh.machine.guest import filesystems as freezing
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.guest.clock import put_clock_right
from qvmsh.machine.monitor import conversation, ending
from qvmsh.machine.snapshot import catalogue
from qvmsh.machine.snapshot import managed_save as saved
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.store import Images, Live, Store
from qvmsh.machine.storage import chain, volumes
from qvmsh.machine.storage.volumes import Volume
from qvmsh.machine.work import guardian
from qvmsh.qemu import image, qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any

    from qvmsh.machine.launch_record import Note
    from qvmsh.machine.machine import Machine

BACK = ".qvm-back"
"""The snapshot of the state before a restore."""

LAYER = ".part0"
"""Suffix of the overlay that a commit makes while the machine is on."""

SHORT_S, HANGS_S = 0.3, 30.0
"""How long QEMU may take to greet before it is said that it is busy; to move a byte before it hangs."""

WORDS = {
    "save": "the save of the snapshot",
    "delete": "the deletion of the snapshot",
    "restore": "the restore of the snapshot",
    "load": "the start from the snapshot",
    "commit": "the commit of",
    "rebase": "the rebase of",
}


HELD = "must not go on: what it wrote now would be lost"
HELD_HINT = "make room if the disk is full, then `qvm doctor --fix`; or `qvm kill`, then `qvm start`"
"""Of a guest whose QEMU works on the base itself, since a commit was cut off."""

KINDS = {
    "name": str, "phase": str, "disks": list, "was_running": bool, "has_memory": bool, "is_frozen": bool,
    "entry": dict | None, "since": str,
}  # fmt: skip
"""The fields of a journal that the way back reads."""


class Unsettled(QvmError):
    """What was cut off can neither be finished nor undone now; the journal stays.

    Args:
        left: what state things are in, and who tries again.
    """

    def __init__(self, what: str, left: str, **more: Any) -> None:
        super().__init__(what, **more)
        self.left = left


class Journal:
    """What is under way, on the disk before it begins.

    Args:
        what: `save`, `delete`, `restore`, `load` (`start --loadvm`); `commit`, `rebase` of a disk.
        name: the snapshot.
        was_running: the guest has to go on afterwards, however it ends.
        has_memory: what is saved (or kept as the way back) holds memory.
        entry: the metadata of a save.
        is_replacing: there is a snapshot of that name, which stays until the new one is whole.
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
        is_replacing: bool = False,
    ) -> None:
        self.vm = store.vm
        self.store = store
        self._guardian = guardian.Guardian(store.vm) if isinstance(store, Live) else None
        self.data: dict[str, Any] = {
            "what": what,
            "name": name,
            "phase": "replace" if is_replacing else "begin",
            "disks": [[each.id, volumes.inside(self.vm, each.path)] for each in store.volumes],
            "was_running": was_running,
            "has_memory": has_memory,
            "is_frozen": False,
            "entry": entry,
            "pid": os.getpid(),
            "since": time.strftime("%F %T"),
        }

    def __enter__(self) -> Journal:
        require_none(self.vm)
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
        # a second Ctrl-C must not cut the way back off
        with process.Shielded(process.SIGINT, process.SIGTERM, process.SIGTSTP):
            try:
                told = settle(self.vm)
            except Unsettled as second:
                told = second.left if isinstance(error, QvmError) else f"{second.what}; {second.left}"
                if isinstance(error, QvmError):
                    error.hint = second.hint or error.hint
            except (QvmError, OSError) as second:
                told = f"{second}; `qvm doctor --fix` tries again"
            if isinstance(error, QvmError) and told:
                error.details = (*error.details, told)
            elif told:
                self.vm.io.warn(f"{self.vm.name}: {told}")

    def write(self, **changes: Any) -> None:
        """Note how far it is; on the disk when this returns."""
        self.data.update(changes)
        self.vm.state_folder()
        host_files.write_atomic(self.vm.files.unfinished, catalogue.json_of(self.data))

    def end(self) -> None:
        host_files.remove(self.vm.files.unfinished)
        host_files.sync_folder(self.vm.files.state)


def read(vm: Machine) -> dict[str, Any] | None:
    """What a command that is no longer at work has left; None for nothing.

    Raises:
        QvmError: it cannot be read, or makes no sense.
    """
    try:
        found = host_files.document(vm.files.unfinished)
        if found["what"] not in WORDS:
            raise ValueError(f"nobody does {found['what']!r}")
        for key, kind in KINDS.items():
            if not isinstance(found[key], kind):
                raise ValueError(f"{key} makes no sense")
        for key in ("device", "node", "backing_format"):
            found.setdefault(key, "")
        if not all(
            isinstance(found.get(key, ""), str) for key in ("device", "node", "backing", "backing_format")
        ):
            raise ValueError("a name is no text")
        if (found["entry"] or found).get("name") != found["name"]:
            raise ValueError("entry is that of another snapshot")
        if any("\0" in path for _, path in found["disks"]):
            raise ValueError("no file has such a name")
        found["disks"] = [
            [str(name), os.path.normpath(os.path.join(vm.directory, path))] for name, path in found["disks"]
        ]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise QvmError(
            f"cannot read .qvm/snapshot.unfinished: {error}",
            machine=vm.name,
            hint="`qvm snapshot list` shows what the images hold; then remove that file",
        ) from None
    return found


def is_of(vm: Machine, what: str) -> bool:
    """True if it is work of that kind that was cut off."""
    try:
        data = read(vm)
    except QvmError:
        return False
    return data is not None and data["what"] == what


def must_stand_still(vm: Machine) -> bool:
    """What was cut off forbids a guest that is on to write: a commit whose QEMU works on the base itself."""
    try:
        data = read(vm)
    except QvmError:
        return False
    return data is not None and _is_on_its_base(data) and locks.holder(vm.files.pid_file) is not None


def _is_on_its_base(data: dict[str, Any]) -> bool:
    return bool(data["what"] == "commit" and data["phase"] == "pivot")


def require_none(vm: Machine) -> None:
    """Refuse what would write a journal over that of work that could not be settled.

    Raises:
        StateError: there is one.
    """
    data = read(vm)
    if data is not None:
        raise StateError(
            f"{_title(data)}, was cut off and is not settled yet",
            machine=vm.name,
            hint="`qvm doctor --fix` settles it, or says why not",
        )


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
    try:
        outcome = _settle_live(vm, note, data) if is_on and note else _settle_off(vm, data)
    except (QvmError, OSError) as error:
        raise _unsettled(vm, data, error) from error
    host_files.remove(vm.files.unfinished)
    told = f"{_title(data)}, {outcome}"
    log.note(vm, told)
    return told


def _title(data: dict[str, Any]) -> str:
    return f"{WORDS[data['what']]} {data['name']}, begun {data['since']}"


def _unsettled(vm: Machine, data: dict[str, Any], error: QvmError | OSError) -> Unsettled:
    left = "the next command settles it (`qvm doctor --fix` does nothing else)"
    if data["what"] == "delete":
        disks = ", ".join(name for name, path in data["disks"] if _has(path, data["name"]))
        left = f"{data['name']} is left on {disks or 'no disk'}, and cannot be restored; {left}"
    hint = getattr(error, "hint", None)
    if _is_on_its_base(data) and locks.holder(vm.files.pid_file) is not None:
        left, hint = f"the guest is paused and {HELD}; nothing else is", HELD_HINT
    why = error.what if isinstance(error, QvmError) else str(error)
    return Unsettled(
        f"{_title(data)}, was cut off, and cannot be settled: {why}",
        left,
        machine=vm.name,
        details=(*getattr(error, "details", ()), left),
        hint=hint,
    )


def _has(path: str, tag: str) -> bool:
    try:
        return any(each.name in (tag, tag + saved.NEW) for each in chain.snapshots_in(path, "qcow2"))
    except QvmError:
        return True


def told(vm: Machine) -> str:
    """What is under way, or was cut off, for one who only looks; "" for nothing."""
    try:
        data = read(vm)
        work = interrupted.read(vm) if data is None else None
    except QvmError as error:
        return error.what
    if work is not None:
        return interrupted.told(vm, work)
    if data is None:
        return ""
    by = locks.working(vm.files.work_lock)
    if by is not None and by.what == locks.SETTLING:
        return f"{_title(data)}, was cut off: pid {by.pid} settles it"
    if by is not None:
        return f"{WORDS[data['what']]} {data['name']} is under way: {by} is at work"
    return f"{_title(data)}, was cut off: the next command that changes the machine settles it"


# While QEMU runs


def _settle_live(vm: Machine, note: Note, data: dict[str, Any]) -> str:
    if data["what"] == "load" and data["phase"] != "clean":
        return _back_off(vm, note, data)
    with _live(vm, note, data) as store:
        store.jobs.drain()
        if data["is_frozen"]:
            freezing.thaw(note)
        if data["what"] == "restore" and data["phase"] == "load":
            return _back_live(vm, note, data, store)
        outcome = _STEPS[data["what"]](store, data)
        if note.loading:
            guest.close(vm, note)
            _loaded(vm, note)
        if data["was_running"] and store.jobs.execute("query-status")["status"] in ("paused", "prelaunch"):
            conversation.resume(store.exchange)
        if data["was_running"] and (data["has_memory"] or data["what"] == "load"):
            put_clock_right(vm, note, has_ssh=False)  # it stood still meanwhile
        return outcome


@contextlib.contextmanager
def _live(vm: Machine, note: Note, data: dict[str, Any]) -> Iterator[Live]:
    """The store of the journal's disks in the QEMU that has them open."""
    wanted = {os.path.realpath(path) for _, path in data["disks"]}
    with contextlib.ExitStack() as stack:
        try:
            exchange = stack.enter_context(contextlib.closing(_patient(vm, note)))
        except OSError:
            raise state.silent(vm) from None
        try:
            blocks = exchange.ask("query-block", timeout_s=qmp.ANSWER_S)
            found = [each for each in volumes.of_blocks(vm, blocks) if os.path.realpath(each.path) in wanted]
            yield Live(vm, volumes.written(found), exchange)
        except (ConnectionError, TimeoutError):
            raise state.silent(vm) from None


def _patient(vm: Machine, note: Note) -> qmp.Exchange:
    """A conversation with a QEMU that may still be busy with what a command has begun.

    While it saves or loads memory it answers nobody, and nothing can stop it. It is waited for as long as
    it is at work; one more Ctrl-C ends the waiting.

    Raises:
        OSError: it does not answer.
    """
    exchange = qmp.Exchange(note.socket("session"), state.GREETING_S)
    try:
        if not exchange.is_readable(SHORT_S):
            pid = locks.holder(vm.files.pid_file) or 0
            moved, since = process.moved_bytes(pid), time.monotonic()
            with vm.io.stage("waiting for QEMU to end what it is at, which nothing can interrupt"):
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
                conversation.resume(store.exchange)
            store.delete(BACK)
            if data["was_running"]:
                put_clock_right(vm, note, has_ssh=False)
            return "is undone: the guest is as it was before"
    return _back_off(vm, note, data) + "; QEMU had to be ended"


def _back_off(vm: Machine, note: Note, data: dict[str, Any]) -> str:
    """End a QEMU whose guest must never run, and put its disks back."""
    pid = locks.holder(vm.files.pid_file)
    if pid is not None:
        with process.Process(pid) as handle:
            ending.kill(handle, note)
        host_files.remove(vm.files.pid_file)  # left by SIGKILL; it was asked to end, and did not crash
    return _settle_off(vm, data)


def _loaded(vm: Machine, note: Note) -> None:
    note.loading = ""
    note.write(vm.files.note)


# While it is off


def _settle_off(vm: Machine, data: dict[str, Any]) -> str:
    own = {os.path.realpath(each.path) for each in volumes.configured(vm)}
    disks = [Volume(name, path, "qcow2") for name, path in data["disks"]]
    gone = [
        each for each in disks if not os.path.lexists(each.path) and os.path.realpath(each.path) not in own
    ]
    store = Images(vm, [each for each in disks if each not in gone])
    store.require_free()
    outcome = _STEPS[data["what"]](store, data)
    store.mend_leaks()
    return "; ".join(
        [outcome, *(f"{each.name} is not there, and no disk of the machine now" for each in gone)]
    )


# What is done for each


def _save(store: Store, data: dict[str, Any]) -> str:
    name, new = data["name"], data["name"] + saved.NEW
    if data["phase"] == "begin":  # nothing was there of this name
        if store.is_whole(name):
            return _kept(store, data, name)
        store.delete(name)
        return "is undone: no disk has it"
    if data["phase"] == "replace":  # nothing has been done yet
        return "is undone: the older snapshot of that name is there"
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
    if store.is_whole(data["name"]):
        return "is undone: all disks have it"
    for tag in (data["name"], data["name"] + saved.NEW):
        store.delete(tag)
    left = [name for name, path in data["disks"] if _has(path, data["name"])]
    if left:  # QEMU forgets a snapshot whose table it could not write (7.2); the file still has it
        raise QvmError(f"QEMU could not write the table of {', '.join(left)}", hint="is the disk full?")
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


def layer(path: str) -> str:
    """Where a commit while on makes the empty overlay for a disk, which may be a link."""
    return os.path.realpath(path) + LAYER


def remove_layer(vm: Machine, path: str) -> None:
    """Remove that overlay, if there is one."""
    host_files.remove(layer(path))


def _block_job(store: Store, data: dict[str, Any]) -> str:
    """Of a machine that is off, or has ended: a guest wrote nothing in between.

    The overlay of a commit is right as it is. One that was to stand elsewhere stands where it stood again:
    its header may say so before its tables tell where the data from below now is.
    """
    if isinstance(store, Live):
        from qvmsh.machine.disk import layers_live as disk_layers_live

        return disk_layers_live.settle(store, data)
    outcome = "is over: what the disk holds is the same"
    for each in store.volumes:
        remove_layer(store.vm, each.path)
        if "backing" in data and image.header(each.path, each.format).backing != data["backing"]:
            below = ["-F", data["backing_format"]] if data["backing"] else []
            words = ["rebase", "-u", "-f", "qcow2", *below, "-b", data["backing"], image.safe_name(each.path)]
            what = f"put {each.name} back on what it stood on"
            image.run(tools.qemu_img(store.vm), words, what=what)
            outcome = "is undone: the disk stands where it stood"
    return outcome


_STEPS = {
    "save": _save, "delete": _delete, "restore": _restore, "load": _restore, "commit": _block_job,
    "rebase": _block_job,
}  # fmt: skip
