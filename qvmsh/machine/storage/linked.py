"""Which machines are backed by disks of others, so that none of them loses its base, wherever it is moved to.

    note(made)                        # in the new machine: whose disks its own are backed by
    add(made.directory)               # and with those, once it is in place
    renew(vm)                         # after a disk has got another base
    require_found(vm, "delete")       # refuses if one that needs this machine is nowhere to be seen
    forget("/vm/mail")                # that one is removed for good

The images themselves say what they are backed by; but an image in a place that qvm does not know says
nothing. So `.qvm/clones` has the uuid and the directory of each machine that needs this one (a linked clone,
`create --link`), and that machine's `.qvm/original` the directories of those that it needs, one on a line.
"""

from __future__ import annotations

import contextlib
import os

from qvmsh.config.words import quote
from qvmsh.errors import QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.machine import identity, registry
from qvmsh.machine.storage import chain, volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine

CLONES = os.path.join(".qvm", "clones")
ORIGINAL = os.path.join(".qvm", "original")


def note(made: BaseMachine) -> None:
    """Note with a machine in which others the files lie that its disks are backed by.

    Raises:
        OSError: it cannot be written.
    """
    found = [each for each in registry.directories(made.environ) if _needs(made, each)]
    path = os.path.join(made.directory, ORIGINAL)
    if found:
        identity.uuid_of(made)
        host_files.write_atomic(path, "".join(f"{each}\n" for each in found))
    else:
        host_files.remove(path)


def add(directory: str) -> None:
    """Note a machine that is in place now with those that it needs.

    Raises:
        OSError: it cannot be written.
    """
    row = (_uuid(directory), directory)
    for original in noted(directory):
        if os.path.isdir(original):
            _write(original, [*(each for each in _rows(original) if each[0] != row[0]), row])


def renew(vm: BaseMachine) -> None:
    """Note what a machine needs now, after one of its disks has got another base, or none."""
    with contextlib.suppress(OSError, QvmError):
        before = noted(vm.directory)
        if before or any(_needs(vm, each) for each in registry.directories(vm.environ)):
            forget(vm.directory)
            note(vm)
            add(vm.directory)


def noted(directory: str) -> list[str]:
    """The directories of the machines that this one needs; none for most."""
    try:
        return host_files.read(os.path.join(directory, ORIGINAL)).text.splitlines()
    except OSError:
        return []


def _needs(made: BaseMachine, directory: str) -> bool:
    """True if a disk of a machine is backed by a file in another directory; also where that is not known."""
    top = os.path.realpath(directory) + os.sep
    if (os.path.realpath(made.directory) + os.sep).startswith(top):
        return False
    try:
        for disk in volumes.configured(made):
            layers = chain.layers(disk.path, disk.format, made.name, made.directory)[1:]
            if any(os.path.realpath(each.path).startswith(top) for each in layers):
                return True
    except (OSError, QvmError):
        return os.path.realpath(directory) in map(os.path.realpath, noted(made.directory))
    return False


def require_found(vm: BaseMachine, what: str) -> None:
    """Refuse where a machine that needs this one is neither where it was, nor known, nor in the trash.

    Raises:
        StateError: it may be backed by the machine's disks all the same.
    """
    rows = _rows(vm.directory)
    if not rows:
        return
    places = [*registry.directories(vm.environ), *registry.in_the_trash(vm.environ)]
    found = {_uuid(each): each for each in (*places, *(directory for _, directory in rows))}
    kept = [row for row in rows if row[0] not in found or _needs(_machine(vm, found[row[0]]), vm.directory)]
    if kept != rows:
        with contextlib.suppress(OSError):
            _write(vm.directory, kept)
    for uuid, directory in kept:
        if uuid not in found:
            raise StateError(
                f"cannot {what}: a linked clone of it is not in {directory} any more", machine=vm.name,
                hint="`qvm -C DIR start` where it is now makes it known; if it is gone for good, remove its "
                f"line from {quote(os.path.join(vm.directory, CLONES))}",
            )  # fmt: skip


def _machine(vm: BaseMachine, directory: str) -> BaseMachine:
    return type(vm)(directory, environ=vm.environ)


def drop(directory: str) -> None:
    """Remove the notes of another machine: this one is a copy of it, made by hand."""
    host_files.remove(os.path.join(directory, CLONES))


def forget(directory: str) -> None:
    """This machine is about to be removed for good, or needs no other one now; nothing to do for most."""
    uuid = _uuid(directory)
    for original in noted(directory):
        with contextlib.suppress(OSError):
            rows = _rows(original)
            kept = [row for row in rows if row[0] != uuid or _is_elsewhere(row, directory)]
            if kept != rows:
                _write(original, kept)


def _is_elsewhere(row: tuple[str, str], directory: str) -> bool:
    """True if the noted clone is where it was made, and `directory` is a copy of it."""
    uuid, place = row
    return _uuid(place) == uuid and os.path.realpath(place) != os.path.realpath(directory)


def _uuid(directory: str) -> str:
    try:
        return host_files.read(os.path.join(directory, ".qvm", "uuid")).text.strip()
    except OSError:
        return ""


def _rows(directory: str) -> list[tuple[str, str]]:
    try:
        lines = host_files.read(os.path.join(directory, CLONES)).text.splitlines()
    except OSError:
        return []
    return [(uuid, place) for uuid, mark, place in (line.partition(" ") for line in lines) if mark]


def _write(directory: str, rows: list[tuple[str, str]]) -> None:
    path = os.path.join(directory, CLONES)
    if rows:
        host_files.write_atomic(path, "".join(f"{uuid} {place}\n" for uuid, place in rows))
    else:
        host_files.remove(path)
