"""One new state of a machine, written into an archive: whole, or not at all.

    writer = Writer(job, drives, stamp, consistency="off")
    writer.require_room()
    with writer.writing():
        for drive in writer.taken: writer.put_top(drive)
    archive, point = writer.result()

Everything is written under names for unfinished work and renamed at the end. The manifest names a state
before its first byte is written, so that the files of a killed command are recognized.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time

from qvmsh.errors import ConfigError, ImageError, QvmError
from qvmsh.host import compression, process, transfer
from qvmsh.host import files as host_files
from qvmsh.machine import identity, programs, progress
from qvmsh.machine import journal as journals
from qvmsh.machine.archive import changes, drives, live_copy, model
from qvmsh.machine.archive.changes import tag_id
from qvmsh.machine.archive.drives import Drive
from qvmsh.machine.archive.index import LAST_NUMBER
from qvmsh.machine.archive.model import PART, Archive, Part, Point
from qvmsh.machine.archive.names import Names
from qvmsh.machine.archive.settings import SETTINGS, gather, pack
from qvmsh.machine.create import layers as create_layers
from qvmsh.machine.journal import Journal, Record
from qvmsh.machine.storage.bitmaps import tags_of
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qvmsh.machine.archive.job import Job


class Writer:
    """One new state, in a new archive or in one that has the same base."""

    def __init__(self, job: Job, found: Sequence[Drive], stamp: str, *, consistency: str) -> None:
        self.job = job
        self.vm = job.vm
        self.store = job.store
        self.is_live = consistency != "off"
        self.taken = [each for each in found if not each.left_out]
        if not self.taken:
            raise ConfigError(
                f"cannot {job.verb}: the machine has no disk that qvm knows of", machine=self.vm.name,
                hint="`qvm disk add data.qcow2 10G` adds one; with hardware by hand, -drive or -hda does",
            )  # fmt: skip
        self._below = {each.role: drives.below(self.vm, each) for each in self.taken}
        self.stored: dict[str, int] = {}
        """The files of an existing archive, and their sizes in bytes."""
        self.archive, self.is_new = self._archive()
        while self.archive.point(stamp):
            stamp = model.stamp_of(model.seconds(stamp) + 1)
        if self.is_new:
            stamp = self.archive.stamp
        self.point = Point(stamp, time.time(), consistency, [], is_done=False, id=secrets.token_hex(8))
        below = [pair for pairs in self._below.values() for pair in pairs]
        layers = [path for path, _ in below]
        every = [*((each.path, each.format) for each in self.taken), *below]
        self._at_rest = {} if self.is_live else {path: _fingerprint(path) for path, _ in every}
        for path, form in every:
            if image.has_other_files(path, form):
                raise ImageError(
                    f"cannot {job.verb}: {os.path.basename(path)} keeps its data in another file",
                    machine=self.vm.name,
                    hint=f"`{qemuimg.converted(path, form)}` makes one image of both",
                )
        self.settings = gather(self.vm, found, [*layers, create_layers.Layers(self.vm).seed])
        self.point.parts = [
            Part(each.role, "", each.format, self.source_of(each.path), left_out=each.left_out)
            for each in found
            if each.left_out and self.source_of(each.path) not in self.settings.names
        ]
        known = {each.source for each in self.point.parts}
        left = [(self.source_of(path), why) for path, why in self.settings.left_out]
        self.point.parts += [
            Part(f"file{at}", "", "raw", source, left_out=why)
            for at, (source, why) in enumerate(left, start=1)
            if source not in known
        ]
        for each in self.point.parts:
            job.said.append(f"{each.source} is not in the archive: {each.left_out}")
        self._folder = job.index.part_folder(self.archive.folder) if self.is_new else self.archive.folder
        self._renames: list[str] = []
        self.names = Names(self.vm.name, self.archive, "" if self.is_new else stamp)
        self._has_layers = False
        self.journal = Journal(self.vm, Record(job.kind))
        self.is_whole = False
        """True once the state is in the store for good."""
        self.changes_only: set[str] = set()
        """Roles of the disks of which only changes are copied."""

    def source_of(self, path: str) -> str:
        """The place of a file as an archive notes it: from the machine's directory, or absolute."""
        inside = os.path.relpath(path, self.vm.directory)
        return os.path.realpath(path) if inside.startswith("..") else inside

    def _archive(self) -> tuple[Archive, bool]:
        """The archive of the present base, or a new one."""
        own = identity.uuid_of(self.vm)
        every = self.job.index.archives()
        self._newest = max(
            (point.number for each in every if each.uuid == own for point in each.points), default=0
        )
        for each in reversed(every):
            if each.uuid in ("", own) and self._is_of_base(each) and self._has_ground(each):
                each.uuid, each.directory = own, self.vm.directory
                return each, False
        main = self._below[self.taken[0].role]
        path = main[0][0] if main else self.taken[0].path
        stamp = model.stamp_of(os.stat(path).st_mtime)
        folders = set(self.store.folders())
        while f"{self.vm.name}-{stamp}" in folders:
            stamp = model.stamp_of(model.seconds(stamp) + 1)
        where = self.vm.directory
        return Archive(f"{self.vm.name}-{stamp}", self.vm.name, {}, [], own, where), True

    def _is_of_base(self, each: Archive) -> bool:
        """True if this archive holds what all disks are backed by."""
        for drive in self.taken:
            below = self._below[drive.role]
            stored = each.layers.get(drive.role, [])
            if len(below) != len(stored):
                return False
            for (path, _), part in zip(below, stored, strict=True):
                status = os.stat(path)
                if part.source_mtime_ns:
                    is_same = (status.st_mtime_ns, status.st_size) == (part.source_mtime_ns, part.size_bytes)
                else:  # of `vm`, which has it in the folder's name
                    is_same = model.stamp_of(status.st_mtime) == each.stamp
                if not is_same:
                    return False
        return True

    def _has_ground(self, each: Archive) -> bool:
        """True if what another state would be based on is there, and the manifest has room for it."""
        if self.job.index.is_full(each):
            self.job.said.append(f"{each.folder} is full: started a new archive")
            return False
        stored = self.store.names(each.folder)
        for part in each.parts([]):
            if stored.get(part.name) != part.stored_bytes:
                self.job.said.append(
                    f"{part.name} of {each.folder} is missing or truncated: started a new archive"
                )
                return False
        self.stored = stored
        return True

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The work: unfinished until the block ends, and undone if it fails."""
        state = f"{self.archive.folder}/{self.point.stamp}"
        self.journal = journals.begin(self.vm, Record(self.job.kind, state=state))
        try:
            if self.is_new:
                self.store.remove_folder(self._folder)
                self.store.make(self._folder)
            else:
                self.archive.points.append(self.point)
                self._announce()
            self.put_layers()
            yield
            self._put_settings()
            self._require_at_rest()
            self._finish()
        except OSError as error:
            self._undo()
            raise QvmError(
                f"cannot {self.job.verb}: {self.job.place_of(error)}: {error.strerror}",
                machine=self.vm.name,
                hint=self.job.way_out,
            ) from error
        except BaseException as error:
            if not self.is_whole:
                self._undo()
            if isinstance(error, QvmError):
                error.machine = error.machine or self.vm.name
            raise
        finally:
            with process.Shielded():
                if live_copy.is_joined(self.journal.record):
                    self.journal.end()

    def announce_changes(self, roles: set[str]) -> None:
        """Note the disks of which only changes are copied; these are qcow2 whatever the disk is."""
        self.changes_only = roles
        if any(
            self.names.of_changes(each) != self.names.of(each) for each in self.taken if each.role in roles
        ):
            self._announce()

    def _announce(self) -> None:
        """Name in the manifest what will be written, so that it is recognized after a kill."""
        kind = self.job.wish.compress
        end = compression.COMPRESSORS[kind].suffix if kind else ""
        left_out = self.point.parts
        self.point.parts = [*left_out, Part(SETTINGS, self.names.of_settings(), "tar")]
        for each in self.taken:
            name = self.names.of_changes(each) if each.role in self.changes_only else self.names.of(each)
            self.point.parts.append(Part(each.role, name + end, each.format))
        self.job.index.write(self.archive)
        self.point.parts = left_out

    def require_room(self) -> None:
        """Refuse what cannot fit, before it is written.

        Raises:
            QvmError: there is not enough free space.
        """
        paths = [each.path for each in self.taken if each.role not in self.changes_only]
        if self.is_new and not (self._has_layers or self.job.wish.compress_base or self.job.is_linked):
            paths += [path for below in self._below.values() for path, _ in below]
        self.job.require_room(paths)

    def put_layers(self) -> None:
        """What the disks are backed by; it never changes, so only for a new archive."""
        if not self.is_new or self._has_layers:
            return
        self._has_layers = True
        kind = self.job.wish.compress if self.job.wish.compress_base else ""
        for drive in self.taken:
            self.archive.layers[drive.role] = []
            for depth, (path, form) in enumerate(self._below[drive.role]):
                name = self.names.of_layer(drive, depth, path, form)
                part = Part(drive.role, name, form, self.source_of(path), mode=_mode(path))
                if not self.job.is_linked:
                    self._put(part, path, kind)
                self.archive.layers[drive.role].append(part)

    def put_top(self, drive: Drive) -> None:
        """The layer that the guest writes to."""
        source = self.source_of(drive.path)
        part = Part(drive.role, self.names.of(drive), drive.format, source, mode=_mode(drive.path))
        path = drive.path
        with contextlib.ExitStack() as stack:
            if self.job.wish.delvm and drive.format == "qcow2":
                path = stack.enter_context(self._staged(drive))
            self._put(part, path, self.job.wish.compress, is_top=True)
            part.virtual_bytes = image.header(path).size_bytes if drive.format == "qcow2" else part.size_bytes
            self._note_tags(drive, part, path)
        if path != drive.path:
            part.source_mtime_ns = 0
        self.point.parts.append(part)

    def _note_tags(self, drive: Drive, part: Part, path: str) -> None:
        if drive.format == "qcow2":
            tags = tags_of(programs.qemu_img(self.vm), path)
            part.tags = [tag_id(each) for each in tags]
            if drive.role == self.taken[0].role:
                self.point.snapshots = [each["name"] for each in tags]

    def put_changes(self, drive: Drive, path: str, since: str) -> None:
        """What the guest has changed since an earlier state, as an overlay on that one."""
        earlier = self.archive.point(since)
        below = earlier.part(drive.role) if earlier else None
        assert below is not None
        source, size = self.source_of(drive.path), image.header(path).size_bytes
        part = Part(
            drive.role, self.names.of_changes(drive), "qcow2", source,
            of=since, tags=below.tags, virtual_bytes=size,
        )  # fmt: skip
        words = ["rebase", "-u", "-f", "qcow2", "-F", below.format, "-b", f"./{below.plain_name}"]
        qemuimg.run(programs.qemu_img(self.vm), [*words, image.safe_name(path)], what=f"archive {part.name}")
        self._put(part, path, self.job.wish.compress, title=f"{self.job.doing} changes of {drive.name}")
        part.source_mtime_ns = 0
        self.point.parts.append(part)
        if drive.role == self.taken[0].role and earlier:
            self.point.snapshots = earlier.snapshots

    @contextlib.contextmanager
    def _staged(self, drive: Drive) -> Iterator[str]:
        """A copy from which the snapshot that `--delvm` names has been removed."""
        program, tag = programs.qemu_img(self.vm), self.job.wish.delvm
        if tag not in [each["name"] for each in tags_of(program, drive.path)]:
            yield drive.path
            return
        path = changes.staged(self.vm, ".qcow2")
        with host_files.Removed(path):
            host_files.copy(drive.path, path, self.vm.io.checkpoint)
            rebase = ["rebase", "-u", "-f", "qcow2"]
            below = self._below[drive.role]
            if below:  # qemu-img opens its base
                words = [*rebase, "-F", below[0][1], "-b", below[0][0], image.safe_name(path)]
                qemuimg.run(program, words, what="prepare the copy")
            qemuimg.run(program, ["snapshot", "-d", tag, image.safe_name(path)], what=f"remove {tag}")
            if below:
                name = self.archive.layers[drive.role][0].plain_name
                words = [*rebase, "-F", below[0][1], "-b", f"./{name}", image.safe_name(path)]
                qemuimg.run(program, words, what="prepare the copy")
            yield path

    def _put(self, part: Part, path: str, kind: str, *, is_top: bool = False, title: str = "") -> None:
        """Store one file, and note what it is."""
        if kind:
            part.name += compression.COMPRESSORS[kind].suffix
        name = part.name if self.is_new else part.name + PART
        if not self.is_new:
            self._renames.append(part.name)  # before its first byte, so that `_undo` knows it
        title = title or f"{self.job.doing} {os.path.basename(path)}"
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)

            def position() -> int:
                return os.lseek(fd, 0, os.SEEK_CUR)  # a compressor shares the open file

            with (
                progress.Progress(self.vm.io, title, status.st_size, position) as shown,
                self.store.writer(self._folder, name) as target,
            ):
                if self.job.is_passed_on:
                    sent = transfer.copy(fd, target, shown.tell, self.vm.io.checkpoint)
                else:
                    sent = transfer.send(
                        fd, target, shown.tell, self.vm.io.checkpoint,
                        compression=kind, is_gentle=self.is_live,
                    )  # fmt: skip
        finally:
            os.close(fd)
        part.size_bytes, part.source_mtime_ns = status.st_size, status.st_mtime_ns
        part.stored_bytes, part.xxh128 = sent.stored_bytes, sent.xxh128
        self.job.copied_bytes += sent.stored_bytes
        if part.format == "qcow2" and not kind and not part.of:
            self._stand_beside(part, path, name, is_top=is_top)

    def _stand_beside(self, part: Part, source: str, name: str, *, is_top: bool) -> None:
        """Rebase an uncompressed overlay onto the base in the archive, so that it runs there."""
        path = self.store.path(self._folder, name)
        backing = image.header(source).backing
        layers = self.archive.layers.get(part.role, [])
        if path is None or not backing or self.job.is_linked:
            return
        if is_top:
            below = layers[0] if layers else None
        else:
            depth = len(layers)
            drive = next(each for each in self.taken if each.role == part.role)
            following = self._below[part.role][depth + 1]
            below = Part(part.role, self.names.of_layer(drive, depth + 1, *following), following[1])
        if below is None or os.path.normpath(backing) == below.plain_name:
            return
        words = ["rebase", "-u", "-f", "qcow2", "-F", below.format, "-b", f"./{below.plain_name}"]
        qemuimg.run(programs.qemu_img(self.vm), [*words, image.safe_name(path)], what=f"archive {part.name}")
        with self.store.reader(self._folder, name) as fd:
            sent = transfer.digest(fd, lambda _: None, self.vm.io.checkpoint, like=part.xxh128)
        part.stored_bytes, part.xxh128 = sent.stored_bytes, sent.xxh128

    def _put_settings(self) -> None:
        """What makes the machine besides its disks: `.vmrc`, identity, key, TPM."""
        part = Part(SETTINGS, self.names.of_settings(), "tar")
        path = changes.staged(self.vm, ".tar")
        with host_files.Removed(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(fd, "wb") as file:
                pack(self.vm, self.settings.names, file, without=self.job.wish.delvm)
            self._put(part, path, "", title=f"{self.job.doing} the settings")
        self.point.parts.append(part)

    def _require_at_rest(self) -> None:
        """Refuse a state if its files, not locked while the machine is off, were changed meanwhile."""
        for path, before in self._at_rest.items():
            if _fingerprint(path) != before:
                users = ", ".join(image.users(path))
                raise ImageError(
                    f"cannot {self.job.verb}: {os.path.basename(path)} was written to meanwhile"
                    f"{f', by {users}' if users else ''}",
                    machine=self.vm.name,
                    hint=f"stop the program that writes to it; {self.job.unchanged}",
                )

    def _finish(self) -> None:
        """Give all files their names; an interruption comes before that or after it."""
        self.point.is_done = True
        self.point.time = time.time()
        self.point.number = min(self._newest + 1, LAST_NUMBER)
        with self._shielded():
            if self.is_new:
                self.archive.points.append(self.point)
                self.job.index.write(self.archive, self._folder)
                self.store.rename(self._folder, self.archive.folder)
            else:
                for name in self._renames:
                    self.store.rename(f"{self.archive.folder}/{name}{PART}", f"{self.archive.folder}/{name}")
                self.job.index.write(self.archive)
            self.is_whole = True
            self.job.left = f"{self.archive.folder}/{self.point.stamp} is complete"

    def _shielded(self) -> contextlib.AbstractContextManager[None]:
        """Hold signals back where it is quick: another host may take long."""
        return contextlib.nullcontext() if self.store.path() is None else process.Shielded()

    def _undo(self) -> None:
        """Remove what was written; the next archive removes what cannot be reached now.

        No incomplete state is ever listed as complete, even after a kill.

        Raises:
            KeyboardInterrupt, Terminated: another signal while waiting for another host.
        """
        before = self.job.left
        self.job.left = f"unfinished files are left in {self.store.shown}, the next archive removes them"
        with contextlib.suppress(QvmError, OSError), self._shielded():
            is_listed = self.point.is_done and self._is_listed()
            self.point.is_done = False
            if self.is_new:
                if is_listed:
                    self.store.rename(self.archive.folder, self._folder)
                self.store.remove_folder(self._folder)
            elif self.point in self.archive.points:
                if is_listed:
                    self.job.index.write(self.archive)
                names = [f"{name}{end}" for name in self._renames for end in ("", PART)]
                self.store.remove(self.archive.folder, *names)
                self.archive.points.remove(self.point)
                self.job.index.write(self.archive)
            self.job.left = before

    def _is_listed(self) -> bool:
        """True if the store has the state as a whole one."""
        if self.archive.folder not in self.store.folders():
            return False
        found = self.job.index.read(self.archive.folder).point(self.point.stamp)
        return found is not None and found.id == self.point.id and found.is_done

    def result(self) -> tuple[Archive, Point]:
        return self.archive, self.point


def _mode(path: str) -> int:
    return os.stat(path).st_mode & 0o777


def _fingerprint(path: str) -> tuple[int, int, int, int] | None:
    """Changes when a file is written to or replaced."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
