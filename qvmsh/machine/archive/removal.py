"""Removing archived states: by rotation or by name; never the last good one.

    removed = rotate(vm, index, Wish(keep=7), made)       # ["demo-20261121101336/20261121101336"]
    deleted = delete(vm, "demo-20261121101336/20261121101340")     # Deleted(...)

An archive that is in use, or whose images back others, stays unchanged.
"""

from __future__ import annotations

import contextlib
import os
import time

from qvmsh.errors import ImageError, QvmError, StateError, UsageError
from qvmsh.machine import log
from qvmsh.machine.archive import maintenance
from qvmsh.machine.archive.index import UNFINISHED
from qvmsh.machine.archive.reports import Deleted
from qvmsh.machine.storage import dependents
from qvmsh.machine.storage.dependents import MANIFEST
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qvmsh.machine.archive.index import ArchiveIndex
    from qvmsh.machine.archive.job import Wish
    from qvmsh.machine.archive.model import Archive, Point
    from qvmsh.machine.machine import BaseMachine

_MACHINE = (".vmrc", ".qvm")
"""The files of an archive that is used as a machine in place."""


def rotate(vm: BaseMachine, index: ArchiveIndex, wish: Wish, made: tuple[str, str]) -> list[str]:
    """Remove old states, as --keep and --keep-days ask, never the last good one; returns which.

    Args:
        made: folder and stamp of the state that this call made, or found unchanged: it stays, whatever the
            clock was when the others were made.

    Archives that `vm` made, and those of another machine with the same name, are neither removed nor counted.
    What cannot be removed stays unchanged, with a warning.
    """
    if wish.keep is None and wish.keep_days is None:
        return []
    every = list(filter(index.is_made_here, index.archives()))
    pairs = _by_age(every)
    pairs.sort(key=lambda pair: (pair[0].folder, pair[1].stamp) == made)
    kept = {made}
    for at, (archive, point) in enumerate(reversed(pairs)):
        is_young = wish.keep_days is not None and time.time() - point.time < wish.keep_days * 86400
        if (wish.keep is not None and at < wish.keep) or is_young:
            kept.add((archive.folder, point.stamp))
    if not _going(every, kept):
        return []
    for archive, point in reversed(pairs):
        kept.add((archive.folder, point.stamp))
        try:
            maintenance.require_whole(vm, index, archive, point)
            break
        except QvmError as error:
            vm.io.warn(f"{vm.name}: {error.what}; an older state is kept instead")
    removed = []
    for archive, gone in _going(every, kept):
        obstacle = _obstacle(vm, index, archive, gone)
        if obstacle:
            vm.io.warn(f"{vm.name}: removed nothing from {archive.folder}: {obstacle}")
            continue
        removed += [f"{archive.folder}/{each.stamp}" for each in gone]
        _remove(index, archive, gone)
    return removed


def _going(every: Sequence[Archive], kept: set[tuple[str, str]]) -> list[tuple[Archive, list[Point]]]:
    """The states of each archive to remove, if those to keep and all that they are based on stay.

    Args:
        kept: folders and stamps.
    """
    found = []
    for archive in every:
        staying = {stamp for folder, stamp in kept if folder == archive.folder}
        for point in archive.done:
            if (archive.folder, point.stamp) in kept:
                with contextlib.suppress(ImageError):  # what it is based on is gone already
                    staying |= {each.stamp for each in archive.chain(point)}
        gone = [each for each in archive.done if each.stamp not in staying]
        if gone:
            found.append((archive, gone))
    return found


@log.failures
def delete(vm: BaseMachine, word: str) -> Deleted:
    """Remove one archived state, or an archive with all its states.

    Args:
        word: the folder's name, or `FOLDER/STAMP`.

    Raises:
        UsageError: this machine has no such state.
        StateError: it is the last good one, or others need it; nothing is removed.
    """
    with work_lock(vm, "archive"):
        index = maintenance.index_of(vm)
        maintenance.require_alone(vm, index, f"remove {word}")
        maintenance.sweep(vm, index)
        archive, gone = _named(vm, index, word)
        _require_none_above(vm, archive, gone)
        _require_other(vm, index, archive, gone, word)
        obstacle = _obstacle(vm, index, archive, gone)
        if obstacle:
            raise StateError(f"cannot remove {word}: {obstacle}", machine=vm.name, hint="nothing was removed")
        _remove(index, archive, gone)
    removed = [f"{archive.folder}/{each.stamp}" for each in gone]
    log.note(vm, f"removed {', '.join(removed)}")
    return Deleted(vm.name, removed)


