"""`archive`: the whole machine into an archive, off or while its guest works.

    archive(vm, Wish(is_create=True))         # Archived(...)

What a state is written by is `archive_writer`; what a killed command left, `archive_keeping`; rotation is
`archive_removal`.
"""

from __future__ import annotations

import contextlib
import math
import os
import time

from qvmsh.errors import QmpError, QvmError, StateError, Terminated, UsageError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process, transfer
from qvmsh.machine import identity, log, progress, snapshot_names, state
from qvmsh.machine import journal as journals
from qvmsh.machine import programs as tools
from qvmsh.machine.archive import changes, drives, stores
from qvmsh.machine.archive import live_copy as cut
from qvmsh.machine.archive import maintenance as archive_keeping
from qvmsh.machine.archive import model as archives
from qvmsh.machine.archive import removal as archive_removal
from qvmsh.machine.archive import writer as archive_writer
from qvmsh.machine.archive.drives import Drive
from qvmsh.machine.archive.model import Archive, Point
from qvmsh.machine.archive.reports import Archived
from qvmsh.machine.archive.writer import ROOM_BYTES, Job, Wish, Writer
from qvmsh.machine.create import layers as images
from qvmsh.machine.journal import Kind, Record
from qvmsh.machine.monitor import conversation
from qvmsh.machine.snapshot import managed_save as saved
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.store import Images
from qvmsh.machine.storage import bitmaps, chain, dependents, volumes
from qvmsh.machine.work import guardian
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import Machine


@log.failures
def archive(vm: Machine, wish: Wish) -> Archived:
    """Archive the machine; see `commands.archive`.

    Raises:
        StateError: it cannot be archived in the state that it is in; it is as it was.
        QvmError: the copy failed; machine and archives are as they were.
    """
    _require_sense(vm, wish)
    began = time.monotonic()
    with work_lock(vm, "archive"):
        seen = state.observe(vm)
        stores.require_mounted(vm)
        identity.uuid_of(vm)  # from now on it has one, by which its archives are known
        job = Job(vm, wish, archive_keeping.shelf_of(vm))
        place = job.store.path()
        if place is not None and not os.path.isdir(place):  # a disk that is not mounted shows here
            job.said.append(f"{place} was not there, and is made now")
        archive_keeping.sweep(vm, job.shelf)
        archive_keeping.warn_of_unreadable(vm, job.shelf)
        with _telling_what_is_left(job):
            if seen.is_live:
                found, point = _of_running(job, seen)
            else:
                found, point = _of_stopped(job)
            job.left = f"{found.folder}/{point.stamp} is whole, what --keep removes may be there still"
            removed = archive_removal.rotate(vm, job.shelf, wish, (found.folder, point.stamp))
    log.note(vm, f"archived as {found.folder}/{point.stamp}")
    return Archived(
        vm.name, found.folder, point, where=job.store.shown, copied_bytes=job.copied_bytes,
        pause_s=job.pause_s, seconds=time.monotonic() - began, notes=job.said, removed=removed,
    )  # fmt: skip


@contextlib.contextmanager
def _telling_what_is_left(job: Job) -> Iterator[None]:
    """A failure says what has been done all the same; an interruption is none, and has its own line."""
    try:
        yield
    except QvmError as error:
        if job.changed:
            error.details = (*error.details, job.changed)
        raise
    except (KeyboardInterrupt, Terminated):
        is_undone = not os.path.exists(job.vm.files.archive_journal)
        left = job.left if is_undone else "the next command of the machine puts its disks in order"
        job.vm.io.warn(f"{job.vm.name}: interrupted; {left}")
        raise


def _require_sense(vm: Machine, wish: Wish) -> None:
    if wish.compress_base and not wish.compress:
        raise UsageError("archive: --compress-base needs --compress", machine=vm.name)
    if wish.drop_snapshots and not wish.is_create:
        raise UsageError("archive: --drop-snapshots belongs to --create", machine=vm.name)
    if wish.drop_snapshots and wish.delvm:
        raise UsageError("archive: --drop-snapshots leaves --delvm nothing to remove", machine=vm.name)
    if wish.savevm and wish.savevm == wish.delvm:
        raise UsageError(f"archive: --savevm and --delvm both name {wish.savevm}", machine=vm.name)
    for name, value in (("--keep", wish.keep), ("--keep-days", wish.keep_days)):
        if value is not None and not 0 < value < math.inf:  # a NaN is not either
            raise UsageError(f"archive: {name} {value:g}: must be more than 0", machine=vm.name)
    if wish.savevm:
        snapshot_names.require_name(vm, wish.savevm)
    if wish.compress:
        transfer.compressor(wish.compress)


