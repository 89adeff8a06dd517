"""Which disks a machine has, and what every command on them checks first.

    disk = one(vm, every(vm, seen), "disk1")

The commands are in `machine/disk`. An interruption leaves a disk as before or as requested: a new image is
made under another name; `qemu-img commit` copies first and empties the overlay last; a journal has the old
base of a rebase.
"""

from __future__ import annotations

import os
import re

from qvmsh.errors import ImageError, UsageError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import programs, state
from qvmsh.machine.monitor import conversation
from qvmsh.machine.storage import chain, volumes
from qvmsh.machine.storage.volumes import Volume
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine


def every(vm: BaseMachine, seen: state.Observation) -> list[Volume]:
    """All disks, as QEMU has them while the machine is on (not of a disposable run)."""
    if seen.is_live and seen.note is not None and not seen.note.disposable:
        with state.Answering(vm), conversation.begin(seen.note) as exchange:
            return volumes.of_blocks(vm, exchange.ask("query-block"))
    return volumes.configured(vm)


def changeable(vm: BaseMachine, seen: state.Observation, what: str) -> list[Volume]:
    """All disks, for a verb that changes one.

    Raises:
        StateError: the machine runs disposable.
    """
    state.require_lasting(vm, seen, what, "changes to its disks are lost")
    return every(vm, seen)


def one(vm: BaseMachine, found: list[Volume], name: str | None) -> Volume:
    """The disk that a word means: its id, else its path, else its file's name; None = the machine's own.

    Raises:
        UsageError: there is no such disk, or no disk, or several have that name.
    """
    if not found:
        raise UsageError("the machine has no disks", machine=vm.name)
    if name is None:
        return found[0]
    path = os.path.normpath(vm.settings.located(name))
    file = os.path.realpath(path)
    for these in (
        [each for each in found if name in (each.id, each.node)],
        [each for each in found if path == os.path.normpath(each.path)],
        [each for each in found if file == os.path.realpath(each.path)],
        [each for each in found if name == each.name],
    ):
        if len(these) == 1:
            return these[0]
        if these:
            ids = " and ".join(each.id for each in these)
            raise UsageError(f"{name} is the name of {ids}", machine=vm.name, hint="give the id instead")
    there = ", ".join(f"{each.id} ({each.name})" for each in found)
    raise UsageError(f"there is no disk {name}", machine=vm.name, hint=f"there are: {there}")


def is_link_elsewhere(path: str) -> bool:
    """True if a disk is a link into another folder, where a relative backing name means another file."""
    return os.path.dirname(os.path.realpath(path)) != os.path.realpath(os.path.dirname(path))


def require_ready(vm: BaseMachine, disk: Volume) -> None:
    """Refuse a disk that is missing, damaged, or open in another process, or names what it may not name."""
    image.require(disk.path, vm.name, hint="put it back, or correct the configuration", kind=disk.format)
    chain.below(vm, disk.path, disk.format)
    image.require_unused(disk.path, vm.name)


def run(vm: BaseMachine, words: list[str], what: str, after: str = "") -> None:
    """Run qemu-img on a disk of the machine."""
    try:
        qemuimg.run(programs.qemu_img(vm), words, cwd=vm.directory, what=what)
    except ImageError as error:
        error.machine = vm.name
        error.details = (*error.details, after) if after else error.details
        raise


def interrupted_addition(vm: BaseMachine) -> str:
    """The image that a killed `disk add` was creating, "" if there is none."""
    try:
        path = os.fsdecode(host_files.read(vm.files.adding).data)
    except OSError:
        return ""
    part = re.fullmatch(r"/.*\.part([0-9]{1,9})", path, re.DOTALL)
    is_left = part is not None and os.path.lexists(path) and not process.exists(int(part[1]))
    return path if is_left else ""


def used_bytes(disk: Volume) -> int:
    """The space that its image takes on the host."""
    return os.stat(disk.path).st_blocks * 512
