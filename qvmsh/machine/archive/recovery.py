"""Work that must be completed or undone if its command is killed: a note of it, and what follows from it.

May import: `host`, `qemu`, `machine.cut`, `machine.state`.

    note = begin(vm, "archive", cuts=[...])     # .qvm/archive.unfinished, synced
    ...
    end(vm)

`launch.work_lock` looks for the note, so whatever command comes next (`start`, `stop`, `archive` ...)
completes the work first, and says so. Only one command works at a time, so there is one note at most.
"""

from __future__ import annotations

import json
import os
import time

from qvmsh.errors import QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import locks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import Machine


KINDS: dict[str, dict[str, type]] = {
    "archive": {"cuts": list, "is_frozen": int, "is_held": int},
    "restore": {"swap": list, "is_ready": int},
}
"""The work that is noted, and what completing or undoing it reads."""
CUT = ("disk", "format", "node", "cut", "cut_node", "state")
"""What is noted of an overlay, each a text."""


def begin(vm: Machine, what: str, **facts: Any) -> dict[str, Any]:
    """Note that the work `what` is under way."""
    work = {"what": what, "since": time.time(), "pid": os.getpid(), **facts}
    write(vm, work)
    return work


def write(vm: Machine, work: dict[str, Any]) -> None:
    """Note how far it is; it is on the disk when this returns.

    A note of the same length takes the place of the old one, for which a full disk has room too.
    """
    text = json.dumps(work).encode() + b"\n"
    try:
        fd = host_files.opened(vm.files.interrupted, os.O_WRONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        fd = -1
    if fd >= 0:
        try:
            if os.fstat(fd).st_size == len(text):
                os.pwrite(fd, text, 0)
                os.fsync(fd)
                return
        finally:
            os.close(fd)
    host_files.write_atomic(vm.files.interrupted, text.decode(), 0o600)


def end(vm: Machine) -> None:
    """The work is done, or undone."""
    host_files.remove(vm.files.interrupted)


def read(vm: Machine) -> dict[str, Any] | None:
    """The work that is, or was, under way.

    Raises:
        QvmError: the note cannot be read, or makes no sense.
    """
    try:
        found = host_files.document(vm.files.interrupted)
        _require_sense(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise QvmError(
            f"cannot read .qvm/archive.unfinished: {error}",
            machine=vm.name,
            hint="`.qvm/cut-*` may hold what the guest wrote last; if there is none, remove that file",
        ) from None
    return found


def _require_sense(work: dict[str, Any]) -> None:
    """Check what the title, and the way back, read.

    Raises:
        ValueError, TypeError, KeyError, OverflowError, OSError: the value is missing, or of another kind.
    """
    time.localtime(work["since"])
    for key, kind in KINDS[work["what"]].items():
        if not isinstance(work[key], kind):
            raise ValueError(f"{key} makes no sense")
    words = [cut[key] for cut in work.get("cuts", ()) for key in CUT]
    words += [word for new, target in work.get("swap", ()) for word in (new, target)]
    if not all(isinstance(each, str) and "\0" not in each for each in [*words, work.get("state", "")]):
        raise ValueError("a name is no text")


def _title(work: dict[str, Any]) -> str:
    return f"`qvm {work['what']}` of {time.strftime('%T', time.localtime(work['since']))} was interrupted"


def told(vm: Machine, work: dict[str, Any]) -> str:
    """What is under way, or was cut off, for one who only looks."""
    by = locks.working(vm.files.work_lock)
    if by is not None and by.what != locks.SETTLING:
        return f"{work['what']} is under way: {by} is at work"
    what = _title(work)
    names = [
        cut["cut"] for cut in work.get("cuts", []) if os.path.exists(os.path.join(vm.directory, cut["cut"]))
    ]
    if names:
        what += f", and what the guest wrote since is in {', '.join(names)}"
    return f"{what}: the next command that changes the machine completes it"


def require_none(vm: Machine) -> None:
    """Refuse what would build on disks that are not whole: there is work that could not be completed.

    Raises:
        StateError: there is.
    """
    work = read(vm)
    if work is not None:
        raise StateError(
            f"a `qvm {work['what']}` was interrupted and its work is not completed yet",
            machine=vm.name,
            hint="`qvm doctor --fix` completes it, or says why not",
        )


def finish(vm: Machine, *, is_lenient: bool = False, is_silent: bool = False) -> str:
    """Complete or undo what a killed command left; returns what was done, "" if there was nothing.

    The caller holds the work lock.

    Args:
        is_lenient: go on with a warning where a running QEMU does not help; what the guest writes is
            safe all the same, and the next command tries again.
        is_silent: the caller tells what was done.

    Raises:
        QvmError: it cannot be done (a full disk); nothing has been lost, the note stays.
    """
    from qvmsh.machine import log
    from qvmsh.machine.archive import changes
    from qvmsh.machine.archive import live_copy as cut
    from qvmsh.machine.archive import maintenance as archive_keeping
    from qvmsh.machine.restore import in_place as restore_same
    from qvmsh.machine.storage import layers as images

    try:
        work = read(vm)
    except QvmError as error:
        if not is_lenient:
            raise
        vm.io.warn(f"{vm.name}: {error.what}")
        return ""
    if work is None:
        return ""
    what = _title(work)
    try:
        if work["what"] == "restore":
            done = restore_same.settle(vm, work)
        else:
            is_running = locks.holder(vm.files.pid_file) is not None
            joined = cut.settle(vm, work, is_running=is_running)
            if is_running:
                changes.clear_running(vm)
            images.remove_parts(vm)
            swept = archive_keeping.sweep_near(vm, work.get("state", ""))
            done = ", ".join(filter(None, (joined, swept)))
    except (QvmError, OSError) as error:
        why = error.what if isinstance(error, QvmError) else f"{error.filename}: {error.strerror}"
        if is_lenient:
            vm.io.warn(f"{vm.name}: {what}, and cannot be completed now: {why}")
            return ""
        raise QvmError(
            f"{what}, and cannot be completed: {why}",
            machine=vm.name,
            details=getattr(error, "details", ()),
            hint=getattr(error, "hint", None)
            or "make room if the disk is full; `qvm doctor --fix` tries again",
        ) from None
    end(vm)
    told = f"{what}: {done}"
    if not is_silent:
        vm.io.warn(f"{vm.name}: {told}")
    log.note(vm, told)
    return told
