"""`archive`: the whole machine into an archive, off or while its guest works.

    archive(vm, Wish(is_create=True))         # Archived(...)

`writer` writes a state, `maintenance` removes what a killed command left, `removal` rotates.
"""

from __future__ import annotations

import contextlib
import math
import os
import time

from qvmsh.errors import QmpError, QvmError, StateError, Terminated, UsageError
from qvmsh.host import compression, locks, process
from qvmsh.host import files as host_files
from qvmsh.machine import identity, log, programs, progress, snapshot_names, state
from qvmsh.machine import journal as journals
from qvmsh.machine.archive import changes, drives, live_copy, maintenance, model, removal, stores, unchanged
from qvmsh.machine.archive.drives import Drive
from qvmsh.machine.archive.job import ROOM_BYTES, Job, Wish
from qvmsh.machine.archive.model import Archive, Point
from qvmsh.machine.archive.reports import Archived
from qvmsh.machine.archive.writer import Writer
from qvmsh.machine.create import layers as create_layers
from qvmsh.machine.guest import frozen, sleep
from qvmsh.machine.journal import Kind, Record
from qvmsh.machine.monitor import conversation
from qvmsh.machine.reports import plural
from qvmsh.machine.snapshot import managed_save
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.store import Images
from qvmsh.machine.storage import bitmaps, chain, dependents, linked, volumes
from qvmsh.machine.work import guardian
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine


@log.failures
def archive(vm: BaseMachine, wish: Wish) -> Archived:
    """Archive the machine; see `commands.archive`.

    Raises:
        StateError: it cannot be archived in this state; nothing changed.
        QvmError: the copy failed; machine and archives did not change.
    """
    _require_sense(vm, wish)
    began = time.monotonic()
    with work_lock(vm, "archive"):
        frozen.require_thawed(vm, "cannot archive")
        seen = state.observe(vm)
        stores.require_mounted(vm)
        identity.uuid_of(vm)  # archives are matched by it
        job = Job(vm, wish, maintenance.index_of(vm))
        maintenance.require_alone(vm, job.index, "archive")
        place = job.store.path()
        if place is not None and not os.path.isdir(place):  # perhaps a disk that is not mounted
            job.said.append(f"created {place}, which did not exist")
        maintenance.sweep(vm, job.index)
        maintenance.warn_of_unreadable(vm, job.index)
        with _telling_what_is_left(job):
            if seen.is_live:
                found, point = _of_running(job, seen)
            else:
                found, point = _of_stopped(job)
            job.left = f"{found.folder}/{point.stamp} is complete; what --keep removes may still be there"
            removed = removal.rotate(vm, job.index, wish, (found.folder, point.stamp))
    log.note(vm, f"archived as {found.folder}/{point.stamp}")
    return Archived(job, found.folder, point, seconds=time.monotonic() - began, removed=removed)


def pass_on(job: Job) -> tuple[Archive, Point]:
    """Write the machine's state for another machine; the caller holds the work lock.

    The store is empty, and removed afterwards.

    Raises:
        StateError, QvmError: as `archive`.
    """
    seen = state.observe(job.vm)
    identity.uuid_of(job.vm)
    with _telling_what_is_left(job):
        return _of_running(job, seen) if seen.is_live else _of_stopped(job)


@contextlib.contextmanager
def _telling_what_is_left(job: Job) -> Iterator[None]:
    """Report what was done before a failure or an interruption."""
    try:
        yield
    except QvmError as error:
        if job.changed:
            error.details = (*error.details, job.changed)
        raise
    except (KeyboardInterrupt, Terminated):
        is_undone = not os.path.exists(job.vm.files.archive_journal)
        left = job.left if is_undone else "the next command on the machine recovers its disks"
        if left:
            job.vm.io.warn(f"{job.vm.name}: interrupted; {left}")
        raise


