"""The trash: machines that were deleted, each in a folder of its own, until they are taken back or removed.

    entry = put(vm, own_files.of(vm))       # ~/.local/share/qvm/trash/20261121101340-web
    take_back(entry)                        # "/vm/web"

A machine is moved there by renaming its directory, so nothing is copied, and at any moment it is in one
place or in the other. A rename does not lead to another file system: there the trash is beside the machine,
one for each account (`.trash-1000`), and a link in the first trash leads to it. Where the directory also
holds files that are not the machine's, its own are moved one by one, `.vmrc` last; a record says so
(`creation_folder`), and `recover` moves them back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import time
from dataclasses import dataclass

from qvmsh.errors import QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import mounts, process
from qvmsh.io import QUIET
from qvmsh.machine import registry
from qvmsh.machine.journal import Kind, Record
from qvmsh.machine.shelf import across, merge
from qvmsh.machine.storage import linked
from qvmsh.machine.work import creation_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.shelf.own_files import Content

NOTE = os.path.join(".qvm", "deleted")
BESIDE = ".trash-"
"""Prefix of a trash beside machines; the number of the account follows. Without that it is an old one."""
_REMOVED = re.compile(r"\.removing-[0-9a-f]{8}")


@dataclass(frozen=True)
class Entry:
    """A deleted machine.

    Args:
        path: its folder in the trash.
        link: the link that leads to it from the first trash, or "".
        name: of the machine.
        directory: where it was.
        since: when it was deleted, in seconds since 1970.
    """

    path: str
    link: str
    name: str
    directory: str
    since: float


def folder(environ: Mapping[str, str]) -> str:
    """The first trash: beside the list of known machines.

    Raises:
        QvmError: the account has no home.
    """
    found = registry.trash_folder(environ)
    if found is None:
        raise QvmError("there is no home directory for the trash", hint="`--now` removes without it")
    return found


def unseen(environ: Mapping[str, str]) -> dict[str, str]:
    """Where the links lead whose machine cannot be seen, by the link: its file system is not mounted."""
    first = folder(environ)
    try:
        names = sorted(os.listdir(first))
    except OSError:
        return {}
    found, mounted = {}, mounts.Mounts()
    for name in names:
        path = os.path.join(first, name)
        is_going = name.startswith(registry.REMOVING)
        if is_going or not os.path.islink(path):
            continue
        if mounted.silent_file(first, name) or not os.path.exists(path):
            found[path] = os.readlink(path)
    return found


def entries(environ: Mapping[str, str]) -> list[Entry]:
    """The deleted machines, the latest last; what is not one is left out."""
    first = folder(environ)
    try:
        names = sorted(os.listdir(first))
    except OSError:
        return []
    found, mounted = [], mounts.Mounts()
    for name in names:
        if name.startswith(registry.REMOVING) or mounted.silent_file(first, name):
            continue
        path = os.path.join(first, name)
        is_link = os.path.islink(path)
        place = os.path.realpath(path) if is_link else path
        try:
            note = host_files.document(os.path.join(place, NOTE))
            since, directory = float(note["since"]), str(note["directory"])
            found.append(Entry(place, path if is_link else "", str(note["machine"]), directory, since))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found, key=lambda each: each.since)


def put(vm: BaseMachine, content: Content) -> Entry:
    """Move the machine into the trash; the caller holds the work lock.

    Raises:
        QvmError, OSError: it cannot be moved; nothing has been changed.
    """
    since = time.time()
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(since))
    name = f"{stamp}{since % 1 * 1e6:06.0f}-{vm.name}"  # two of one name may be deleted at a time
    first = _free(os.path.join(folder(vm.environ), name))
    beside = _free(os.path.join(os.path.dirname(vm.directory), f"{BESIDE}{os.geteuid()}", name))
    note = {"machine": vm.name, "directory": vm.directory, "since": since}
    host_files.write_atomic(os.path.join(vm.directory, NOTE), json.dumps(note) + "\n", 0o600)
    target, link = first, ""
    try:
        try:
            _put(vm, content, first)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            os.symlink(beside, first)
            target, link = beside, first
            _make_beside(os.path.dirname(beside), vm.name)
            _put(vm, content, beside)
    except BaseException:
        host_files.remove(os.path.join(vm.directory, NOTE))
        if link:
            host_files.remove(link)
        raise
    registry.forget(vm.directory, vm.environ)
    return Entry(target, link, vm.name, vm.directory, since)


def _make_beside(above: str, name: str) -> None:
    """Make the trash beside machines, for this account alone.

    QvmError: there is one that another account has made, and may read.
    """
    os.makedirs(above, mode=0o700, exist_ok=True)
    if (uid := os.lstat(above).st_uid) != os.geteuid():
        raise QvmError(
            f"cannot delete: {above} belongs to {process.user_name(uid)}", machine=name,
            hint="its owner must remove that folder first",
        )  # fmt: skip


def _put(vm: BaseMachine, content: Content, target: str) -> None:
    """Move the machine's own files; the whole directory if it holds nothing else.

    Raises:
        OSError: with EXDEV, `target` is on another file system; nothing has been changed.
    """
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    if content.foreign:
        _put_own(vm, content.own, target)
    else:
        _rename(vm.directory, target)


def _free(path: str) -> str:
    """`path`, with a number where something is there already."""
    count, found = 1, path
    while os.path.lexists(found):
        count += 1
        found = f"{path}-{count}"
    return found


def _rename(directory: str, target: str) -> None:
    try:
        os.rename(directory, target)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise QvmError(
                f"{directory} is a mount point", hint="unmount it, and delete what is below"
            ) from None
        raise
    host_files.sync_folder(os.path.dirname(directory))
    host_files.sync_folder(os.path.dirname(target))


def _put_own(vm: BaseMachine, own: Sequence[str], target: str) -> None:
    """Move the machine's own files alone."""
    folder = creation_folder.Folder(Kind.DELETE, target, vm.environ, directory=vm.directory)
    with folder, process.Shielded():
        try:
            merge.move_names(vm.directory, folder.path, own)
        except BaseException:
            merge.move_names(folder.path, vm.directory, os.listdir(folder.path))
            raise
        folder.put_in_place()


