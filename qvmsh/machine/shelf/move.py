"""Moving a machine's directory: by renaming it, or by a copy where it goes to another file system.

move(vm, "/big/vms/web")      # Moved
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil

from qvmsh.config.words import quote
from qvmsh.errors import QvmError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import programs, registry, state
from qvmsh.machine.journal import Kind
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.progress import Progress, size
from qvmsh.machine.restore.new_identity import WORDS
from qvmsh.machine.shelf import delete, own_files, trash
from qvmsh.machine.shelf.reports import Moved
from qvmsh.machine.storage import supplies, volumes
from qvmsh.machine.work import creation_folder
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import drives as qemu_drives
from qvmsh.qemu import image, qemuimg

PATHS = ("VM_ARCHIVE", "VM_CDROM", "VM_INCLUDE", "VM_INITRD", "VM_KERNEL", "VM_SSH_IDENTITY")
"""The variables that may name a file outside the directory."""
SPARE_BYTES = 16 << 20
"""Free space that a copy leaves."""


def move(vm: BaseMachine, directory: str) -> Moved:
    """Move the machine's directory, with everything in it.

    Args:
        directory: the new path; if a directory is there, the machine is moved into it.

    Raises:
        StateError: it is not off, or disks of other machines are backed by its own.
        UsageError: something is there already.
        QvmError: there is not enough free space.
    """
    vm = own_files.real(vm)
    was = vm.directory
    target = os.path.abspath(directory)
    if os.path.isdir(target) and not os.path.lexists(os.path.join(target, ".vmrc")):
        target = os.path.join(target, os.path.basename(was))
    for line in creation_folder.sweep(vm.environ):
        vm.io.warn(line)
    with work_lock(vm, "move"):
        state.require_off(vm, state.observe(vm), "move")
        _require_place(vm, target)
        delete.require_no_dependents(vm, own_files.of(vm), "move")
        _require_same_files(vm, target)
        try:
            os.rename(was, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise QvmError(f"cannot move to {target}: {error.strerror}", machine=vm.name) from None
            _copy(vm, target)
        host_files.sync_folder(os.path.dirname(target))
    made = BaseMachine(target, io=vm.io, environ=vm.environ)
    _rebase(made, was)
    registry.forget(was, vm.environ)
    registry.remember(made)
    return Moved(made.name, target, was)


def _require_place(vm: BaseMachine, target: str) -> None:
    above = os.path.dirname(target)
    if os.path.lexists(target):
        raise UsageError(f"move: {target} is there already", machine=vm.name, hint="choose another place")
    if not os.path.isdir(above):
        raise UsageError(f"move: there is no directory {above}", machine=vm.name, hint="create it first")
    if os.path.realpath(above).startswith(os.path.realpath(vm.directory) + os.sep):
        raise UsageError(f"move: {target} is inside the machine's own directory", machine=vm.name)


def _require_same_files(vm: BaseMachine, target: str) -> None:
    """Refuse where a path that leads out of the directory would mean another file from the new place.

    Raises:
        StateError: there is one, in the settings or in an image.
    """
    if os.path.realpath(os.path.dirname(target)) == os.path.dirname(os.path.realpath(vm.directory)):
        return
    settings = vm.settings
    named = [(name, settings.text(name)) for name in PATHS]
    named += [("VM_DISKS", each.name) for each in supplies.additional_disks(vm)]
    for variable in WORDS:
        named += [(variable, each.file) for each in qemu_drives.drives(settings.words(variable))]
    for disk in volumes.configured(vm, is_to_come=True):
        with contextlib.suppress(OSError, QvmError):
            if header := image.header(disk.path, disk.format):
                named.append((f"the image {disk.name}", header.backing))
    for name, path in named:
        if os.path.normpath(path).startswith(os.pardir + os.sep):
            raise StateError(
                f"cannot move: {name} names {path}, which would be another file there", machine=vm.name,
                hint=f"name it by its whole path first: {os.path.normpath(os.path.join(vm.directory, path))}",
            )  # fmt: skip


def _copy(vm: BaseMachine, target: str) -> None:
    """Copy everything beside the new place, put it there, then remove the old directory."""
    names = os.listdir(vm.directory)
    inside = [path for folder, _, _ in os.walk(vm.directory) if os.path.ismount(path := folder)]
    if inside:
        raise StateError(
            f"cannot move: {inside[0]} is a mount point", machine=vm.name, hint="unmount it first"
        )
    needed = own_files.used_bytes(vm.directory, names)
    free = host_files.free_bytes(os.path.dirname(target))
    if free < needed + SPARE_BYTES:
        raise QvmError(
            f"cannot move: it takes {size(needed)}, but only {size(free)} is free there", machine=vm.name,
            hint="free some space, or choose another place",
        )  # fmt: skip
    with creation_folder.Folder(Kind.MOVE, target, vm.environ, vm.io) as folder:
        os.chmod(folder.path, os.stat(vm.directory).st_mode & 0o7777)
        with Progress(vm.io, f"copying {vm.name}", needed) as progress:
            done = 0
            for each in sorted(names):
                _copy_tree(os.path.join(vm.directory, each), os.path.join(folder.path, each), vm)
                done += own_files.used_bytes(vm.directory, [each])
                progress.tell(done)
        folder.put_in_place()
    going = os.path.join(os.path.dirname(vm.directory), f"{trash.REMOVING}{os.urandom(4).hex()}")
    os.rename(vm.directory, going)
    _copy_late(going, target, vm)
    trash.remove_tree(going, vm.name)


def _copy_late(source: str, target: str, vm: BaseMachine) -> None:
    """Copy what was put into the old directory while it was copied."""
    for each in sorted(os.listdir(source)):
        old, new = os.path.join(source, each), os.path.join(target, each)
        if not os.path.lexists(new):
            _copy_tree(old, new, vm)
        elif os.path.isdir(old) and not os.path.islink(old):
            _copy_late(old, new, vm)


def _copy_tree(source: str, target: str, vm: BaseMachine) -> None:
    """Copy a file, link or folder with its times, mode and owner; holes stay."""
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
        shutil.copystat(source, target, follow_symlinks=False)
    elif os.path.isdir(source):
        os.mkdir(target)
        for each in sorted(os.listdir(source)):
            _copy_tree(os.path.join(source, each), os.path.join(target, each), vm)
        shutil.copystat(source, target)
        host_files.sync_folder(target)
    elif os.path.isfile(source):
        before = os.stat(source)
        host_files.copy(source, target, vm.io.checkpoint)
        shutil.copystat(source, target)
        after = os.stat(source)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise StateError(f"cannot move: {source} was changed meanwhile", machine=vm.name)
    if os.geteuid() == 0 and os.path.lexists(target):
        status = os.lstat(source)
        os.lchown(target, status.st_uid, status.st_gid)


def _rebase(vm: BaseMachine, was: str) -> None:
    """Images that name their base by its absolute path in the old directory name it where it is now."""
    for folder, _, names in os.walk(vm.directory):
        for name in names:
            path = os.path.join(folder, name)
            try:
                header = image.header(path)
            except (OSError, QvmError):
                continue
            if header.format == "qcow2" and header.backing.startswith(was + os.sep):
                base = os.path.join(vm.directory, os.path.relpath(header.backing, was))
                kind = header.backing_format or "qcow2"
                words = ["rebase", "-q", "-u", "-f", "qcow2", "-F", kind, "-b", base, image.safe_name(path)]
                qemuimg.run(programs.qemu_img(vm), words, cwd=folder, what=f"name the base of {quote(name)}")