def _require_sense(vm: BaseMachine, wish: Wish) -> None:
    if wish.compress_base and not wish.compress:
        raise UsageError("archive: --compress-base needs --compress", machine=vm.name)
    if wish.drop_snapshots and not wish.is_create:
        raise UsageError("archive: --drop-snapshots needs --create", machine=vm.name)
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
        compression.compressor(wish.compress)


# A machine that is off


def _of_stopped(job: Job) -> tuple[Archive, Point]:
    vm, wish = job.vm, job.wish
    if wish.savevm:
        raise StateError(
            "cannot save the memory: the machine is off",
            machine=vm.name,
            hint="`qvm start` first, or omit --savevm",
        )
    found = drives.of(vm)
    for drive in found:
        if not drive.left_out:
            image.require_unused(drive.path, vm.name)
    _require_tag(job, found)
    if wish.is_create and vm.settings.boolean("VM_USE_SNAPSHOTS"):
        _commit_or_keep(job, found)
    newest = max((os.stat(drive.path).st_mtime for drive in found if not drive.left_out), default=0.0)
    writer = Writer(job, found, model.stamp_of(newest), consistency="off")
    same = unchanged.newest_state(writer)
    if same:
        job.said.append("nothing has changed since; nothing was copied")
        return same
    writer.require_room()
    with writer.writing():
        for drive in writer.taken:
            writer.put_top(drive)
    return writer.result()


def _require_tag(job: Job, found: Sequence[Drive]) -> None:
    """Refuse a --delvm that names nothing, before anything is done."""
    tag = job.wish.delvm
    main = next((each for each in found if not each.left_out), None)
    if not tag or main is None or main.format != "qcow2":
        return
    names = [each["name"] for each in bitmaps.tags_of(programs.qemu_img(job.vm), main.path)]
    if tag not in names:
        raise StateError(
            f"there is no snapshot {tag} to remove", machine=job.vm.name,
            hint=f"there are: {', '.join(names) or 'none'}",
        )  # fmt: skip
    Images(job.vm, [each for each in volumes.configured(job.vm) if each.format == "qcow2"]).require_one(tag)


def _commit_or_keep(job: Job, found: Sequence[Drive]) -> None:
    """What `--create` does with the overlay: commit it into the base, or archive the pair as it is."""
    vm = job.vm
    layers = create_layers.Layers(vm)
    overlay, base = os.path.basename(layers.overlay), os.path.basename(layers.base)
    program = programs.qemu_img(vm)
    tags = chain.snapshots_in(layers.overlay, "qcow2")
    if tags and not job.wish.drop_snapshots:
        job.said.append(
            f"{overlay} holds {plural(len(tags), 'snapshot')}, which a commit would corrupt: archived as a "
            "pair, the machine did not change (--drop-snapshots commits)"
        )
        return
    own = dependents.content(layers.overlay)
    above = dependents.overlays_on(layers.base, vm, is_written=True)
    others = [dependents.shown(vm, each) for each in above if dependents.content(each) != own]
    if gap := linked.gap(vm, layers.base):
        job.said.append(f"{gap.why}, and a commit to {base} might corrupt it: archived as a pair")
        return
    if others:
        job.said.append(
            f"{', '.join(others)} is also backed by {base} and a commit would corrupt it: archived as a pair"
        )
        return
    if image.header(layers.overlay).has_data_file:
        return  # which cannot be archived
    if not qemuimg.has_data(program, layers.overlay):
        return
    kind = qemuimg.kind(program, layers.overlay)
    need = os.stat(layers.overlay).st_blocks * 512
    if need + ROOM_BYTES > host_files.free_bytes(vm.directory):
        raise QvmError(
            f"not enough free space to commit {overlay} into {base}: it may take {progress.size(need)}",
            machine=vm.name, hint="free some space; nothing was changed",
        )  # fmt: skip
    _require_place(job, found, is_roomy=bool(tags))
    job.left = f"the archives did not change; the disk content neither, but {overlay} may be committed"
    journal = journals.begin(vm, Record(Kind.ARCHIVE))
    try:
        with vm.io.stage(f"committing {overlay} into {base}"):
            # -d leaves the overlay as it is: killed at any moment, overlay and base together read the same
            words = ["commit", "-q", "-d", "-f", "qcow2", image.safe_name(layers.overlay)]
            qemuimg.run(program, words, what=f"commit {overlay} into {base}")
            host_files.sync(layers.base)
            create_layers.make_overlay(vm, layers, host_files.mode(layers.overlay), kind)
            _forget(vm, [each.name for each in tags])
    finally:
        journal.end()
    job.changed = f"{overlay} was committed into {base}"
    job.left = f"the archives did not change; {job.changed}"