# A machine that is off


def _of_stopped(job: Job) -> tuple[Archive, Point]:
    vm, wish = job.vm, job.wish
    if wish.savevm:
        raise StateError(
            "cannot save the memory: it is off",
            machine=vm.name,
            hint="`qvm start` first, or leave --savevm out",
        )
    found = drives.of(vm)
    for drive in found:
        if not drive.left_out:
            image.require_unused(drive.path, vm.name)
    _require_tag(job, found)
    if wish.is_create and vm.settings.boolean("VM_USE_SNAPSHOTS"):
        _commit_or_keep(job, found)
    newest = max((os.stat(drive.path).st_mtime for drive in found if not drive.left_out), default=0.0)
    writer = Writer(job, found, archives.stamp_of(newest), consistency="off")
    same = writer.unchanged()
    if same:
        job.said.append("nothing has changed since; it was not copied again")
        return same
    writer.require_room()
    with writer.writing():
        for drive in writer.taken:
            writer.put_top(drive)
    return writer.result()


def _require_tag(job: Job, found: Sequence[Drive]) -> None:
    """Refuse a --delvm that names nothing, before anything is done.

    Raises:
        StateError: the machine's own disk has no such snapshot, or a disk has several.
    """
    tag = job.wish.delvm
    main = next((each for each in found if not each.left_out), None)
    if not tag or main is None or main.format != "qcow2":
        return
    names = [each["name"] for each in bitmaps.tags_of(tools.qemu_img(job.vm), main.path)]
    if tag not in names:
        raise StateError(
            f"there is no snapshot {tag} to remove", machine=job.vm.name,
            hint=f"there are: {', '.join(names) or 'none'}",
        )  # fmt: skip
    Images(job.vm, [each for each in volumes.configured(job.vm) if each.format == "qcow2"]).require_one(tag)


def _commit_or_keep(job: Job, found: Sequence[Drive]) -> None:
    """What `--create` does with the overlay: commit it into the base, or archive the pair as it is."""
    vm = job.vm
    layers = images.Layers(vm)
    overlay, base = os.path.basename(layers.overlay), os.path.basename(layers.base)
    program = tools.qemu_img(vm)
    tags = chain.snapshots_in(layers.overlay, "qcow2")
    if tags and not job.wish.drop_snapshots:
        job.said.append(
            f"{overlay} holds {_count(len(tags), 'snapshot')}, which a commit would falsify: archived as a "
            "pair, the machine is as it was (--drop-snapshots commits)"
        )
        return
    own = os.path.realpath(layers.overlay)
    others = [dependents.shown(vm, each) for each in dependents.overlays_on(layers.base, vm) if each != own]
    if others:
        job.said.append(
            f"{', '.join(others)} also stands on {base}, which a commit would falsify: archived as a pair"
        )
        return
    if image.header(layers.overlay).has_data_file:
        return  # which cannot be archived
    if not image.has_data(program, layers.overlay):
        return
    kind = image.kind(program, layers.overlay)
    need = os.stat(layers.overlay).st_blocks * 512
    if need + ROOM_BYTES > host_files.free_bytes(vm.directory):
        raise QvmError(
            f"not enough room to commit {overlay} into {base}: it may take {progress.size(need)}",
            machine=vm.name, hint="make room; nothing was changed",
        )  # fmt: skip
    _require_place(job, found, is_roomy=bool(tags))
    job.left = f"the archives are as they were; the disk reads as before, {overlay} may be committed"
    journal = journals.begin(vm, Record(Kind.ARCHIVE))
    try:
        with vm.io.stage(f"committing {overlay} into {base}"):
            # -d leaves the overlay as it is: killed at any moment, overlay and base together read the same
            words = ["commit", "-q", "-d", "-f", "qcow2", image.safe_name(layers.overlay)]
            image.run(program, words, what=f"commit {overlay} into {base}")
            host_files.sync(layers.base)
            images.make_overlay(vm, layers, host_files.mode(layers.overlay), kind)
            _forget(vm, [each.name for each in tags])
    finally:
        journal.end()
    job.changed = f"{overlay} is committed into {base}"
    job.left = f"the archives are as they were, {job.changed}"


