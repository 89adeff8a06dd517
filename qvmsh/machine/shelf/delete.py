"""Deleting machines: into the trash or for good, back from the trash, emptying it.

delete(vm, is_now=False, is_sure=True)       # Deleted
undelete("web", io, os.environ)              # Undeleted
"""

from __future__ import annotations

import errno
import os
import time

from qvmsh.config.words import quote, typed
from qvmsh.errors import ConfigError, QvmError, StateError, Terminated, UsageError, printable
from qvmsh.host import process
from qvmsh.machine import registry, state
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.progress import size
from qvmsh.machine.reports import lasting, plural, stamp
from qvmsh.machine.shelf import own_files, trash
from qvmsh.machine.shelf.reports import Deleted, Pruned, Trashed, Undeleted, archived, unseen_lines
from qvmsh.machine.storage import dependents, linked, volumes
from qvmsh.machine.work import creation_folder
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.io import Io
    from qvmsh.machine.shelf.own_files import Content

DAY_S = 86400.0


def delete(vm: BaseMachine, *, is_now: bool, is_sure: bool) -> Deleted:
    """Move the machine into the trash, or remove it.

    Raises:
        StateError: it is not off, protected, or other machines' disks are backed by its own.
        UsageError, QvmError: it was not confirmed. Nothing has been changed.
    """
    vm = own_files.real(vm)
    try:
        content = own_files.of(vm)
    except ConfigError as error:  # what is the machine's own cannot be known
        error.hint = f"correct it first; or `rm -r {typed(vm.directory)}`, which removes all that is in there"
        raise
    _require_free(vm, content)
    used = own_files.used_bytes(vm.directory, content.own)
    question = _question(vm, content, used, is_now=is_now)
    vm.io.require_yes(question, is_given=is_sure, what="delete", machine=vm.name)
    try:
        with work_lock(vm, "delete", is_looking=True):
            content = own_files.of(vm)
            _require_free(vm, content)
            entry = _put(vm, content, is_now=is_now)
        if is_now and entry:
            with vm.io.stage("removing"):
                trash.remove(entry)
    except (KeyboardInterrupt, Terminated):
        if not os.path.lexists(vm.files.vmrc):
            vm.io.warn(_too_late(vm))
        raise
    return Deleted(
        vm.name,
        vm.directory,
        trash=None if is_now or not entry else entry.path,
        foreign=content.foreign,
        outside=content.outside,
        archives=content.place or None,
        archives_there=content.archives_there,
        freed_bytes=used if is_now else 0,
    )


def _too_late(vm: BaseMachine) -> str:
    """What an interrupted deletion has done nevertheless."""
    if any(each.directory == vm.directory for each in trash.entries(vm.environ)):
        back = f"`qvm undelete {quote(vm.name)}` takes it back"
        return f"{vm.name}: interrupted too late: it is in the trash; {back}"
    return f"{vm.name}: interrupted too late: it was removed; `qvm prune` removes what is left of it"


def _put(vm: BaseMachine, content: Content, *, is_now: bool) -> trash.Entry | None:
    """Move the machine into the trash; on a full disk, which cannot take the note, remove it if allowed."""
    try:
        with process.Shielded():  # a few renames
            return trash.put(vm, content)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or content.foreign:
            raise
        if not is_now:
            raise QvmError(
                "cannot delete: the disk is full, and the trash needs room for a note", machine=vm.name,
                hint="`qvm delete --now` needs none, and frees what the machine takes",
            ) from None  # fmt: skip
    with vm.io.stage("removing"):
        trash.remove_beside(vm)
    return None


def _require_free(vm: BaseMachine, content: Content) -> None:
    """Refuse a machine that is on, protected, or that others need."""
    state.require_off(vm, state.observe(vm), "delete")
    if vm.settings.boolean("VM_PROTECT"):
        raise StateError(
            "cannot delete: it is protected (VM_PROTECT=yes)", machine=vm.name,
            hint=f"`qvm -C {quote(vm.directory)} config VM_PROTECT=no` first",
        )  # fmt: skip
    require_no_dependents(vm, content, "delete")


def require_no_dependents(vm: BaseMachine, content: Content, what: str) -> None:
    """Refuse where another machine needs a disk of this one: as a disk of its own, or as a base.

    Raises:
        StateError: there is one; the text names it.
        ImageError: a QEMU that qvm does not know has a disk in use.
    """
    linked.require_found(vm, what)
    here = os.path.realpath(vm.directory) + os.sep
    own = [each.path for each in volumes.configured(vm, is_to_come=True)]
    own += [os.path.join(vm.directory, each) for each in content.own]
    paths = [path for path in dict.fromkeys(own) if os.path.realpath(path).startswith(here)]
    files = [each for each in paths if os.path.isfile(each)]
    for path, directory in dependents.users(files, vm).items():
        raise StateError(
            f"cannot {what}: {os.path.basename(path)} is a disk of the machine in {directory}",
            machine=vm.name, hint=f"`qvm -C {quote(directory)} config edit` takes it from that machine",
        )  # fmt: skip
    going = [os.path.realpath(os.path.join(vm.directory, each)) for each in content.own]
    if what != "delete":  # what else is in there goes along, and still finds its base
        going = [os.path.realpath(vm.directory)]
    found = [
        (overlay, path)
        for path, above in dependents.overlays_on_each(files, vm).items()
        for overlay in above
        if not any(overlay == each or overlay.startswith(each + os.sep) for each in going)
    ]
    if found:
        lines = [f"{overlay} is backed by {os.path.basename(path)}" for overlay, path in dict(found).items()]
        raise StateError(
            f"cannot {what}: {lines[0]}", machine=vm.name, details=lines[1:], hint=_way_out(vm, found[0][0])
        )
    for path in files:
        image.require_unused(path, vm.name)