def _named(vm: BaseMachine, index: ArchiveIndex, word: str) -> tuple[Archive, list[Point]]:
    """The archive that a word names in full, and those of its states that are meant."""
    folder, _, stamp = os.path.normpath(word).partition("/")
    every = index.archives()
    archive = next((each for each in every if each.folder == folder), None)
    points = [each for each in archive.done if stamp in ("", each.stamp)] if archive else []
    if archive is None or not points:
        names = ", ".join(f"{each.folder}/{point.stamp}" for each, point in _by_age(every)[-5:])
        raise UsageError(
            f"{word!r} is not an archived state in {index.store.shown}", machine=vm.name,
            hint=f"there are: {names}" if names else "`qvm archive` makes one",
        )  # fmt: skip
    if not index.is_made_here(archive):
        whose = "of another machine of this name" if archive.has_manifest else "not made by qvm"
        raise UsageError(
            f"cannot remove {folder}: it is {whose}", machine=vm.name,
            hint="remove the folder by hand if it is not needed",
        )  # fmt: skip
    return archive, points


def _by_age(archives: Iterable[Archive]) -> list[tuple[Archive, Point]]:
    return sorted(((each, point) for each in archives for point in each.done), key=lambda pair: pair[1].order)


def _require_none_above(vm: BaseMachine, archive: Archive, gone: Sequence[Point]) -> None:
    """Refuse to remove what later states are based on."""
    above = []
    for point in archive.done:
        with contextlib.suppress(ImageError):  # what it is based on is gone already
            if point not in gone and any(each in gone for each in archive.chain(point)):
                above.append(f"{archive.folder}/{point.stamp}")
    if above:
        raise StateError(
            f"cannot remove {archive.folder}/{gone[0].stamp}: {', '.join(above)} "
            f"{'holds' if len(above) == 1 else 'hold'} only the changes since",
            machine=vm.name,
            hint=f"`qvm archive --delete {above[-1]}` first; `qvm archive --full` makes a complete state",
        )


def _require_other(
    vm: BaseMachine, index: ArchiveIndex, archive: Archive, gone: Sequence[Point], word: str
) -> None:
    """Refuse to remove the last good state.

    Args:
        word: how the user called what would go.
    """

    def is_whole(archive: Archive, point: Point) -> bool:
        try:
            maintenance.require_whole(vm, index, archive, point)
        except QvmError as error:
            vm.io.warn(f"{vm.name}: {error.what}")
            return False
        return True

    others = [
        (each, point) for each, point in _by_age(filter(index.is_made_here, index.archives()))
        if each.folder != archive.folder or point.stamp not in {one.stamp for one in gone}
    ]  # fmt: skip
    if any(is_whole(*pair) for pair in reversed(others)):
        return
    if any(is_whole(archive, point) for point in reversed(gone)):
        is_all = len(gone) == len(archive.done)
        another = "--create` starts another archive" if is_all else "--full` makes another one"
        raise StateError(
            f"cannot remove {word}: it {'has' if is_all else 'is'} the last good state", machine=vm.name,
            hint=f"`qvm archive {another}; or remove the folder by hand",
        )  # fmt: skip


def _remove(index: ArchiveIndex, archive: Archive, gone: Sequence[Point]) -> None:
    """Remove states; after a kill the next command continues."""
    store = index.store
    if len(gone) == len(archive.points):
        # renamed first, so that a half removed archive is never taken for one
        part = index.part_folder(archive.folder)
        store.remove_folder(part)
        store.rename(archive.folder, part)
        store.remove_folder(part)
        return
    names = _files_of(archive, gone)
    for each in gone:
        each.is_done = False  # after a kill here `sweep` continues
    index.write(archive)
    store.remove(archive.folder, *sorted(names))
    archive.points = archive.done
    index.write(archive)


def _files_of(archive: Archive, gone: Sequence[Point]) -> set[str]:
    """The files that nothing else needs."""
    staying = [each for each in archive.points if each not in gone]
    names = {part.name for part in archive.parts()}
    return names - {part.name for part in archive.parts(staying)} if staying else names


def _obstacle(vm: BaseMachine, index: ArchiveIndex, archive: Archive, gone: Sequence[Point]) -> str:
    """Why files of an archive must stay, "" if not: its folder or its files are in use."""
    is_all = len(gone) == len(archive.points)
    names = _files_of(archive, gone)
    own = {MANIFEST, *(part.name for part in archive.parts())}
    others = [
        each for each in index.store.entries(archive.folder)
        if each not in own and not UNFINISHED.search(each) and (is_all or each in _MACHINE)
    ]  # fmt: skip
    if others:
        return f"it contains {others[0]}, which is not part of the archive"
    paths = [path for name in sorted(names) if (path := index.store.path(archive.folder, name))]
    users = image.users_of_each(paths)
    going = set(map(os.path.realpath, paths))
    for path, above in dependents.overlays_on_each(paths, vm).items():
        name = os.path.basename(path)
        if path in users:
            return f"{name} is in use by {', '.join(users[path])}"
        staying = [each for each in above if each not in going]
        if staying:
            return f"{dependents.shown(vm, staying[0])} is backed by {name}"
    return ""
