"""Giving a machine another name: its directory, its files, its archives, and what refers to them.

rename(vm, "mail")       # Moved

The new `.vmrc` is written beside the old one, and a record in the journal lists every file to rename. Then
the directory gets its new name, and only after that its files do. So a killed renaming leaves the machine in
its old directory, where nothing has changed, or in the new one, where the next command completes it: each
step can be done again.
"""

from __future__ import annotations

import os

from qvmsh.config import edit
from qvmsh.config.words import joined
from qvmsh.errors import QvmError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import journal as journals
from qvmsh.machine import registry, state
from qvmsh.machine.archive import maintenance
from qvmsh.machine.create import create
from qvmsh.machine.journal import Journal, Kind, Record
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.restore.new_identity import guest_words
from qvmsh.machine.shelf import delete, own_files, path_images, path_snapshots
from qvmsh.machine.shelf.reports import Moved
from qvmsh.machine.storage import own_disk, path_settings
from qvmsh.machine.storage.path_settings import WORDS
from qvmsh.machine.storage.shift import Shift
from qvmsh.machine.work import recovery
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

STAGED = os.path.join(".qvm", "vmrc.renamed")


def rename(vm: BaseMachine, name: str) -> Moved:
    """Give the machine the name `name`; its directory too where that has the machine's name.

    Raises:
        StateError: it is not off, disks of other machines are backed by its own, or a path in it cannot be
            written so that it leads to the same file afterwards.
        QvmError: a file cannot be renamed; nothing has been changed.
        UsageError: the name cannot be used, or something of that name is there.
    """
    vm, was = own_files.real(vm), vm.name
    create.require_name(name, verb="rename")
    with work_lock(vm, "rename"):
        if was != vm.name == name:  # an interrupted renaming has just been completed
            return Moved(name, vm.directory, was)
        state.require_off(vm, state.observe(vm), "rename")
        target = _target(vm, name)
        delete.require_no_dependents(vm, own_files.of(vm), "rename")
        shift = Shift(vm.directory, target)
        text = path_settings.relocatable(vm, shift, _renamed_text(vm, name), "rename")
        renames = _renames(vm, vm.with_vmrc(text))
        _require_writable(vm, target, renames)
        paths = path_images.relocatable(vm, shift, "rename")
        paths.bases += _recorded(path_images.renamed(vm, dict(renames)))
        record = Record(Kind.RENAME, name=name, renames=renames, directory=target, folder=vm.directory)
        try:
            host_files.write_atomic(_staged(vm), text, host_files.mode(vm.files.vmrc) or 0o644)
            path_images.apply(vm, paths)
            work = recovery.Transaction(vm, record)
            with work as journal:
                made = _moved(vm, target)
                work.moved_to(made)
                complete(journal)
        finally:
            if not journals.is_of(vm, Kind.RENAME):
                host_files.remove(_staged(vm))
    registry.forget(vm.directory, vm.environ)
    registry.remember(made)
    return Moved(name, target, was)


def _staged(vm: BaseMachine) -> str:
    return os.path.join(vm.directory, STAGED)


def _target(vm: BaseMachine, name: str) -> str:
    """Where the machine's directory will be."""
    above, base = os.path.split(vm.directory)
    if name == vm.name:
        raise UsageError(f"rename: it is called {name} already", machine=vm.name)
    if base != vm.name:
        return vm.directory
    target = os.path.join(above, name)
    if os.path.lexists(target):
        raise UsageError(f"rename: {target} is there already", machine=vm.name, hint="choose another name")
    return target


def _renamed_text(vm: BaseMachine, name: str) -> str:
    """The new `.vmrc`."""
    text = host_files.read(vm.files.vmrc).text
    text = edit.assign(text, "VM_MACHINE_NAME", name)
    for variable, words in guest_words(vm.as_written(), name).items():
        text = edit.assign(text, variable, joined(words))
    return text


def _require_writable(vm: BaseMachine, target: str, renames: Sequence[tuple[str, str]]) -> None:
    """Refuse where the directory could not be renamed, or a file once it has its new name.

    QvmError: the text names the folder.
    """
    folders = [os.path.dirname(os.path.join(vm.directory, name)) for pair in renames for name in pair]
    above = [os.path.dirname(target)] if target != vm.directory else []
    own_files.require_writable(vm, [*above, vm.directory, *folders], "rename")


def _recorded(changes: path_images.Changes) -> list[tuple[str, str, str]]:
    """The images that do not record the format of their base: it is not seen from a base that is renamed."""
    headers = [(path, image.header(path), kind) for path, _, kind in changes.bases]
    return [(path, found.backing, kind) for path, found, kind in headers if not found.backing_format]


# What is renamed


