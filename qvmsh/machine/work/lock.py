"""The work lock: one command works on a machine at a time, after recovering interrupted work.

with work_lock(vm, "snapshot save"):
    ...
"""

from __future__ import annotations

import errno
import os

from qvmsh.config import layers
from qvmsh.config.words import quote
from qvmsh.errors import LockedError, QvmError, StateError
from qvmsh.host import locks, process
from qvmsh.machine import journal, programs, registry
from qvmsh.machine.guest import frozen
from qvmsh.machine.storage import dependents, own_disk, volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine

NEEDS_WHOLE = (
    "start", "run", "init", "snapshot", "disk", "archive", "restore", "export", "clone", "rename", "move",
    "renew",
)  # fmt: skip
"""Verbs that fail while interrupted work is not recovered; the others only warn."""
SPARES_DISKS = (
    "start", "run", "stop", "tidy", "reboot", "pause", "resume", "suspend", "wakeup", "snapshot verify",
    "disk check", "export", "freeze", "thaw",
)  # fmt: skip
"""Verbs that change no existing image, or check before (`require_no_archive`)."""
NEEDS_THAWED = (
    "clone", "disk trim", "export", "pause", "reboot", "snapshot restore", "snapshot save", "suspend",
)  # fmt: skip
"""Verbs that need the guest, or would save it, frozen as it is; `archive`, `stop --savevm` check it too."""


def work_lock(vm: BaseMachine, what: str, *, is_looking: bool = False) -> locks.WorkLock:
    """Take the machine's work lock for the verb `what`, and complete what a killed command left.

    Args:
        is_looking: `what` must not run what the machine's files name; see `programs`.

    Raises:
        ConfigError: there is no machine, or its files are somebody else's and were not accepted.
        StateError: an archive would be changed in place.
        LockedError: another command is working on it; the text says which.
        QvmError: interrupted work cannot be completed.
    """
    if not os.path.lexists(vm.files.vmrc):  # nothing is left in a directory that is no machine
        raise layers.missing(vm.directory)
    if not is_looking:
        programs.require_accepted(vm)
    if what not in SPARES_DISKS:
        require_no_archive(vm, what)
    vm.state_folder()
    lock = locks.WorkLock(vm.files.work_lock, what)
    try:
        lock.acquire()
    except PermissionError:
        who = process.user_name(os.stat(vm.files.work_lock).st_uid)
        raise LockedError(
            f"{_cannot(what)}: .qvm/work.lock belongs to {who}",
            machine=vm.name,
            hint=f"run this as {who}; or `sudo chown -R` the folder .qvm to yourself",
        ) from None
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ELOOP):
            raise
        raise QvmError(
            f"{_cannot(what)}: .qvm/work.lock: {error.strerror}",
            machine=vm.name,
            hint="move that file away; qvm creates a new one",
        ) from None
    except locks.Held as held:
        raise LockedError(
            f"{_cannot(what)}: {held.by} is working on it", machine=vm.name, hint="wait for it to end"
        ) from None
    try:
        if what in NEEDS_THAWED:
            frozen.require_thawed(vm, _cannot(what))
        if what != "doctor" and (journal.is_left(vm) or os.path.lexists(vm.files.recovered)):
            _recover(vm, what)
    except BaseException:
        lock.release()
        raise
    notes_of_making = registry.making_folder(vm.environ)
    if what != "doctor" and notes_of_making and os.path.lexists(notes_of_making):
        from qvmsh.machine.work import creation_folder

        for line in creation_folder.sweep(vm.environ):
            vm.io.warn(line)
        if not os.path.lexists(vm.files.vmrc):  # a move of this very machine was completed, or undone
            lock.release()
            raise layers.missing(vm.directory)
    return lock


def complete_renaming(vm: BaseMachine) -> None:
    """Complete a renaming that was interrupted, or undo it, before the `.vmrc` is changed.

    Raises:
        LockedError: it is at work.
        QvmError: it cannot be completed now.
    """
    if journal.is_of(vm, journal.Kind.RENAME):
        with work_lock(vm, "config", is_looking=True):
            pass


def require_no_archive(vm: BaseMachine, what: str, *, is_disposable: bool = False) -> None:
    """Refuse to change an archive in place: the machine's directory, or the folder of one of its disks.

    Args:
        is_disposable: overlays receive the guest's writes, except to disks that only QEMU arguments name.

    Raises:
        StateError: it would be damaged; nothing has been changed.
    """
    try:
        written = volumes.written(volumes.configured(vm))
        is_by_hand = own_disk.is_by_hand(vm)
    except (QvmError, OSError):  # the verb itself reports it
        written, is_by_hand = [], False
    if is_disposable:
        written = [] if is_by_hand else [each for each in written if each.source == "words"]
    folders = [os.path.dirname(os.path.realpath(each.path)) for each in written]
    folders += [] if is_disposable else [os.path.realpath(vm.directory)]
    for folder in filter(dependents.is_archive, dict.fromkeys(folders)):
        way = f"`qvm {what} --disposable` leaves it unchanged; " if what in ("start", "run") else ""
        raise StateError(
            f"{_cannot(what)}: {folder} is an archive and would be damaged",
            machine=vm.name,
            hint=f"{way}`qvm restore {quote(folder)} DIR` creates a machine from it",
        )


def _cannot(what: str) -> str:
    """`cannot start`, but "`qvm disk check` cannot begin": two words are not an English verb."""
    return f"`qvm {what}` cannot begin" if " " in what else f"cannot {what}"


def _recover(vm: BaseMachine, what: str) -> None:
    """Recover interrupted work before anything else is done.

    QvmError: that cannot be done now, and `what` would build on it, or resume a guest that must not be.
    """
    from qvmsh.machine.work import guardian, recovery

    for line in guardian.take_messages(vm):
        vm.io.warn(f"{vm.name}: {line}")
    verb = what.partition(" ")[0]
    is_strict = verb in NEEDS_WHOLE
    try:
        records = journal.pending(vm)
    except QvmError as error:
        if is_strict:
            raise
        vm.io.warn(f"{vm.name}: {error.what}")
        return
    for record in records:
        try:
            text = recovery.message(record, recovery.recover(vm, record))
        except QvmError as error:
            # the disks as they are now are whole without the end of a deletion
            is_harmless = record.kind is journal.Kind.SNAPSHOT_DELETE and verb in ("start", "run")
            if (is_strict and not is_harmless) or journal.must_stand_still(vm):
                raise
            text = error.what
        vm.io.warn(f"{vm.name}: {text}")
