"""A second machine like this one: all its disks, its snapshots, its settings, and an identity of its own.

    clone(vm, "../mail", Wish())       # Cloned

The state is taken as an archive takes it, so a machine that runs is cloned from one moment of its disks. It
is copied once, beside the new machine's place, sharing blocks where the file system can, and moved from there
into the new machine's directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from dataclasses import dataclass

from qvmsh.errors import QvmError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import identity, log, programs, registry
from qvmsh.machine.archive import archive, live_copy, maintenance, stores
from qvmsh.machine.archive import job as jobs
from qvmsh.machine.archive.checked_reader import Reader
from qvmsh.machine.archive.index import ArchiveIndex
from qvmsh.machine.create import create
from qvmsh.machine.guest import renewal
from qvmsh.machine.journal import Kind
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.restore import new_identity, new_machine
from qvmsh.machine.shelf.reports import Cloned
from qvmsh.machine.snapshot import of_s2e
from qvmsh.machine.storage import chain, linked, own_disk, volumes
from qvmsh.machine.work import creation_folder
from qvmsh.machine.work.lock import work_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.archive.model import Point
    from qvmsh.machine.restore.new_machine import Laid

STORE = ".clone"
"""Folder for the state, in the folder where the new machine is made."""


@dataclass(frozen=True)
class Wish:
    """The options of `clone`.

    Args:
        is_linked: the disks are backed by this machine's base, which must stay as it is then.
        keeps_identity: the same uuid, number and addresses.
        is_guest_renewed: at its first start the guest gets a machine-id, host keys and a name of its own.
    """

    is_linked: bool = False
    keeps_identity: bool = False
    is_guest_renewed: bool = False


def clone(vm: BaseMachine, directory: str, wish: Wish) -> Cloned:
    """Make the machine `directory`: all of it, or nothing.

    Raises:
        UsageError: it cannot be made there.
        StateError: this machine is in a state in which it cannot be copied.
        QvmError: the copy failed; nothing was left behind.
    """
    began = time.monotonic()
    final = os.path.abspath(directory)
    name = os.path.basename(final)
    for line in creation_folder.sweep(vm.environ):
        vm.io.warn(line)
    create.require_place(final, name, verb="clone")
    if os.path.realpath(final).startswith(os.path.realpath(vm.directory) + os.sep):
        raise UsageError("clone: a machine is not made inside another", machine=vm.name)
    if wish.is_linked:
        _require_base(vm)
    try:
        with (
            creation_folder.Folder(Kind.CLONE, final, vm.environ, vm.io) as folder,
            work_lock(vm, "clone"),
        ):
            os.chmod(folder.path, os.stat(vm.directory).st_mode & 0o755 | 0o700)
            point, laid = _made(vm, folder.path, name, final, wish)
            part = BaseMachine(folder.path, environ=vm.environ)
            if wish.is_linked:
                linked.note(part)
            with identity.settled(part, is_fixed=wish.keeps_identity):
                folder.put_in_place()
                registry.remember(BaseMachine(final, environ=vm.environ))
            if wish.is_linked:
                linked.add(final)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) and final in (error.filename, error.filename2):
            raise UsageError(f"clone: another command has just created {name}") from None
        hint = "nothing was left behind"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint += "; free some space"
        raise QvmError(f"cannot clone into {final}: {error.strerror}", machine=vm.name, hint=hint) from error
    host_files.sync_folder(os.path.dirname(final))
    made = BaseMachine(final, io=vm.io, environ=vm.environ)
    registry.remember(vm)
    log.note(vm, f"cloned as {final}")
    return Cloned(
        vm.name,
        made.name,
        final,
        consistency=_quality(point),
        is_linked=wish.is_linked,
        notes=_notes(laid, is_known=wish.is_guest_renewed or own_disk.is_empty(vm)),
        seconds=time.monotonic() - began,
    )


def _require_base(vm: BaseMachine) -> None:
    """Refuse a linked clone where there is nothing to share: its disks have no base."""
    for disk in volumes.configured(vm):
        with contextlib.suppress(OSError, QvmError):
            if chain.layers(disk.path, disk.format, vm.name, vm.directory)[1:]:
                return
    raise StateError(
        "cannot clone --linked: its disk has no base that could be shared", machine=vm.name,
        hint="leave out --linked: the disk is copied",
    )  # fmt: skip


def _notes(laid: Laid, *, is_known: bool) -> list[str]:
    """What to know about the clone; what its guest has in common with the original is repaired by an option.

    Args:
        is_known: it has nothing in common, or will not have it.
    """
    way = "; `clone --renew-guest` gives it new ones at its first start"
    rows = [(each, each.startswith(new_identity.ON_DISK)) for each in laid.notes]
    return [f"{each}{way * is_shared}" for each, is_shared in rows if not (is_shared and is_known)]


def _made(vm: BaseMachine, part: str, name: str, final: str, wish: Wish) -> tuple[Point, Laid]:
    """Make the new machine in the folder `part`."""
    store = stores.Folder(os.path.join(part, STORE))
    names = maintenance.layer_names(vm)
    index = ArchiveIndex(store, vm.settings.text("VM_MACHINE_NAME"), *names, identity.uuid_of(vm))
    job = jobs.Job(vm, jobs.Wish(is_full=True), index, is_passed_on=True, is_linked=wish.is_linked)
    job.final = final
    job.left = ""  # the folder's message says it
    found, point = archive.pass_on(job)
    reader = Reader(vm.io, programs.qemu_img(vm), index, found, point, part, verb="cloning")
    reader.is_taking, reader.is_linked = True, wish.is_linked
    laid = new_machine.lay_out(
        vm, reader, vm.environ, name=name, final=final, keeps_identity=wish.keeps_identity
    )
    shutil.rmtree(os.path.join(part, STORE))
    of_s2e.copy(vm, part)
    if wish.is_guest_renewed:
        renewal.ask(BaseMachine(part, environ=vm.environ))
    return point, laid


def _quality(point: Point) -> str | None:
    """How whole the disks are: None for a machine that was off."""
    if point.consistency == "off":
        return None
    return "quiesced" if point.consistency == live_copy.FROZEN else "crash-consistent"
