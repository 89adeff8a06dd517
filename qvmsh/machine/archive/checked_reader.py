"""The files of one archived state, made somewhere: fetched, judged, and put on one another.

    reader = Reader(vm.io, program, index, archive, point, work="/vm/demo/.qvm")
    reader.layers("main", [Place("/vm/demo/demo-backing.qcow2"), Place("/vm/demo/demo-base.qcow2")])

An image can name other files of the host, which QEMU then reads or writes to. An image from an archive may
name only files of that archive; others are refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass

from qvmsh.errors import ImageError, QvmError
from qvmsh.host import files as host_files
from qvmsh.host import transfer
from qvmsh.machine import progress
from qvmsh.machine.archive import settings as archive_settings
from qvmsh.machine.archive.model import Archive, Part, Point
from qvmsh.machine.archive.settings import SETTINGS
from qvmsh.qemu import image, qcow2, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qvmsh.io import Io
    from qvmsh.machine.archive.index import ArchiveIndex

NEW = ".restore-new"
FULL_BYTES = 1 << 16


@dataclass(frozen=True)
class Place:
    """Where one image of a disk is made.

    Args:
        name: its path in the end; the one above refers to it so.
        now: its path for the time being; "" if that is the same.
        is_made: False for one that is there already.
    """

    name: str
    now: str = ""
    is_made: bool = True

    @property
    def path(self) -> str:
        return self.now or self.name


class Reader:
    """Makes the files of one archived state somewhere.

    Args:
        work: folder for what is needed in between.
        verb: what is done with the files, for the progress display.
    """

    def __init__(
        self,
        io: Io,
        program: str,
        index: ArchiveIndex,
        archive: Archive,
        point: Point,
        work: str,
        verb: str = "restoring",
    ) -> None:
        self.io = io
        self.program = program
        self.index = index
        self.archive = archive
        self.point = point
        self.work = work
        self.verb = verb
        self.is_taking = False
        """The store is given up: its files are moved out of it, unchecked."""
        self.is_linked = False
        """The disks are backed by what those of the archived machine are backed by."""
        self.settings_uid: int | None = None
        """The owner of the archive's settings, if they are on this host."""

    def fetch(self, part: Part, target: str) -> None:
        """One stored file, decompressed, at `target`; its checksum must be right.

        Raises:
            ImageError: it is missing, or damaged.
            OSError: it cannot be written.
        """
        if self.is_taking:
            os.rename(self.index.store.path(self.archive.folder, part.name) or "", target)
            os.chmod(target, part.mode & 0o664 | 0o600)
            return
        label = f"{self.archive.folder}/{part.name}"
        damaged = ImageError(f"{label} is damaged: its checksum differs", hint="restore another state")
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with (
                progress.Progress(self.io, f"{self.verb} {part.plain_name}", part.stored_bytes) as shown,
                self.index.store.reader(self.archive.folder, part.name) as source,
            ):
                if part.role == SETTINGS and self.index.store.path() is not None:
                    self.settings_uid = os.fstat(source).st_uid
                try:
                    sent = transfer.fetch(
                        source,
                        fd,
                        shown.tell,
                        self.io.checkpoint,
                        compression=part.compression,
                        like=part.xxh128,
                    )
                except QvmError as error:
                    if _is_full(fd):  # each decompressor has other words for it
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target) from None
                    damaged.details = (error.what, *error.details)
                    raise damaged from None
            if part.xxh128 and sent.xxh128 != part.xxh128:
                raise damaged
            os.fchmod(fd, part.mode & 0o664 | 0o600)
            os.fsync(fd)
        except FileNotFoundError:
            raise ImageError(f"{label} is missing", hint="restore another state") from None
        finally:
            os.close(fd)
        if part.role != SETTINGS:
            _require_harmless(target, part, label)

    def files(self, role: str) -> list[Part]:
        """The files of the disk `role`: its last complete copy, the changes since, its base images.

        Raises:
            ImageError: something of it is missing.
        """
        return [*self._chain(role), *self.archive.layers.get(role, [])]

    @contextlib.contextmanager
    def opened(self, part: Part) -> Iterator[int]:
        """One of `files`, open for reading: in place, or a copy if it is compressed or on another host.

        Raises:
            ImageError: it is missing or damaged, or names what the archive does not hold.
            OSError: the copy cannot be written.
        """
        label = f"{self.archive.folder}/{part.name}"
        below = self.archive.layers.get(part.role, [])
        with contextlib.ExitStack() as stack:
            here = self.index.store.path(self.archive.folder, part.name)
            if here is None or part.compression:
                here = os.path.join(self.work, f"image-{os.getpid()}{NEW}")
                stack.enter_context(host_files.Removed(here))
                self.fetch(part, here)
                fd = os.open(here, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
            else:
                fd = stack.enter_context(self.index.store.reader(self.archive.folder, part.name))
                _require_harmless(here, part, label)
            if part.format == "raw" and part in below:
                self._require_raw(here, part.name)
            if part.format == "qcow2" and not part.of and part in (below[-1:] or [part]):
                self._require_ground(here, part.name)
            yield fd

    def layers(self, role: str, places: Sequence[Place], opened: str | None = None) -> None:
        """The disk `role` with everything that it is backed by.

        Args:
            places: of each layer, the top first.
            opened: the format with which the machine opens it; "" where QEMU guesses it, None where no
                setting names it yet.

        Raises:
            ImageError: one is missing or damaged, or backed by a file outside the archive, or would be opened
                in another format than it was archived in.
        """
        below = [] if self.is_linked else self.archive.layers.get(role, [])
        top = _part(self.point, role)
        forms = self.formats(role)
        if opened not in (None, "", forms[0]):
            raise ImageError(
                f"{os.path.basename(places[0].name)} is {forms[0]} in the archive, but the machine opens it "
                f"as {opened}",
                hint="set that format in the configuration (VM_DISKS, VM_FMT, -drive), or restore another "
                "state",
            )
        for part, place in zip(below, places[1:], strict=True):
            if place.is_made:
                self.fetch(part, place.path)
        self._top(role, places, below)
        for at, place in enumerate(places):
            if forms[at] == "raw" and place.is_made and (at or opened == ""):
                self._require_raw(place.path, os.path.basename(place.name))
            if forms[at] != "qcow2" or not place.is_made:
                continue
            if at + 1 == len(places) and self.is_linked:
                self._link(role, place)
                continue
            if at + 1 == len(places):
                self._require_ground(place.path, os.path.basename(place.name))
            backing = image.header(place.path).backing
            if backing:
                words = ["-F", forms[at + 1], "-b", beside(place.name, places[at + 1].name, self.work)]
                self._img(["rebase", "-u", "-f", "qcow2", *words, image.safe_name(place.path)])
            qemuimg.remove_bitmaps(self.program, place.path)
        for part, place in zip(below, places[1:], strict=True):
            if part.source_mtime_ns and place.is_made:  # so that the next archive knows the base again
                os.utime(place.path, ns=(part.source_mtime_ns, part.source_mtime_ns))
        when = restored_ns(self.point, top)
        if when:
            os.utime(places[0].path, ns=(when, when))

    def _link(self, role: str, place: Place) -> None:
        """Let a disk be backed by the archived machine's own base."""
        for part in self.archive.layers.get(role, [])[:1]:
            base = os.path.join(self.archive.directory, part.source)
            words = ["-F", part.format, "-b", os.path.abspath(base), image.safe_name(place.path)]
            self._img(["rebase", "-u", "-f", "qcow2", *words])
        qemuimg.remove_bitmaps(self.program, place.path)

    def _require_ground(self, path: str, name: str) -> None:
        """Refuse the lowest image of a disk if it is backed by another."""
        backing = image.header(path).backing
        if backing:
            raise ImageError(
                f"{self.archive.folder}: {name} is backed by {backing}, which is not in the archive",
                hint="put that file into the archive's folder, named as a base",
            )

    def _require_raw(self, path: str, name: str) -> None:
        """Refuse what would be taken for a qcow2 image: that may name any file of the host."""
        with open(path, "rb") as file:
            if file.read(len(qcow2.MAGIC)) == qcow2.MAGIC:
                raise ImageError(
                    f"{self.archive.folder}: {name} is raw in the archive, but starts like a qcow2 image",
                    hint="restore another state; if the guest itself wrote that, give the disk a "
                    "format: `data.img:raw` in VM_DISKS, `format=raw` in -drive",
                )

    def formats(self, role: str) -> list[str]:
        """The format of each layer, the top first; changes of a raw disk are stored as qcow2."""
        return [self._chain(role)[0].format, *(part.format for part in self.archive.layers.get(role, []))]

    def _chain(self, role: str) -> list[Part]:
        """The last whole copy of the top layer, and the changes since."""
        found: list[Part] = []
        for point in self.archive.chain(self.point, role):
            part = _part(point, role)
            found = [*found, part] if part.of else [part]
        if found[0].of:
            raise ImageError(
                f"{self.archive.folder} holds only changes of the disk {role}", hint="restore another state"
            )
        return found

    def _top(self, role: str, places: Sequence[Place], below: Sequence[Part]) -> None:
        """The top layer: the last whole one, and the changes since, one after the other.

        A commit reads the rest of a cluster from the base, under its current name.
        """
        target = places[0].path
        whole, *changes = self._chain(role)
        self.fetch(whole, target)
        if changes and whole.format == "qcow2" and image.header(target).backing:
            if not below:
                raise ImageError(
                    f"{self.archive.folder} lacks the base of its disk {role}", hint="restore another state"
                )
            words = ["-F", below[0].format, "-b", os.path.abspath(places[1].path)]
            self._img(["rebase", "-u", "-f", "qcow2", *words, image.safe_name(target)])
        for each in changes:
            path = os.path.join(self.work, f"changes-{os.getpid()}{NEW}")
            with host_files.Removed(path):
                self.fetch(each, path)
                words = ["-F", whole.format, "-b", os.path.abspath(target)]
                self._img(["rebase", "-u", "-f", "qcow2", *words, image.safe_name(path)])
                self._img(["commit", "-q", "-d", "-f", "qcow2", image.safe_name(path)])

    def _img(self, words: list[str]) -> str:
        return qemuimg.run(self.program, words, what=f"restore {self.archive.folder}/{self.point.stamp}")

    def settings(self, place: Callable[[str], str | None]) -> bool:
        """Write the `.vmrc` and what belongs to it; False if the archive has none.

        Args:
            place: see `archive_settings.unpack`.
        """
        part = self.point.part(SETTINGS)
        if part is None:
            return False
        path = os.path.join(self.work, f"settings-{os.getpid()}{NEW}")
        with host_files.Removed(path):
            self.fetch(part, path)
            archive_settings.unpack(path, place, f"{self.archive.folder}/{part.name}")
        return True


def restored_ns(point: Point, part: Part) -> int:
    """The date that a restored disk gets, in ns, by which it is known again; 0 where the state has none.

    That of the file where it was archived as it was; of changes, and of a copy that was altered, the state's.
    """
    return part.source_mtime_ns or (int(point.time * 1e9) if point.id else 0)


def _is_full(fd: int) -> bool:
    """True if the file system of an open file is full."""
    room = os.fstatvfs(fd)
    return room.f_bavail * room.f_frsize < FULL_BYTES


def beside(name: str, other: str, made: str) -> str:
    """How the image `name` refers to the image `other`: from its own folder, if they are near.

    Args:
        made: a folder that will have another name: from there to there it is always so.
    """
    inside = os.path.relpath(other, os.path.dirname(name))
    are_moved = all(each.startswith(made + os.sep) for each in (name, other))
    return other if inside.startswith("..") and not are_moved else os.path.join(".", inside)


def _require_harmless(path: str, part: Part, label: str) -> None:
    """Refuse an image that is not what the manifest says, or has its data in another file of the host."""
    damaged = ImageError(f"{label} is damaged: it is not a {part.format} image", hint="restore another state")
    try:
        found = image.header(path, part.format)
    except ImageError:
        raise damaged from None
    if part.format == "qcow2" and found.format != "qcow2":
        raise damaged
    if image.has_other_files(path, part.format):
        raise ImageError(
            f"{label} keeps its data in another file, which is not in the archive",
            hint="`qemu-img convert -O qcow2` in the folder of that file makes one image of both",
        )


def _part(point: Point, role: str) -> Part:
    found = point.part(role)
    if found is None or not found.name:
        raise ImageError(f"the state {point.stamp} has no disk {role}", hint="restore another state")
    return found
