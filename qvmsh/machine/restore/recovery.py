"""A restore of a machine that was interrupted: completed once all files were ready, else undone."""

from __future__ import annotations

import os

from qvmsh.errors import QvmError
from qvmsh.host import files as host_files
from qvmsh.machine import identity
from qvmsh.machine.archive import drives
from qvmsh.machine.archive.checked_reader import NEW
from qvmsh.machine.journal import Journal, Phase, Record
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.restore.plan import is_inside, top_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def recover(journal: Journal) -> str:
    """See `work.recovery`."""
    return put_in_place(journal)


def left(vm: BaseMachine, record: Record) -> tuple[str, str | None]:  # as `work.recovery` asks
    """See `work.recovery`."""
    return "", None


def put_in_place(journal: Journal, *, is_clearing: bool = False) -> str:
    """Complete a restore whose files were all ready, else undo it; returns what was done.

    Args:
        is_clearing: only what an earlier one may have left is removed.

    Raises:
        QvmError: the journal names files that are not the machine's.
    """
    vm, record = journal.vm, journal.record
    is_ready = record.phase is Phase.READY
    _require_own(vm, record.renames)
    folders = set()
    for new, target in record.renames:
        source, path = os.path.join(top_of(vm), new), os.path.join(top_of(vm), target)
        if not is_ready:
            host_files.remove(source)
        elif os.path.exists(source):
            os.rename(source, path)
            folders.add(os.path.dirname(path))
    for folder in folders:
        host_files.sync_folder(folder)
    is_other = record.uuid not in ("", identity.known_uuid(vm))
    if is_ready and is_other:  # another guest, with another host key
        host_files.remove(vm.files.known_hosts)
    for name in () if is_clearing else os.listdir(vm.files.state):
        if name.endswith(NEW):
            host_files.remove(os.path.join(vm.files.state, name))
    return "was completed" if is_ready else "was undone: the machine is as before"


def _require_own(vm: BaseMachine, renames: Sequence[tuple[str, str]]) -> None:
    """Another account may write to the journal: what it names must be the machine's."""
    name = foreign(vm, renames)
    if name:
        raise QvmError(
            f".qvm/archive.unfinished names {name}, which is not a file of the machine",
            machine=vm.name,
            hint="check that file; remove it if you do not know where it comes from",
        )


def foreign(vm: BaseMachine, renames: Sequence[tuple[str, str]]) -> str:
    """The first name that is not the machine's, "" if all are."""
    images = {os.path.realpath(each.path) for each in drives.named(vm)}
    own = images | {os.path.realpath(vm.files.vmrc)}
    for new, target in renames:
        path = os.path.normpath(os.path.join(top_of(vm), target))
        is_near = is_inside(vm, os.path.realpath(path)) and not os.path.isabs(target)
        if new != target + NEW or not (is_near or path in own):
            return target
    return ""
