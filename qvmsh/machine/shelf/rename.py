"""Giving a machine another name: its directory, its files, its archives, and what refers to them.

rename(vm, "mail")       # Moved

The new `.vmrc` is written beside the old one first; then a record in the journal lists every file to rename.
From there on the renaming is completed, by this command or by the next: each step can be done again.
"""

from __future__ import annotations

import os

from qvmsh.config import edit
from qvmsh.config.words import quote
from qvmsh.errors import QvmError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import programs, registry, state
from qvmsh.machine.archive import maintenance
from qvmsh.machine.create import create
from qvmsh.machine.journal import Journal, Kind, Record
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.restore.new_identity import guest_words
from qvmsh.machine.shelf import delete, own_files
from qvmsh.machine.shelf.reports import Moved
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.storage import volumes
from qvmsh.machine.work import recovery
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image, qemuimg

STAGED = os.path.join(".qvm", "vmrc.renamed")


def rename(vm: BaseMachine, name: str) -> Moved:
    """Give the machine the name `name`; its directory too where that has the machine's name.

    Raises:
        StateError: it is not off, or disks of other machines are backed by its own.
        UsageError: the name cannot be used, or something of that name is there.
    """
    vm, was = own_files.real(vm), vm.name
    create.require_name(name, verb="rename")
    with work_lock(vm, "rename"):
        state.require_off(vm, state.observe(vm), "rename")
        target = _target(vm, name)
        delete.require_no_dependents(vm, own_files.of(vm), "rename")
        text = _renamed_text(vm, name)
        record = Record(Kind.RENAME, name=name, renames=_renames(vm, vm.with_vmrc(text)), directory=target)
        staged = os.path.join(vm.directory, STAGED)
        host_files.write_atomic(staged, text, host_files.mode(vm.files.vmrc) or 0o644)
        with recovery.Transaction(vm, record) as journal:
            complete(journal)
        _rename_directory(vm, target)
    made = BaseMachine(target, io=vm.io, environ=vm.environ)
    registry.forget(vm.directory, vm.environ)
    registry.remember(made)
    return Moved(name, target, was)


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
    for variable, words in guest_words(vm, name).items():
        text = edit.assign(text, variable, words)
    return text


def _renames(vm: BaseMachine, later: BaseMachine) -> tuple[tuple[str, str], ...]:
    """Old and new name of each file that is called after the machine, from its directory.

    Args:
        later: the machine with its new name.
    """
    pairs = list(zip(_named(vm), _named(later), strict=True))
    pairs += _archives(vm, later.name)
    found = []
    for old, new in dict.fromkeys(pairs):
        source, target = os.path.join(vm.directory, old), os.path.join(vm.directory, new)
        if old == new or not os.path.lexists(source):
            continue
        if os.path.lexists(target):
            raise StateError(f"cannot rename: {new} is there already", machine=vm.name, hint="move it away")
        found.append((old, new))
    return tuple(found)


def _named(vm: BaseMachine) -> list[str]:
    """The files whose names may hold that of the machine, from its directory."""
    settings = vm.settings
    name, kind = settings.text("VM_MACHINE_NAME"), settings.text("VM_FMT")
    layers = [settings.text(f"VM_SNAPSHOT_{which}FILENAME") for which in ("SEED", "BASE", "BACKING")]
    firmware = [f"{name}-{each}.qcow2" for each in own_files.FIRMWARE]
    disks = [each.path for each in volumes.configured(vm, is_to_come=True) if each.source == "VM_DISKS"]
    return [*layers, f"{name}.{kind}", *firmware, *(vm.files.inside(each) for each in disks)]


def _archives(vm: BaseMachine, name: str) -> list[tuple[str, str]]:
    """The folders of its archives on this host; those on another host keep their names."""
    if "://" in vm.settings.text("VM_ARCHIVE"):
        vm.io.warn(f"{vm.name}: its archives on another host keep their names")
        return []
    found = []
    for path, archive in maintenance.own_folders(vm).items():
        inside = vm.files.inside(path)
        found.append((inside, os.path.join(os.path.dirname(inside), f"{name}-{archive.stamp}")))
    return found


def complete(journal: Journal) -> str:
    """Do every step that has not been done yet."""
    vm, record = journal.vm, journal.record
    for old, new in record.renames:
        source, target = os.path.join(vm.directory, old), os.path.join(vm.directory, new)
        if os.path.lexists(source) and not os.path.lexists(target):
            os.rename(source, target)
            host_files.sync_folder(os.path.dirname(target))
    staged = os.path.join(vm.directory, STAGED)
    if os.path.lexists(staged):
        _rebase(vm, dict(record.renames))
        _relocate(vm, dict(record.renames))
        os.rename(staged, vm.files.vmrc)
        host_files.sync_folder(vm.directory)
        vm.reload()
    return "was completed"


def _rebase(vm: BaseMachine, renames: dict[str, str]) -> None:
    """Let each renamed image name its renamed base."""
    for new in renames.values():
        path = os.path.join(vm.directory, new)
        try:
            header = image.header(path)
        except (OSError, QvmError):  # an archive's folder, a raw disk
            continue
        backing = header.backing
        inside = vm.files.inside(os.path.join(os.path.dirname(path), backing)) if backing else ""
        target = renames.get(inside)
        if target is None or header.format != "qcow2":
            continue
        name = os.path.relpath(os.path.join(vm.directory, target), os.path.dirname(path))
        kind = header.backing_format or "qcow2"
        words = ["rebase", "-q", "-u", "-f", "qcow2", "-F", kind, "-b", name, image.safe_name(path)]
        qemuimg.run(programs.qemu_img(vm), words, cwd=vm.directory, what=f"name the base of {new}")


def _relocate(vm: BaseMachine, renames: dict[str, str]) -> None:
    """Let the metadata of snapshots name the renamed disks."""
    catalogue = Catalogue.read(vm)
    if not catalogue.entries:
        return
    paths = {os.path.join(vm.directory, old): os.path.join(vm.directory, new) for old, new in renames.items()}
    catalogue.relocate(paths)
    catalogue.write()


def _rename_directory(vm: BaseMachine, target: str) -> None:
    if target == vm.directory:
        return
    try:
        os.rename(vm.directory, target)
    except OSError as error:
        raise QvmError(
            f"its files are renamed, but not its directory: {error.strerror}", machine=vm.name,
            hint=f"`mv {quote(vm.directory)} {quote(target)}` does it",
        ) from None  # fmt: skip
    host_files.sync_folder(os.path.dirname(target))


def recover(journal: Journal) -> str:
    """See `work.recovery`: the renaming is always completed; the directory keeps its name."""
    return complete(journal)


def left(vm: BaseMachine, record: Record) -> tuple[str, str | None]:
    """See `work.recovery`."""
    return "", None
