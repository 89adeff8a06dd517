"""The machine's archives in a store: found, cleared of what killed commands left, read back.

index = index_of(vm)
read_bytes = require_whole(vm, index, archive, point)       # 35651584
"""

from __future__ import annotations

import contextlib
import os

from qvmsh.errors import ImageError, QvmError, StateError
from qvmsh.host import transfer
from qvmsh.machine import identity, progress, registry
from qvmsh.machine.archive import changes, stores
from qvmsh.machine.archive.index import UNFINISHED, ArchiveIndex
from qvmsh.machine.archive.model import PART, Archive, Point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine

OTHER_STATE = "`qvm archive --list` shows the other states; `qvm archive --full` makes a whole one"


def index_of(vm: BaseMachine) -> ArchiveIndex:
    """The machine's archives."""
    settings = vm.settings
    return ArchiveIndex(
        stores.of(vm), settings.text("VM_MACHINE_NAME"), *layer_names(vm), identity.known_uuid(vm)
    )


def own_folders(vm: BaseMachine) -> dict[str, Archive]:
    """The folders of the archives on this host that qvm made of this machine, by path."""
    index = index_of(vm)
    own = filter(index.is_made_here, index.archives())
    return {path: each for each in own if (path := index.store.path(each.folder))}


def layer_names(vm: BaseMachine) -> tuple[str, str]:
    """How its base and its overlay are called."""
    settings = vm.settings
    return settings.text("VM_SNAPSHOT_BASENAME"), settings.text("VM_SNAPSHOT_BACKINGNAME")


def sharer(vm: BaseMachine, index: ArchiveIndex) -> str | None:
    """The machine whose archives are in the same place and cannot be told from this one's: it is a copy.

    Made by hand, with the same uuid; its own directory holds archives of its own.
    """
    path, here = index.store.path(), os.path.realpath(vm.directory)
    if path is not None and f"{os.path.realpath(path)}/".startswith(f"{here}/"):
        return None
    source = registry.original(vm)
    is_alike = source and identity.known_uuid(type(vm)(source, environ=vm.environ)) == index.uuid
    return source if is_alike else None


def require_alone(vm: BaseMachine, index: ArchiveIndex, what: str) -> None:
    """Refuse to change the archives of the machine that this one was copied from.

    Raises:
        StateError: it is a copy that has not been renewed, and both have their archives in one place.
    """
    source = sharer(vm, index)
    if source:
        raise StateError(
            f"cannot {what}: it is a copy of {source}, and the archives in {index.store.shown} are of both",
            machine=vm.name, hint="`qvm renew` first: then they stay those of the original",
        )  # fmt: skip


def sweep(vm: BaseMachine, index: ArchiveIndex) -> None:
    """Remove what killed commands left in the store; the caller holds the work lock, and is alone there."""
    store = index.store
    for folder in store.folders():
        if index.is_part_folder(folder):
            store.remove_folder(folder)
    for each in index.archives():
        if not index.is_made_here(each):
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
            index.write(each)
            stamps = ", ".join(point.stamp for point in broken)
            vm.io.warn(f"{vm.name}: removed from {each.folder} what an interrupted archive left ({stamps})")
    changes.clear_staged(vm)


def warn_of_unreadable(vm: BaseMachine, index: ArchiveIndex) -> None:
    """Tell of archives that cannot be read; they are left alone."""
    for error in index.unreadable:
        vm.io.warn(f"{vm.name}: {error.what}")


def sweep_near(vm: BaseMachine, state: str) -> str:
    """`sweep` where the archives are on this host; elsewhere the next archive does it.

    Args:
        state: `FOLDER/STAMP` of the state that was being made, "" for none.

    Returns:
        What has become of it.
    """
    where = ""
    with contextlib.suppress(QvmError, OSError):
        index = index_of(vm)
        where = f" in {index.store.shown}"
        if sharer(vm, index):
            return "its unfinished files are left to the machine that this one is a copy of"
        if index.store.path() is not None:
            sweep(vm, index)
            own = filter(index.is_made_here, index.archives())
            if state in [f"{each.folder}/{point.stamp}" for each in own for point in each.done]:
                return f"{state} is complete"
            return "its unfinished files were removed"
    return f"the next archive removes the unfinished files{where}"


def require_whole(
    vm: BaseMachine, index: ArchiveIndex, archive: Archive, point: Point, read: set[str] | None = None
) -> int:
    """Read back all that a state consists of and compare the checksums; returns how many bytes.

    Args:
        read: files of the archive that have been read already, and are not read again; gets the others.

    Raises:
        ImageError: a file is missing or was changed.
    """
    total = 0
    names = index.store.names(archive.folder)
    for part in archive.parts(archive.chain(point)):
        if part.name not in names:
            raise ImageError(f"{archive.folder}/{part.name} is missing", machine=vm.name, hint=OTHER_STATE)
        if names[part.name] != part.stored_bytes:
            raise ImageError(
                f"{archive.folder}/{part.name} has {names[part.name]} bytes, but the manifest says "
                f"{part.stored_bytes}", machine=vm.name, hint=OTHER_STATE,
            )  # fmt: skip
        if not part.xxh128 or (read is not None and part.name in read):
            continue
        with (
            progress.Progress(vm.io, f"reading {part.name}", part.stored_bytes) as shown,
            index.store.reader(archive.folder, part.name) as fd,
        ):
            found = transfer.digest(fd, shown.tell, vm.io.checkpoint, like=part.xxh128)
        total += found.stored_bytes
        if found.xxh128 != part.xxh128:
            raise ImageError(
                f"{archive.folder}/{part.name} was changed since it was archived: its checksum differs",
                machine=vm.name,
                hint=OTHER_STATE,
            )
        if read is not None:
            read.add(part.name)
    return total