def take_back(entry: Entry, directory: str, environ: Mapping[str, str], io: Io = QUIET) -> None:
    """Move a machine out of the trash; copy it where that is on another file system now.

    Args:
        directory: where to; a directory without a machine may be there.

    Raises:
        StateError: something else is there.
        QvmError, OSError: it cannot be moved, or copied; it is still in the trash.
    """
    if os.path.lexists(os.path.join(directory, ".vmrc")) or not (
        os.path.isdir(directory) or not os.path.lexists(directory)
    ):
        raise StateError(
            f"cannot undelete: {directory} is taken", machine=entry.name,
            hint="`qvm rename` or `qvm move` what is there, then try again",
        )  # fmt: skip
    files = merge.leaves(entry.path) if os.path.lexists(directory) else []
    _require_free(entry, directory, files)
    try:
        if os.path.lexists(directory):
            _merge(entry, directory, files, environ)
        else:
            os.makedirs(os.path.dirname(directory), exist_ok=True)
            _rename(entry.path, directory)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        job = across.Job(Kind.UNDELETE, entry.name, environ, io)
        across.take(entry.path, directory, job, lambda part: host_files.remove(os.path.join(part, NOTE)))
        return
    host_files.remove(os.path.join(directory, NOTE))
    if entry.link:
        host_files.remove(entry.link)


def _require_free(entry: Entry, directory: str, files: Sequence[str]) -> None:
    """Refuse where one of these files is in the directory already.

    StateError: the text names it.
    """
    taken = [each for each in files if merge.is_taken(directory, each)]
    if taken:
        raise StateError(
            f"cannot undelete: {os.path.join(directory, taken[0])} is there, and is not the machine's",
            machine=entry.name, hint="move it away, then try again",
        )  # fmt: skip


def _merge(entry: Entry, directory: str, files: Sequence[str], environ: Mapping[str, str]) -> None:
    """Move the files of a deleted machine into a directory that has others: all of them, or none.

    OSError: with EXDEV, it is on another file system; nothing has been changed.
    """
    if os.stat(directory).st_dev != os.stat(entry.path).st_dev:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), directory)
    above, name = os.path.split(entry.path)
    part = creation_folder.part_name(above, name)
    note = creation_folder.Note(Record(Kind.UNDELETE, folder=part, directory=directory), environ)
    with process.Shielded(), creation_folder.taken(entry.path, part, note):
        try:
            merge.move_names(part, directory, os.listdir(part))
        except OSError:
            merge.move_names(
                directory, part, [each for each in files if not os.path.lexists(os.path.join(part, each))]
            )
            os.rename(part, entry.path)
            raise
        os.rmdir(part)


