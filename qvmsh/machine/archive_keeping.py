"""What stays in a store: the machine's archives, what killed commands left, rotation, proof of wholeness.

May import: `host`, `machine`.

    shelf = shelf_of(vm)
    removed = rotate(vm, shelf, Wish(keep=7), made)       # ["demo-20261121101336/20261121101336"]
"""

from __future__ import annotations

import contextlib
import os
import time

from qvmsh.errors import ImageError, QvmError
from qvmsh.host import transfer
from qvmsh.machine import chain, changes, identity, progress, stores
from qvmsh.machine.archives import MANIFEST, PART, Archive, Point
from qvmsh.machine.shelf import UNFINISHED, Shelf
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.archive_writer import Wish
    from qvmsh.machine.machine import Machine

OTHER_STATE = "`qvm archive --list` shows the other states; `qvm archive --full` makes a whole one"
_MACHINE = (".vmrc", ".qvm")
"""What tells that an archive runs where it lies, as a machine."""


def shelf_of(vm: Machine) -> Shelf:
    """The machine's archives."""
    settings = vm.settings
    return Shelf(
        stores.of(vm),
        settings.text("VM_MACHINE_NAME"),
        *layer_names(vm),
        identity.known_uuid(vm),
    )


def layer_names(vm: Machine) -> tuple[str, str]:
    """How its base and its overlay are called."""
    settings = vm.settings
    return settings.text("VM_SNAPSHOT_BASENAME"), settings.text("VM_SNAPSHOT_BACKINGNAME")


def sweep(vm: Machine, shelf: Shelf) -> None:
    """Remove what killed commands left in the store; the caller holds the work lock."""
    store = shelf.store
    for folder in store.folders():
        if shelf.is_part_folder(folder):
            store.remove_folder(folder)
    for each in shelf.archives():
        if not each.has_manifest or each.uuid != shelf.uuid:
            continue
        broken = [point for point in each.points if not point.is_done]
        kept = {part.name for part in each.parts(each.done)}
        gone = {part.name for point in broken for part in point.parts}
        names = store.names(each.folder)
        gone -= kept
        store.remove(each.folder, *(name for name in names if UNFINISHED.search(name) and name not in kept))
        if broken:
            store.remove(each.folder, *(f"{name}{end}" for name in sorted(gone) for end in ("", PART)))
            each.points = each.done
            shelf.write(each)
            stamps = ", ".join(point.stamp for point in broken)
            vm.io.warn(f"{vm.name}: removed from {each.folder} what an interrupted archive left ({stamps})")
    changes.clear_staged(vm)


def warn_of_unreadable(vm: Machine, shelf: Shelf) -> None:
    """Tell of archives that cannot be read; they are left alone."""
    for error in shelf.unreadable:
        vm.io.warn(f"{vm.name}: {error.what}")


def sweep_near(vm: Machine) -> None:
    """`sweep` where the archives are on this host; elsewhere the next archive does it."""
    with contextlib.suppress(QvmError, OSError):
        shelf = shelf_of(vm)
        if shelf.store.path() is not None:
            sweep(vm, shelf)


