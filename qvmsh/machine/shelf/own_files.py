"""Which files in a machine's directory are the machine's, and which are somebody else's.

found = of(vm)
found.own          # (".vmrc", ".qvm", "demo-base.qcow2", "demo-backing.qcow2", "disks/data.qcow2")
found.foreign      # ("notes.txt",)
found.outside      # ("/srv/big.qcow2",)
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from qvmsh.config.words import quote
from qvmsh.errors import QvmError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine.archive import drives, maintenance, settings
from qvmsh.machine.create.layers import Layers
from qvmsh.machine.snapshot import of_s2e
from qvmsh.machine.storage import chain, supplies, volumes
from qvmsh.machine.storage.shift import Shift

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.storage.volumes import Volume

ALWAYS = (".vmrc", ".qvm", ".qvmrc.xsh")
FIRMWARE = ("uefi", "uefi-secure")


@dataclass(frozen=True)
class Content:
    """The content of a machine's directory; names are relative to it.

    Args:
        own: files and folders of the machine. A link is one, what it leads to is not.
        foreign: everything else: files that qvm did not make and does not use.
        archives: how many archived states are among the own files.
        outside: absolute paths of disks in other directories.
        place: where its archives are, elsewhere (VM_ARCHIVE); "" if there are none.
        archives_there: how many archived states are there; None on another host, which is not asked.
    """

    own: tuple[str, ...]
    foreign: tuple[str, ...]
    archives: int
    outside: tuple[str, ...]
    place: str = ""
    archives_there: int | None = 0


def of(vm: BaseMachine) -> Content:
    """The content of the directory as it is now.

    Raises:
        ConfigError: the configuration, which names the disks, is wrong.
    """
    directory = vm.directory
    name = vm.settings.text("VM_MACHINE_NAME")
    layers = Layers(vm)
    paths = [layers.seed, layers.base, layers.overlay, f"{name}.{layers.format}"]
    paths += [f"{name}-{kind}.qcow2" for kind in FIRMWARE]
    configured = volumes.configured(vm, is_to_come=True)
    paths += [path for each in configured for path in _bases(vm, each)]
    paths += _named(vm)
    disks = [each.path for each in configured]
    disks += [each.path for each in supplies.additional_disks(vm)]
    states, place, there = _archives(vm)
    paths += [*states, *of_s2e.paths(vm).values()]
    here = Shift(directory, directory)
    inside = {here.inside(os.path.normpath(os.path.join(directory, path))) for path in (*paths, *disks)}
    named = set(filter(None, inside)) | set(ALWAYS)
    own, foreign = _sorted_out(directory, "", named, f".{name}.part-")
    outside = sorted(path for path in disks if here.inside(path) is None)
    count = sum(states.values())
    return Content(tuple(own), tuple(foreign), count, tuple(dict.fromkeys(outside)), place, there)


def _bases(vm: BaseMachine, disk: Volume) -> list[str]:
    """What a disk is backed by, as far as it can be known."""
    with contextlib.suppress(QvmError, OSError):
        found = chain.layers(disk.path, disk.format, vm.name, vm.directory)
        return [os.path.join(vm.directory, each.path) for each in found[1:]]
    return []


def _named(vm: BaseMachine) -> list[str]:
    """The small files that the settings name: kernels, hooks, media."""
    with contextlib.suppress(QvmError, OSError):
        return settings.gather(vm, drives.of(vm)).names
    return []


def _archives(vm: BaseMachine) -> tuple[dict[str, int], str, int | None]:
    """The archives: folders in the machine's directory with the number of their states; `place`, `there`."""
    where = vm.settings.text("VM_ARCHIVE")
    if "://" in where:
        return {}, where, None
    states: dict[str, int] = {}
    with contextlib.suppress(QvmError, OSError):
        states = {path: len(each.done) for path, each in maintenance.own_folders(vm).items()}
    top = os.path.realpath(vm.directory) + os.sep
    inside = {path: count for path, count in states.items() if os.path.realpath(path).startswith(top)}
    there = sum(states.values()) - sum(inside.values())
    place = host_files.shortest(vm.settings.located(where)) if there else ""
    return inside, place, there


def _sorted_out(directory: str, below: str, named: Iterable[str], left: str) -> tuple[list[str], list[str]]:
    """The own and the foreign names in a folder of the machine; one that holds both is looked into."""
    own, foreign = [], []
    for each in sorted(os.listdir(os.path.join(directory, below))):
        name = os.path.join(below, each)
        path = os.path.join(directory, name)
        if name in named or each.startswith(left):
            own.append(name)
        elif any(other.startswith(name + os.sep) for other in named) and not os.path.islink(path):
            inner = _sorted_out(directory, name, named, left)
            own += inner[0]
            foreign += inner[1]
        else:
            foreign.append(name)
    return own, foreign


def real(vm: BaseMachine) -> BaseMachine:
    """The machine by its directory itself, where it was named by a link to it."""
    if not os.path.islink(vm.directory):
        return vm
    directory = os.path.realpath(vm.directory)
    return type(vm)(directory, io=vm.io, environ=vm.environ, overrides=vm.overrides)


def require_writable(vm: BaseMachine, folders: Iterable[str], verb: str) -> None:
    """Refuse where a name in one of these folders cannot be changed.

    Args:
        verb: for the error: `move`.

    Raises:
        QvmError: the text names the folder.
    """
    for folder in dict.fromkeys(folders):
        if os.access(folder, os.W_OK | os.X_OK):
            continue
        if not os.path.isdir(folder):
            what, hint = f"there is no folder {folder}", f"`mkdir -p {quote(folder)}` first"
            raise QvmError(f"cannot {verb}: {what}", machine=vm.name, hint=hint)
        uid, hint = os.stat(folder).st_uid, f"`chmod u+w {quote(folder)}` first"
        if host_files.is_read_only(folder):
            hint = host_files.READ_ONLY_HINT
        elif uid != os.geteuid():
            hint = f"it belongs to {process.user_name(uid)}"
        raise QvmError(f"cannot {verb}: you cannot write to {folder}", machine=vm.name, hint=hint)


def used_bytes(directory: str, names: Iterable[str] | None = None) -> int:
    """What these files take on the disk, or all that are in the directory; links are not followed."""
    total = 0
    if names is None:
        names = ()
        with contextlib.suppress(OSError):
            names = os.listdir(directory)
    for name in names:
        path = os.path.join(directory, name)
        with contextlib.suppress(OSError):
            total += os.lstat(path).st_blocks * 512
        if os.path.isdir(path) and not os.path.islink(path):
            for folder, _, files in os.walk(path):
                for each in files:
                    with contextlib.suppress(OSError):
                        total += os.lstat(os.path.join(folder, each)).st_blocks * 512
    return total