def _require_place(job: Job, found: Sequence[Drive], *, is_roomy: bool) -> None:
    """Refuse to commit where no archive can be made afterwards.

    Args:
        is_roomy: the commit loses something; so there must be room even if nothing in overlay and base
            takes the same place.

    Raises:
        QvmError, OSError: nothing can be written there, or there is too little room.
    """
    probe = job.shelf.part_folder(f"{job.vm.name}-{archives.stamp_of(0)}")
    try:
        job.store.remove_folder(probe)
        job.store.make(probe)
        job.store.remove_folder(probe)
    except OSError as error:
        raise QvmError(
            f"cannot archive: {error.filename or job.store.shown}: {error.strerror}", machine=job.vm.name,
            hint="nothing was changed; VM_ARCHIVE names a folder that you can write to",
        ) from error  # fmt: skip
    if is_roomy:
        taken = [each for each in found if not each.left_out]
        paths = [each.path for each in taken]
        paths += [path for each in taken for path, _ in drives.below(job.vm, each)]
        archive_writer.require_room(job, paths)


def _forget(vm: Machine, names: Sequence[str]) -> None:
    """What was known of snapshots that have gone with the overlay, and that no other disk holds."""
    disks = [each for each in volumes.configured(vm) if each.format == "qcow2"]
    left = {tag.name for each in disks for tag in chain.snapshots_in(each.path, each.format)}
    known = Catalogue.read(vm)
    for name in names:
        if name in known.entries and name not in left:
            known.remove(name)


# A machine that runs


def _of_running(job: Job, seen: state.Observation) -> tuple[Archive, Point]:
    vm, wish = job.vm, job.wish
    if wish.is_create:
        raise StateError(
            f"cannot archive --create: it is {seen}", machine=vm.name, actual=seen.kind,
            required=state.STOPPED,
            hint="`qvm archive` archives it while it runs; or `qvm stop` first",
        )  # fmt: skip
    if seen.note is None or seen.kind not in (state.RUNNING, state.PAUSED, state.SUSPENDED, state.SHUT_DOWN):
        raise state.not_in_state(vm, seen, "archive", state.RUNNING)
    if seen.note.disposable or seen.note.base_only:
        how = "disposable, its changes vanish" if seen.note.disposable else "its base that runs (--base-only)"
        raise StateError(f"cannot archive: it is {how}", machine=vm.name, hint="`qvm stop`, then `qvm start`")
    if wish.savevm and seen.kind not in (state.RUNNING, state.PAUSED):
        raise state.not_in_state(vm, seen, "save the memory", state.RUNNING)
    is_held = bool(wish.savevm) and seen.kind == state.RUNNING
    try:
        with guardian.Guardian(vm):
            made = _live(job, seen.note, is_held=is_held)
    except QmpError as error:
        raise _failure(job, error) from None
    if locks.holder(vm.files.pid_file) is None:
        vm.io.warn(f"{vm.name}: QEMU ended while it was archived; all that the guest wrote is on its disks")
    return made


def _failure(job: Job, error: QmpError) -> QmpError:
    """What QEMU's refusal, or its end, means for an archive."""
    vm = job.vm
    error.machine = error.machine or vm.name
    if not state.has_ended(vm, error):
        error.hint = error.hint or f"{job.left}; the guest runs on"
        return error
    return QmpError(
        "cannot archive: QEMU ended meanwhile", machine=vm.name, details=[error.what, *error.details],
        hint="all that the guest wrote is on its disks, the archives are as they were; `qvm start` starts it",
    )  # fmt: skip


