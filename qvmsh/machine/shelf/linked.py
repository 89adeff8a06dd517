"""Which machines are linked clones of one, so that none of them loses its base wherever it was moved to.

    note(made, vm.directory)          # `made` is backed by disks of `vm`
    add("/vm/web", "/vm/mail")        # and is in place now
    require_found(vm, "delete")       # refuses if one of them is nowhere to be seen
    forget("/vm/mail")                # that one is removed for good

The images themselves say what they are backed by; but an image in a place that qvm does not know says
nothing. So `.qvm/clones` has the uuid and the directory of each clone, and the clone's `.qvm/original` the
directory of the machine.
"""

from __future__ import annotations

import contextlib
import os

from qvmsh.config.words import quote
from qvmsh.errors import StateError
from qvmsh.host import files as host_files
from qvmsh.machine import identity, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine

CLONES = os.path.join(".qvm", "clones")
ORIGINAL = os.path.join(".qvm", "original")


def note(made: BaseMachine, original: str) -> None:
    """Note with a linked clone what it is backed by.

    Raises:
        OSError: it cannot be written.
    """
    identity.uuid_of(made)
    host_files.write_atomic(os.path.join(made.directory, ORIGINAL), f"{original}\n")


def add(original: str, directory: str) -> None:
    """Note with the machine the clone that is in place now.

    Raises:
        OSError: it cannot be written.
    """
    row = (_uuid(directory), directory)
    _write(original, [*(each for each in _rows(original) if each[0] != row[0]), row])


def original_of(directory: str) -> str | None:
    """The directory of the machine that a linked clone is backed by; None for another machine."""
    try:
        return host_files.read(os.path.join(directory, ORIGINAL)).text.strip()
    except OSError:
        return None


def require_found(vm: BaseMachine, what: str) -> None:
    """Refuse where a linked clone is neither where it was made, nor known, nor in the trash.

    Raises:
        StateError: it may be backed by the machine's disks all the same.
    """
    rows = _rows(vm.directory)
    if not rows:
        return
    places = [*registry.directories(vm.environ), *registry.in_the_trash(vm.environ)]
    uuids = {_uuid(each) for each in (*places, *(directory for _, directory in rows))}
    for uuid, directory in rows:
        if uuid not in uuids:
            raise StateError(
                f"cannot {what}: a linked clone of it is not in {directory} any more", machine=vm.name,
                hint=f"`qvm -C DIR start` where it is now makes it known; if it is gone for good: "
                f"`rm {quote(os.path.join(vm.directory, CLONES))}`",
            )  # fmt: skip


def forget(directory: str) -> None:
    """The clone in this directory is about to be removed for good; nothing to do for another machine."""
    original, uuid = original_of(directory), _uuid(directory)
    with contextlib.suppress(OSError):
        kept = [row for row in _rows(original or "") if row[0] != uuid or _is_elsewhere(row, directory)]
        if original and kept != _rows(original):
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