def _require_place(job: Job, found: Sequence[Drive], *, is_roomy: bool) -> None:
    """Refuse to commit where no archive can be made afterwards.

    Args:
        is_roomy: the commit loses snapshots, so there must be enough space even if overlay and base do
            not overlap.
    """
    probe = job.index.part_folder(f"{job.vm.name}-{model.stamp_of(0)}")
    try:
        job.store.remove_folder(probe)
        job.store.make(probe)
        job.store.remove_folder(probe)
    except OSError as error:
        raise QvmError(
            f"cannot archive: {error.filename or job.store.shown}: {error.strerror}", machine=job.vm.name,
            hint="nothing was changed; set VM_ARCHIVE to a folder that you can write to",
        ) from error  # fmt: skip
    if is_roomy:
        taken = [each for each in found if not each.left_out]
        paths = [each.path for each in taken]
        paths += [path for each in taken for path, _ in drives.below(job.vm, each)]
        job.require_room(paths)


def _forget(vm: BaseMachine, names: Sequence[str]) -> None:
    """Remove the metadata of snapshots that were in the overlay only."""
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
        hint = "`qvm archive` without --create works while it runs; or `qvm stop` first"
        state.require_off(vm, seen, "archive --create", hint)
    kinds = (state.RUNNING, state.PAUSED, state.SUSPENDED, state.SHUT_DOWN)
    _, note = state.require(vm, seen, job.verb, *kinds)
    if note.disposable or note.base_only:
        how = "disposable, its changes are lost" if note.disposable else "running its base (--base-only)"
        what = f"cannot {job.verb}: it is {how}"
        raise StateError(what, machine=vm.name, hint="`qvm stop`, then `qvm start`")
    if wish.savevm:
        state.require(vm, seen, "save the memory", state.RUNNING, state.PAUSED)
    is_held = bool(wish.savevm) and seen.kind == state.RUNNING
    try:
        with guardian.Guardian(vm):
            made = _live(job, note, is_held=is_held)
    except QmpError as error:
        raise _failure(job, error) from None
    if locks.holder(vm.files.pid_file) is None:
        vm.io.warn(f"{vm.name}: QEMU ended meanwhile; all that the guest wrote is on its disks")
    return made


def _failure(job: Job, error: QmpError) -> QmpError:
    """The error for an archive when QEMU refuses, or ends."""
    vm = job.vm
    error.machine = error.machine or vm.name
    if not state.has_ended(vm, error):
        error.hint = error.hint or f"{job.left}; the guest is still running"
        return error
    return QmpError(
        f"cannot {job.verb}: QEMU ended", machine=vm.name, details=[error.what, *error.details],
        hint=f"all that the guest wrote is on its disks, {job.unchanged}; `qvm start` starts it",
    )  # fmt: skip


@contextlib.contextmanager
def _resuming_on_failure(note: LaunchRecord, writer: Writer) -> Iterator[None]:
    """After a failure resume a paused guest at once, before anything is undone."""
    try:
        yield
    except BaseException:
        if writer.journal.record.is_held:
            with process.Shielded(process.SIGINT, process.SIGTERM, process.SIGTSTP):
                _resume(note)
                kind = state.observe(writer.vm).kind
                writer.journal.change(is_held=kind not in (state.RUNNING, state.STOPPED))
        raise