def _renames(vm: BaseMachine, later: BaseMachine) -> tuple[tuple[str, str], ...]:
    """Old and new name of each file that is called after the machine, from its directory.

    Args:
        later: the machine with its new name.
    """
    pairs = list(zip(_computed(vm), _computed(later), strict=True))
    pairs += zip(_named(vm), _named(later), strict=True)
    pairs += _archives(vm, later)
    literal = dict.fromkeys(_named(later))
    found = []
    for old, new in dict.fromkeys(pairs):
        source, target = os.path.join(vm.directory, old), os.path.join(vm.directory, new)
        if old == new or not os.path.lexists(source):
            continue
        if old in literal and own_disk.is_by_hand(vm):
            continue
        if old in literal:
            raise StateError(
                f"cannot rename: .vmrc names {old}, which would be called {new}", machine=vm.name,
                hint="`qvm config edit`: write $VM_MACHINE_NAME there instead of the name",
            )  # fmt: skip
        if os.path.lexists(target):
            raise StateError(f"cannot rename: {new} is there already", machine=vm.name, hint="move it away")
        found.append((old, new))
    return tuple(found)


def _computed(vm: BaseMachine) -> list[str]:
    """The files whose names qvm makes of the machine's, from its directory."""
    settings = vm.settings
    name, kind = settings.text("VM_MACHINE_NAME"), settings.text("VM_FMT")
    layers = [settings.text(f"VM_SNAPSHOT_{which}FILENAME") for which in ("SEED", "BASE", "BACKING")]
    return [*layers, f"{name}.{kind}", *(f"{name}-{each}.qcow2" for each in own_files.FIRMWARE)]


def _named(vm: BaseMachine) -> list[str]:
    """The files that the settings name: disks, and what else is in the directory, from there."""
    found, here = [], Shift(vm.directory, vm.directory)
    for variable, text in path_settings.named(vm):
        path = os.path.normpath(vm.settings.located(text))
        inside = here.inside(path) or vm.files.inside(path)
        is_ours = variable in ("VM_DISKS", *WORDS) or not os.path.isabs(inside)
        found.append(inside if is_ours and variable != "VM_ARCHIVE" else "")
    return found


def _archives(vm: BaseMachine, later: BaseMachine) -> list[tuple[str, str]]:
    """The folders of its archives on this host; those on another host keep their names.

    StateError: VM_ARCHIVE is called after the machine, or holds those of the one that this is a copy of.
    """
    if "://" in vm.settings.text("VM_ARCHIVE"):
        vm.io.warn(f"{vm.name}: its archives on another host keep their names")
        return []
    folders = maintenance.own_folders(vm)
    if folders:
        maintenance.require_alone(vm, maintenance.index_of(vm), "rename")
    if folders and vm.settings.text("VM_ARCHIVE") != later.settings.text("VM_ARCHIVE"):
        raise StateError(
            f"cannot rename: VM_ARCHIVE would be {later.settings.text('VM_ARCHIVE')}, without its archives",
            machine=vm.name, hint="name that folder without $VM_MACHINE_NAME: `qvm config VM_ARCHIVE=FOLDER`",
        )  # fmt: skip
    found = []
    for path, archive in folders.items():
        inside = vm.files.inside(path)
        found.append((inside, os.path.join(os.path.dirname(inside), f"{later.name}-{archive.stamp}")))
    return found


# Doing it


def _moved(vm: BaseMachine, target: str) -> BaseMachine:
    """Give the directory its new name.

    QvmError: that is refused; nothing has been renamed.
    """
    if target == vm.directory:
        return vm
    try:
        os.rename(vm.directory, target)
    except OSError as error:
        raise QvmError(
            f"cannot rename {vm.directory}: {error.strerror}", machine=vm.name,
            hint="if that is a mount point: `qvm move` it into a folder first",
        ) from None  # fmt: skip
    host_files.sync_folder(os.path.dirname(target))
    return type(vm)(target, io=vm.io, environ=vm.environ)


def complete(journal: Journal) -> str:
    """Do every step in the directory that has not been done yet."""
    vm, record = journal.vm, journal.record
    for old, new in record.renames:
        source, target = os.path.join(vm.directory, old), os.path.join(vm.directory, new)
        if os.path.lexists(source) and not os.path.lexists(target):
            os.rename(source, target)
            host_files.sync_folder(os.path.dirname(target))
    if os.path.lexists(_staged(vm)):
        later = vm.with_vmrc(host_files.read(_staged(vm)).text)
        path_images.apply(vm, path_images.renamed(later, dict(record.renames)))
        path_snapshots.relocate(vm, later, record.folder or vm.directory, dict(record.renames))
        os.rename(_staged(vm), vm.files.vmrc)
        host_files.sync_folder(vm.directory)
        vm.reload()
    return f"was completed: it is in {vm.directory}"


def recover(journal: Journal) -> str:
    """See `work.recovery`: it is completed where the directory has its new name, else nothing was renamed."""
    vm, record = journal.vm, journal.record
    is_moved = os.path.realpath(vm.directory) == os.path.realpath(record.directory)
    if is_moved or any(os.path.lexists(os.path.join(vm.directory, new)) for _, new in record.renames):
        found = complete(journal)
        registry.remember(vm)
        return found
    host_files.remove(_staged(vm))
    return "was undone: nothing was renamed"


def left(vm: BaseMachine, record: Record) -> tuple[str, str | None]:
    """See `work.recovery`."""
    return "", None
