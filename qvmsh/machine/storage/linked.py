"""Which machines are backed by disks of others, so that none of them loses its base, wherever it is moved to.

    note(made)                        # in the new machine: whose disks its own are backed by
    add(made.directory)               # and with those, once it is in place
    renew(vm)                         # after a disk has got another base
    require_found(vm, "delete")       # refuses if one that needs this machine is nowhere to be seen
    forget("/vm/mail")                # that one is removed for good

The images themselves say what they are backed by; but an image in a place that qvm does not know says
nothing. So `.qvm/clones` has the uuid and the directory of each machine that needs this one (a linked clone,
`create --link`), and which files of it, in JSON on a line; and that machine's `.qvm/original` the directories
of those that it needs, and which files of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import asdict, dataclass

from qvmsh.config.words import quote
from qvmsh.errors import QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import mounts
from qvmsh.machine import identity, registry
from qvmsh.machine.storage import chain, volumes
from qvmsh.qemu.qmp import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from qvmsh.machine.machine import BaseMachine

CLONES = os.path.join(".qvm", "clones")
ORIGINAL = os.path.join(".qvm", "original")
DEPTH = 4
"""How deep below a machine's directory its disks are looked for."""


@dataclass(frozen=True)
class Row:
    """A machine that needs another one.

    Args:
        directory: where it was when it was noted.
        bases: the files that its disks are backed by, from the other one's directory.
    """

    uuid: str
    directory: str
    bases: tuple[str, ...]


@dataclass(frozen=True)
class Gap:
    """Why it is not known what a noted machine needs, and the way out."""

    why: str
    hint: str


def note(made: BaseMachine) -> None:
    """Note with a machine in which others the files lie that its disks are backed by.

    Raises:
        OSError: it cannot be written.
    """
    found = needed(made)
    path = os.path.join(made.directory, ORIGINAL)
    if found:
        identity.uuid_of(made)
        host_files.write_atomic(path, dumps(found) + "\n")
    else:
        host_files.remove(path)


def add(directory: str) -> None:
    """Note a machine that is in place now with those that it needs, but for those of somebody else.

    Raises:
        OSError: it cannot be written.
    """
    place = os.path.realpath(directory)
    for original, bases in noted(directory).items():
        if os.path.isdir(original):
            row = Row(_uuid(directory), place, tuple(bases))
            try:
                _change(original, [row], gone={(row.uuid, place)})
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise


def renew(vm: BaseMachine) -> None:
    """Note what a machine needs now, after one of its disks has got another base, or none."""
    with contextlib.suppress(OSError, QvmError):
        if noted(vm.directory) or needed(vm):
            forget(vm.directory)
            host_files.remove(os.path.join(vm.directory, ORIGINAL))
            note(vm)
            add(vm.directory)


def keep(vm: BaseMachine) -> None:
    """Note what a machine needs where its disks were made, or named, without qvm."""
    with contextlib.suppress(OSError, QvmError):
        before, found = noted(vm.directory), needed(vm)
        both = {
            top: sorted({*before.get(top, ()), *found.get(top, ())})
            for top in dict.fromkeys((*before, *found))
        }
        if both != before:
            identity.uuid_of(vm)
            host_files.write_atomic(os.path.join(vm.directory, ORIGINAL), dumps(both) + "\n")
            add(vm.directory)


def noted(directory: str) -> dict[str, list[str]]:
    """The directories of the machines that this one needs, and which files of them; none for most."""
    try:
        found = host_files.document(os.path.join(directory, ORIGINAL))
        return {str(place): list(map(str, bases)) for place, bases in found.items()}
    except (OSError, ValueError, TypeError):
        return {}