def _way_out(vm: BaseMachine, overlay: str) -> str:
    """What frees a base from one of its overlays."""
    folder = os.path.dirname(overlay)
    for entry in trash.entries(vm.environ):
        if folder.startswith(os.path.realpath(entry.path)):
            back = f"`qvm undelete {quote(entry.name)}`"
            return f"{entry.name} is in the trash: {back}, or `qvm prune --older 0`, which empties it"
    return dependents.way_out(vm, overlay)


def _question(vm: BaseMachine, content: Content, used: int, *, is_now: bool) -> str:
    """What goes, and what stays."""
    lines = [f"{vm.name} in {vm.directory}: {size(used)}"]
    if content.archives:
        lines.append(f"  with {plural(content.archives, 'archived state')}")
    if content.foreign:
        lines.append(f"  not its own, and kept: {', '.join(content.foreign)}")
    if content.outside:
        lines.append(f"  elsewhere, and kept: {', '.join(content.outside)}")
    if content.place:
        lines.append(f"  elsewhere, and kept: {archived(content.archives_there, content.place)}")
    last = "Remove it for good?" if is_now else "Move it into the trash?"
    return "\n".join([*map(printable, lines), last])


def undelete(name: str | None, environ: Mapping[str, str], io: Io) -> Undeleted:
    """Take the machine of that name, the latest of several, or the latest of all, back to where it was.

    Raises:
        UsageError: there is none in the trash.
        StateError: something else is in its place.
    """
    for line in creation_folder.sweep(environ):
        io.warn(line)
    found = trash.entries(environ)
    wanted = [each for each in found if name in (None, each.name)]
    if not wanted:
        names = ", ".join(dict.fromkeys(each.name for each in found)) or "nothing"
        what = f"undelete: {name} is not in the trash" if name else "undelete: the trash is empty"
        raise UsageError(what, hint=f"in the trash: {names}", details=unseen_lines(trash.unseen(environ)))
    entry = wanted[-1]
    try:
        trash.take_back(entry, entry.directory, environ, io)
    except OSError as error:
        raise QvmError(
            f"cannot undelete into {entry.directory}: {error.strerror}", machine=entry.name,
            hint=f"it is still in the trash: {entry.path}",
        ) from error  # fmt: skip
    vm = BaseMachine(entry.directory, io=io, environ=environ)
    registry.remember(vm)
    return Undeleted(entry.name, entry.directory)


def in_trash(name: str | None, environ: Mapping[str, str]) -> Trashed:
    """What is in the trash, or what of that name, the latest first."""
    found = [each for each in trash.entries(environ) if name in (None, each.name)]
    rows = [
        {
            "machine": each.name, "deleted": stamp(each.since), "directory": each.directory,
            "used_bytes": own_files.used_bytes(each.path),
        }
        for each in reversed(found)
    ]  # fmt: skip
    return Trashed(rows, trash.unseen(environ))


def _went(going: list[trash.Entry], gone: list[trash.Entry]) -> str:
    """Which of the machines that were to be removed are, after one of them has failed, or was interrupted."""
    half = [each for each in going if each not in gone and not os.path.lexists(each.path)]
    left = [each for each in going if each not in gone and each not in half]
    rows = {
        "removed": gone,
        "partly removed (`qvm prune` removes the rest)": half,
        "still in the trash": left,
    }
    return "; ".join(
        f"{what}: {', '.join(printable(each.name) for each in each_row) or 'nothing'}"
        for what, each_row in rows.items()
        if each_row or what == "removed"
    )


def prune(older_days: float, *, is_sure: bool, environ: Mapping[str, str], io: Io) -> Pruned:
    """Remove what has been in the trash for longer than that.

    Raises:
        UsageError, QvmError: it was not confirmed. Nothing has been changed.
    """
    found = trash.entries(environ)
    now = time.time()
    going = [each for each in found if now - each.since >= older_days * DAY_S]
    sizes = {each: own_files.used_bytes(each.path) for each in going}
    if going:
        lines = [
            f"{each.name} from {each.directory}, deleted {lasting(now - each.since)} ago: {size(sizes[each])}"
            for each in going
        ]
        question = "\n".join([*map(printable, lines), "Remove this for good?"])
        io.require_yes(question, is_given=is_sure, what="prune")
    trash.sweep(environ)
    gone: list[trash.Entry] = []
    try:
        gone.extend(each for each in going if trash.remove(each))  # as far as it comes
    except (KeyboardInterrupt, Terminated):
        io.warn(f"interrupted; {_went(going, gone)}")
        raise
    except (QvmError, OSError) as error:
        if not isinstance(error, QvmError):
            error = QvmError(f"cannot remove {error.filename or 'it'}: {error.strerror}")
        error.details = (*error.details, _went(going, gone))
        raise error from None
    left = len(found) - len(going)
    freed = sum(sizes[each] for each in gone)
    return Pruned([each.name for each in gone], freed, left, trash.unseen(environ))
