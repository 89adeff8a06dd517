"""`restore`: an archived state back into its machine, or as a machine of its own.

    restore(vm, "demo-20261121101336", None, is_forced=False)       # Restored(...)

Everything is made under temporary names and checked first: `in_place`, `new_machine`.
"""

from __future__ import annotations

import os
import time

from qvmsh.errors import UsageError
from qvmsh.machine import log
from qvmsh.machine.archive import maintenance, stores
from qvmsh.machine.archive.index import ArchiveIndex, split
from qvmsh.machine.archive.model import Archive, Point
from qvmsh.machine.archive.reports import Restored
from qvmsh.machine.restore import in_place, new_machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine


def restore(
    vm: BaseMachine | None,
    word: str,
    directory: str | None,
    io: Io,
    environ: Mapping[str, str],
    *,
    is_forced: bool,
) -> Restored:
    """Restore an archived state; see `commands.restore`.

    Raises:
        UsageError: no such state, or no machine to restore it into.
        StateError: the machine runs, or its content is in no archive and `is_forced` is false.
        ImageError: the archive is damaged; nothing was changed.
    """
    began = time.monotonic()
    if directory == "":
        raise UsageError("restore: the name of the directory is empty", hint="omit it, or give a name")
    index, archive, point = find(vm, word)
    label = f"{archive.folder}/{point.stamp}"
    if directory is not None:
        made, notes = new_machine.new(vm, index, archive, point, directory, io, environ)
        return Restored(
            made.name, label, os.path.relpath(made.directory), is_new=True, seconds=time.monotonic() - began,
            notes=notes,
        )  # fmt: skip
    if vm is None:
        raise UsageError(
            "restore: there is no machine here to restore into",
            hint="`qvm restore ARCHIVE DIR` makes a new one",
        )
    notes = in_place.same(vm, index, archive, point, is_forced=is_forced)
    log.note(vm, f"restored {label}")
    return Restored(vm.name, label, vm.directory, is_new=False, seconds=time.monotonic() - began, notes=notes)


def find(vm: BaseMachine | None, word: str) -> tuple[ArchiveIndex, Archive, Point]:
    """The archived state that a word means: one of the machine's, or a folder by its path or URL.

    Raises:
        UsageError: not found.
        QvmError: what it names cannot be read.
    """
    if not word or "\0" in word:
        raise UsageError(f"{word!r} is not an archive", hint="`qvm archive --list` shows the names")
    if "://" in word:
        return _by_place(vm, word.rstrip("/"), word.rstrip("/").rpartition("/"))
    path = os.path.abspath(os.path.expanduser(word))
    is_near = bool(split(word)[1]) and (vm is None or not _is_own(vm, word))
    is_local = os.path.isdir(path) and ("/" in word or is_near)
    if is_local or ("/" in word and os.path.isdir(os.path.dirname(path)) and not _is_of_index(vm, word)):
        return _by_place(vm, word, (os.path.dirname(path), "/", os.path.basename(path)))
    if vm is None:
        raise UsageError(
            f"there is no archive {word!r}", hint="give the path of its folder, or a machine with -M"
        )
    index = maintenance.index_of(vm)
    found = index.find(word)
    maintenance.warn_of_unreadable(vm, index)
    return index, *found


def _is_own(vm: BaseMachine, word: str) -> bool:
    return word in maintenance.index_of(vm).store.folders()


def _is_of_index(vm: BaseMachine | None, word: str) -> bool:
    """True for `FOLDER/STAMP` of the machine's own archives."""
    folder, _, stamp = word.rstrip("/").partition("/")
    return vm is not None and bool(split(folder)[1]) and "/" not in stamp and _is_own(vm, folder)


def _by_place(
    vm: BaseMachine | None, word: str, parts: tuple[str, str, str]
) -> tuple[ArchiveIndex, Archive, Point]:
    """The state that a path or URL means: `.../FOLDER`, or `.../FOLDER/STAMP`."""
    above, _, folder = parts
    stamp = ""
    if not split(folder)[1] and split(os.path.basename(above))[1]:
        folder, stamp, above = os.path.basename(above), folder, os.path.dirname(above)
    if not split(folder)[1]:
        raise UsageError(
            f"{word!r} is not an archive", hint="the folder of an archive is named NAME-YYYYMMDDhhmmss"
        )
    index = ArchiveIndex(stores.at(above, "."), "")
    if vm is not None:
        index = ArchiveIndex(index.store, "", *maintenance.layer_names(vm))
    archive = index.read(folder)
    if not archive.done:
        raise UsageError(f"{word!r} is not an archive", hint="it contains no state of a machine")
    point = archive.point(stamp) if stamp else archive.done[-1]
    if point is None or not point.is_done:
        raise UsageError(
            f"{folder} has no state {stamp!r}",
            hint=f"there are: {', '.join(each.stamp for each in archive.done)}",
        )
    return index, archive, point