def _resume(note: LaunchRecord) -> None:
    with contextlib.suppress(OSError, QmpError), conversation.begin(note) as qemu:
        if qemu.ask("query-status")["status"] == "paused":
            sleep.resume(qemu)


def _live(job: Job, note: LaunchRecord, *, is_held: bool) -> tuple[Archive, Point]:
    vm, wish = job.vm, job.wish
    with conversation.session(vm, note) as qemu:
        changes.clear(vm, qemu)
        found = drives.live(vm, qemu.execute("query-block"))
    writer = Writer(job, found, model.stamp_of(time.time()), consistency=live_copy.CRASH)
    _require_tag(job, found)
    if writer.is_new:
        writer.require_room()
    with contextlib.ExitStack() as afterwards, writer.writing(), _resuming_on_failure(note, writer):
        if wish.savevm:
            _save(job, note, writer, is_held=is_held)
        tracking = _copy(job, note, writer, is_held=is_held)
        afterwards.callback(_remove_old_bitmaps, vm, note, writer, tracking)
    return writer.result()


def _copy(job: Job, note: LaunchRecord, writer: Writer, *, is_held: bool) -> changes.Tracking:
    """Copy all disks, as they are at one moment."""
    vm, wish = job.vm, job.wish
    with (
        conversation.session(vm, note) as qemu,
        changes.Tracking(vm, qemu, writer.archive, writer.stored, writer.point.id) as tracking,
    ):
        for drive in writer.taken:
            is_whole = writer.is_new or wish.is_full or bool(wish.delvm)
            tracking.add(drive, writer.source_of(drive.path), is_whole=is_whole)
        if wish.delvm and not writer.is_new:
            job.said.append(f"copied whole: without the snapshot {wish.delvm}")
        if tracking.why_whole:
            job.said.append(f"copied whole: {tracking.why_whole}")
        writer.announce_changes(set(tracking.since))
        writer.require_room()
        whole = [each for each in writer.taken if each.role not in tracking.since]
        with live_copy.LiveCopy(
            vm, note, qemu, whole, writer.journal, more=tracking.actions, is_held=is_held
        ) as taking:
            writer.point.consistency = live_copy.HELD if wish.savevm else taking.consistency
            job.pause_s = taking.pause_s
            for drive in writer.taken:
                if drive.role in tracking.since:
                    writer.put_changes(drive, tracking.wait(drive), tracking.since[drive.role])
                else:
                    writer.put_top(drive)
    return tracking


def _remove_old_bitmaps(
    vm: BaseMachine, note: LaunchRecord, writer: Writer, tracking: changes.Tracking
) -> None:
    with contextlib.suppress(QmpError), conversation.session(vm, note) as qemu, live_copy.uninterrupted(qemu):
        tracking.remove_old(qemu, is_whole=writer.is_whole)


def _save(job: Job, note: LaunchRecord, writer: Writer, *, is_held: bool) -> None:
    """Save a snapshot with memory; the guest stays paused, and the journal says so first."""
    writer.journal.write(is_held=is_held)
    name, program = job.wish.savevm, programs.qemu_img(job.vm)
    qcow2 = [each for each in writer.taken if each.format == "qcow2"]
    if any(tag["name"] == name for each in qcow2 for tag in bitmaps.tags_of(program, each.path)):
        job.said.append(f"the old snapshot {name} was replaced")
    job.left = "the archives did not change"
    with job.vm.io.stage(f"saving the state as {job.wish.savevm}"):
        managed_save.save(job.vm, note, job.wish.savevm, has_suspend=False)
    job.changed = f"the snapshot {job.wish.savevm} was saved in its disks"
    job.left += f"; {job.changed}"