def needed(vm: BaseMachine, *, has_disks: bool = False) -> dict[str, list[str]]:
    """The same by its disks; also what is noted, where those cannot be read.

    Args:
        has_disks: the disks themselves count too, if they are in the directories of others.
    """
    found: dict[str, set[str]] = {}
    here = os.path.realpath(vm.directory)
    try:
        disks = volumes.configured(vm, is_to_come=True)
        for disk in disks:
            layers = chain.layers(disk.path, disk.format, vm.name, vm.directory)
            for layer in layers[0 if has_disks else 1 :]:
                path = os.path.realpath(os.path.join(vm.directory, layer.path))
                top = home(path)
                if top and top != here:
                    found.setdefault(top, set()).add(os.path.relpath(path, top))
    except (OSError, QvmError):
        for top, bases in noted(vm.directory).items():
            found.setdefault(top, set()).update(bases)
    return {top: sorted(bases) for top, bases in found.items()}


def needed_by(directory: str, environ: Mapping[str, str]) -> list[str]:
    """The directories of the machines whose files one needs, be it as a disk; noted ones if it is broken."""
    try:
        return list(needed(_machine(environ, directory), has_disks=True))
    except (OSError, QvmError):
        return list(noted(directory))


def home(path: str) -> str | None:
    """The directory of the machine that a file is in: of several around it the nearest."""
    folder = os.path.dirname(os.path.abspath(path))
    for _ in range(DEPTH + 1):
        if os.path.lexists(os.path.join(folder, ".vmrc")):
            return folder
        folder = os.path.dirname(folder)
    return None


def clones(directory: str) -> list[str]:
    """Where the machines are that were noted as needing this one, as far as they are still there."""
    mounted = mounts.Mounts()
    found = [each.directory for each in _rows(directory) if not mounted.silent_file(each.directory, ".vmrc")]
    return [each for each in found if os.path.lexists(os.path.join(each, ".vmrc"))]


def require_found(vm: BaseMachine, what: str, path: str = "") -> None:
    """Refuse where a machine that needs another one is neither where it was, nor known, nor in the trash.

    Args:
        path: the file that would be written to, of any machine; "" = all files of `vm`.

    Raises:
        StateError: it may be backed by that all the same.
    """
    found = gap(vm, path)
    if found:
        raise StateError(f"cannot {what}: {found.why}", machine=vm.name, hint=found.hint)


def gap(vm: BaseMachine, path: str = "") -> Gap | None:
    """What `require_found` refuses because of; None if it does not."""
    here = home(os.path.realpath(path)) if path else os.path.realpath(vm.directory)
    rows = _rows(here) if here else []
    if not here or not rows:
        return None
    wanted = os.path.relpath(os.path.realpath(path), here) if path else ""
    places = [vm.directory, *registry.directories(vm.environ), *registry.in_the_trash(vm.environ)]
    kept, gaps = [], []
    for row, place in _found(rows, here, places, vm.environ).items():
        why = _gap(row, place, here, vm) if place else _gone(row, here)
        if why or _needs(place, here, vm.environ):
            kept.append(row)
        if why and (not path or wanted in row.bases):
            gaps.append(why)
    if kept != rows:
        with contextlib.suppress(OSError):
            _change(here, gone={(each.uuid, each.directory) for each in rows if each not in kept})
    return gaps[0] if gaps else None


def _found(rows: list[Row], here: str, places: list[str], environ: Mapping[str, str]) -> dict[Row, str]:
    """Where each noted machine is, "" for one that is nowhere; several may have one uuid, also `here`'s."""
    found = dict.fromkeys(rows, "")
    left = {os.path.realpath(each): "" for each in (*places, *(row.directory for row in rows))}
    left.pop(here, None)
    left = {each: _uuid(each) for each in left}
    for row in rows:
        if left.get(row.directory) == row.uuid:
            found[row] = row.directory
            del left[row.directory]
    for row in rows:
        for place, uuid in left.items():
            is_it = not found[row] and uuid == row.uuid
            if is_it and (here in noted(place) or _needs(place, here, environ)):
                found[row] = place
        left.pop(found[row], None)
    return found