@contextlib.contextmanager
def _letting_go(note: LaunchRecord, writer: Writer) -> Iterator[None]:
    """After a failure a guest that is held is resumed at once, before all that has to be undone."""
    try:
        yield
    except BaseException:
        if writer.journal.record.is_held:
            with process.Shielded(process.SIGINT, process.SIGTERM, process.SIGTSTP):
                _let_go(note)
                kind = state.observe(writer.vm).kind
                writer.journal.change(is_held=kind not in (state.RUNNING, state.STOPPED))
        raise


def _let_go(note: LaunchRecord) -> None:
    with contextlib.suppress(OSError, QmpError), conversation.begin(note) as qemu:
        if qemu.ask("query-status")["status"] == "paused":
            conversation.resume(qemu)


def _live(job: Job, note: LaunchRecord, *, is_held: bool) -> tuple[Archive, Point]:
    from qvmsh.qemu.session import Session

    vm, wish = job.vm, job.wish
    with Session(note.socket("session"), vm.io.checkpoint) as qemu:
        changes.clear(vm, qemu)
        found = drives.live(vm, qemu.execute("query-block"))
    writer = Writer(job, found, archives.stamp_of(time.time()), consistency=cut.CRASH)
    _require_tag(job, found)
    if writer.is_new:
        writer.require_room()
    with contextlib.ExitStack() as afterwards, writer.writing(), _letting_go(note, writer):
        if wish.savevm:
            _save(job, note, writer, is_held=is_held)
        tracking = _copy(job, note, writer, is_held=is_held)
        afterwards.callback(_settle_bitmaps, vm, note, writer, tracking)
    return writer.result()


def _copy(job: Job, note: LaunchRecord, writer: Writer, *, is_held: bool) -> changes.Tracking:
    """Copy all disks, as they are at one moment."""
    from qvmsh.qemu.session import Session

    vm, wish = job.vm, job.wish
    with (
        Session(note.socket("session"), vm.io.checkpoint) as qemu,
        changes.Tracking(vm, qemu, writer.archive, writer.stored, writer.point.id) as tracking,
    ):
        for drive in writer.taken:
            is_whole = writer.is_new or wish.is_full or bool(wish.delvm)
            tracking.add(drive, writer.source_of(drive.path), is_whole=is_whole)
        if wish.delvm and not writer.is_new:
            job.said.append(f"copied whole: the copy goes without the snapshot {wish.delvm}")
        if tracking.why_whole:
            job.said.append(f"copied whole: {tracking.why_whole}")
        writer.announce_changes(set(tracking.since))
        writer.require_room()
        whole = [each for each in writer.taken if each.role not in tracking.since]
        with cut.Cut(vm, note, qemu, whole, writer.journal, more=tracking.actions, is_held=is_held) as taking:
            writer.point.consistency = cut.HELD if wish.savevm else taking.consistency
            job.pause_s = taking.pause_s
            for drive in writer.taken:
                if drive.role in tracking.since:
                    writer.put_changes(drive, tracking.wait(drive), tracking.since[drive.role])
                else:
                    writer.put_top(drive)
    return tracking


def _settle_bitmaps(vm: Machine, note: LaunchRecord, writer: Writer, tracking: changes.Tracking) -> None:
    from qvmsh.qemu.session import Session

    with (
        contextlib.suppress(QmpError),
        Session(note.socket("session"), vm.io.checkpoint) as qemu,
        cut.putting_right(qemu),
    ):
        tracking.settle(qemu, is_whole=writer.is_whole)


def _save(job: Job, note: LaunchRecord, writer: Writer, *, is_held: bool) -> None:
    """Put a snapshot with the memory into the disks; the guest stays held, and the note says so first."""
    writer.journal.write(is_held=is_held)
    name, program = job.wish.savevm, tools.qemu_img(job.vm)
    qcow2 = [each for each in writer.taken if each.format == "qcow2"]
    if any(tag["name"] == name for each in qcow2 for tag in bitmaps.tags_of(program, each.path)):
        job.said.append(f"the snapshot {name} that was there is replaced")
    job.left = "its archives are as they were"
    with job.vm.io.stage(f"saving the state as {job.wish.savevm}"):
        saved.save(job.vm, note, job.wish.savevm, has_suspend=False)
    job.changed = f"the snapshot {job.wish.savevm} is in its disks"
    job.left += f", {job.changed}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