def remove(entry: Entry) -> bool:
    """Remove a deleted machine for good; what an interruption leaves, the next removal removes.

    Returns:
        False if another command has taken it out of the trash.

    Raises:
        QvmError: not all of it can be removed.
    """
    above = os.path.dirname(entry.path)
    going = os.path.join(above, f"{registry.REMOVING}{os.urandom(4).hex()}")
    with _held(entry.path) as is_mine:
        if not is_mine:
            return False
        linked.forget(entry.path)
        link = os.path.join(os.path.dirname(entry.link), os.path.basename(going)) if entry.link else ""
        with process.Shielded():
            if link:  # it leads to what an interruption leaves
                os.symlink(going, link)
            os.rename(entry.path, going)
            if link:
                host_files.remove(entry.link)
        remove_tree(going, entry.name)
        if link:
            host_files.remove(link)
    remove_left(above)
    return True


@contextlib.contextmanager
def _held(path: str) -> Iterator[bool]:
    """A folder that no other command removes while the block lasts, under whatever name; False: one does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        yield error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # what else it is, removing says
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_same = os.path.lexists(path)
    except BlockingIOError:
        is_same = False
    except OSError:  # a file system without locks
        is_same = True
    try:
        yield is_same
    finally:
        os.close(fd)


def remove_tree(path: str, name: str) -> None:
    """Remove a folder.

    Raises:
        QvmError: not all of it can be removed.
    """
    try:
        shutil.rmtree(path)
    except OSError as error:
        where = error.filename or path
        raise QvmError(
            f"{where} cannot be removed: {error.strerror}", machine=name, hint=f"what is left is in {path}"
        ) from None


def remove_beside(vm: BaseMachine) -> None:
    """Remove a machine's whole directory without the trash, which needs room; the work lock is held."""
    going = os.path.join(os.path.dirname(vm.directory), f"{registry.REMOVING}{os.urandom(4).hex()}")
    linked.forget(vm.directory)
    _rename(vm.directory, going)
    remove_tree(going, vm.name)
    registry.forget(vm.directory, vm.environ)  # before, the list would follow the renamed directory


def sweep(environ: Mapping[str, str]) -> None:
    """Remove what interrupted removals left in every trash that can be seen."""
    first, mounted = folder(environ), mounts.Mounts()
    if not os.path.isdir(first):
        return
    remove_left(first)
    for name in filter(_REMOVED.fullmatch, os.listdir(first)):
        link = os.path.join(first, name)
        if not os.path.islink(link) or mounted.silent_file(first, name):
            continue
        above = os.path.dirname(os.readlink(link))
        if os.path.isdir(above):
            remove_left(above)
            if not os.path.lexists(os.readlink(link)):
                host_files.remove(link)


def remove_left(above: str) -> None:
    """Remove what interrupted removals left in a trash, and no command is removing."""
    for name in filter(_REMOVED.fullmatch, os.listdir(above)):
        path = os.path.join(above, name)
        with _held(path) as is_left:
            if is_left:
                shutil.rmtree(path, ignore_errors=True)


def recover(record: Record, environ: Mapping[str, str]) -> str:
    """Finish, or undo, moving that was interrupted; return which. For `creation_folder.sweep`.

    Raises:
        OSError: it cannot be done now.
    """
    part, directory = record.folder, record.directory
    if record.kind is Kind.DELETE and os.path.lexists(os.path.join(part, ".vmrc")):
        match = creation_folder.NAME.fullmatch(os.path.basename(part))
        os.rename(part, _free(os.path.join(os.path.dirname(part), match["of"] if match else "machine")))
        return "it is in the trash; `qvm undelete` takes it back"
    try:
        merge.move_names(part, directory, os.listdir(part))
    except OSError as error:
        match = creation_folder.NAME.fullmatch(os.path.basename(part))
        if error.errno != errno.EXDEV or record.kind is not Kind.UNDELETE or match is None:
            raise
        os.rename(part, os.path.join(os.path.dirname(part), match["of"]))
        return creation_folder.LEFT[Kind.UNDELETE]
    os.rmdir(part)
    host_files.remove(os.path.join(directory, NOTE))
    return "it has been completed" if record.kind is Kind.UNDELETE else "nothing was deleted"