def _needs(place: str, here: str, environ: Mapping[str, str]) -> bool:
    """True if the machine is backed by a file in `here`; in the trash it may not find it."""
    try:
        is_backed = here in needed(_machine(environ, place))
    except QvmError:  # it is somebody else's
        return here in noted(place)
    return is_backed or (_is_deleted(place) and here in noted(place))


def _is_deleted(place: str) -> bool:
    return os.path.lexists(os.path.join(place, ".qvm", "deleted"))


def _gone(row: Row, here: str) -> Gap:
    return Gap(
        f"a linked clone of it is not in {row.directory} any more",
        "`qvm -C DIR start` where it is now makes it known; if it is gone for good, remove its "
        f"line from {quote(os.path.join(here, CLONES))}",
    )


def _gap(row: Row, place: str, here: str, vm: BaseMachine) -> Gap | None:
    """A clone that is there, but looks for its base where this machine was before it was moved by hand."""
    if _is_deleted(place):
        return None
    with contextlib.suppress(OSError, QvmError):
        other = _machine(vm.environ, place)
        for disk in volumes.configured(other, is_to_come=True):
            *above, last = chain.layers(disk.path, disk.format, other.name, place)
            same = [each for each in row.bases if os.path.basename(each) == os.path.basename(last.path)]
            if above and last.header is None and same and os.path.exists(os.path.join(here, same[0])):
                words = f"disk rebase {quote(disk.name)} {quote(os.path.join(here, same[0]))} --unsafe"
                return Gap(
                    f"the linked clone in {place} is backed by {same[0]}, but looks for it in "
                    f"{os.path.dirname(last.path)}",
                    f"`qvm -C {quote(place)} {words}` repairs that",
                )
    return None


def _machine(environ: Mapping[str, str], directory: str) -> BaseMachine:
    from qvmsh.machine.machine import BaseMachine

    return BaseMachine(directory, environ=environ)


def drop(directory: str) -> None:
    """Remove the notes of another machine: this one is a copy of it, made by hand."""
    host_files.remove(os.path.join(directory, CLONES))


def forget(directory: str) -> None:
    """This machine is about to be removed for good, or needs no other one now; nothing to do for most."""
    uuid, was = _uuid(directory), os.path.realpath(directory)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        was = str(host_files.document(os.path.join(directory, ".qvm", "deleted"))["directory"])
    for original in noted(directory):
        with contextlib.suppress(OSError):
            rows = _rows(original)
            named = [each for each in rows if each.uuid == uuid]
            own = [each for each in named if each.directory in (was, os.path.realpath(was))]
            own = own or [each for each in named if not _is_elsewhere(each, directory)][:1]
            if own:
                _change(original, gone={(each.uuid, each.directory) for each in own})


def _is_elsewhere(row: Row, directory: str) -> bool:
    """True if the noted clone is where it was made, and `directory` is a copy of it."""
    return _uuid(row.directory) == row.uuid and os.path.realpath(row.directory) != os.path.realpath(directory)


def _uuid(directory: str) -> str:
    try:
        return host_files.read(os.path.join(directory, ".qvm", "uuid")).text.strip()
    except OSError:
        return ""


def _rows(directory: str) -> list[Row]:
    try:
        lines = host_files.read(os.path.join(directory, CLONES)).text.splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            each = loads(line)
            found.append(Row(str(each["uuid"]), str(each["directory"]), tuple(map(str, each["bases"]))))
    return found


def _change(directory: str, new: Sequence[Row] = (), *, gone: Container[tuple[str, str]]) -> None:
    """Change the notes in a machine, one process at a time: other machines' commands write there too.

    Args:
        gone: uuid and directory of the rows that are removed.
    """
    import fcntl

    path = os.path.join(directory, CLONES)
    if new:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    lock = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        rows = [each for each in _rows(directory) if (each.uuid, each.directory) not in gone]
        if rows or new:
            host_files.write_atomic(path, "".join(dumps(asdict(each)) + "\n" for each in (*rows, *new)))
        else:
            host_files.remove(path)
    finally:
        os.close(lock)