def rotate(vm: Machine, shelf: Shelf, wish: Wish, made: tuple[str, str]) -> list[str]:
    """Remove old states, as --keep and --keep-days ask, never the last good one; returns which.

    Args:
        made: folder and stamp of the state that this call made, or found unchanged: it stays, whatever the
            clock was when the others were made.

    Archives that `vm` made, and those of another machine with the same name, are neither removed nor counted.
    One in which somebody works, or on whose images others stand, stays as it is, and the user is told.
    """
    if wish.keep is None and wish.keep_days is None:
        return []
    every = [each for each in shelf.archives() if each.has_manifest and each.uuid == shelf.uuid]
    pairs = sorted(((each, point) for each in every for point in each.done), key=lambda pair: pair[1].time)
    pairs.sort(key=lambda pair: (pair[0].folder, pair[1].stamp) == made)
    kept = {made}
    for at, (archive, point) in enumerate(reversed(pairs)):
        is_young = wish.keep_days is not None and time.time() - point.time < wish.keep_days * 86400
        if (wish.keep is not None and at < wish.keep) or is_young:
            kept.add((archive.folder, point.stamp))
    for archive, point in reversed(pairs):
        kept.add((archive.folder, point.stamp))
        try:
            require_whole(vm, shelf, archive, point)
            break
        except QvmError as error:
            vm.io.warn(f"{vm.name}: {error.what}; an older state is kept for it")
    for archive, point in pairs:
        if (archive.folder, point.stamp) in kept:
            with contextlib.suppress(ImageError):  # what it stands on is gone already
                kept |= {(archive.folder, each.stamp) for each in archive.chain(point)}
    removed = []
    for archive in every:
        gone = [each for each in archive.done if (archive.folder, each.stamp) not in kept]
        if not gone:
            continue
        is_all = len(gone) == len(archive.points)
        staying = [each for each in archive.points if each not in gone]
        names = {part.name for part in archive.parts()}
        if not is_all:
            names -= {part.name for part in archive.parts(staying)}
        obstacle = _obstacle(vm, shelf, archive, names, is_all=is_all)
        if obstacle:
            vm.io.warn(f"{vm.name}: removed nothing from {archive.folder}: {obstacle}")
            continue
        removed += [f"{archive.folder}/{each.stamp}" for each in gone]
        if is_all:
            # renamed first, so that a half removed archive is never taken for one
            part = shelf.part_folder(archive.folder)
            shelf.store.remove_folder(part)
            shelf.store.rename(archive.folder, part)
            shelf.store.remove_folder(part)
        else:
            for each in gone:
                each.is_done = False  # killed now, `sweep` goes on
            shelf.write(archive)
            shelf.store.remove(archive.folder, *sorted(names))
            archive.points = archive.done
            shelf.write(archive)
    return removed


def _obstacle(vm: Machine, shelf: Shelf, archive: Archive, names: set[str], *, is_all: bool) -> str:
    """Why files of an archive must stay, "" if they may go: somebody works in its folder, or with them.

    Args:
        names: the files that would go.
        is_all: the folder would go with them.
    """
    own = {MANIFEST, *(part.name for part in archive.parts())}
    others = [
        each for each in shelf.store.entries(archive.folder)
        if each not in own and not UNFINISHED.search(each) and (is_all or each in _MACHINE)
    ]  # fmt: skip
    if others:
        return f"{others[0]} is in it, which is not the archive's"
    for name in sorted(names):
        path = shelf.store.path(archive.folder, name)
        if path is None:
            continue
        users = image.users(path)
        if users:
            return f"{name} is in use by {', '.join(users)}"
        going = {os.path.realpath(os.path.join(os.path.dirname(path), each)) for each in names}
        above = [each for each in chain.overlays_on(path, vm) if each not in going]
        if above:
            return f"{chain.shown(vm, above[0])} stands on {name}"
    return ""


def require_whole(vm: Machine, shelf: Shelf, archive: Archive, point: Point) -> int:
    """Read back all that a state consists of and compare the checksums; returns how many bytes.

    Raises:
        ImageError: a file is missing or was changed.
    """
    total = 0
    names = shelf.store.names(archive.folder)
    for part in archive.parts(archive.chain(point)):
        if part.name not in names:
            raise ImageError(f"{archive.folder}/{part.name} is not there", machine=vm.name, hint=OTHER_STATE)
        if names[part.name] != part.stored_bytes:
            raise ImageError(
                f"{archive.folder}/{part.name} has {names[part.name]} bytes, the manifest says "
                f"{part.stored_bytes}", machine=vm.name, hint=OTHER_STATE,
            )  # fmt: skip
        if not part.xxh128:
            continue
        with (
            progress.Progress(vm.io, f"reading {part.name}", part.stored_bytes) as shown,
            shelf.store.reader(archive.folder, part.name) as fd,
        ):
            found = transfer.digest(fd, shown.tell, vm.io.checkpoint)
        total += found.stored_bytes
        if found.xxh128 != part.xxh128:
            raise ImageError(
                f"{archive.folder}/{part.name} was changed since it was archived: its checksum differs",
                machine=vm.name,
                hint=OTHER_STATE,
            )
    return total
