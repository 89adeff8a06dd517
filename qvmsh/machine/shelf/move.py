"""Moving a machine's directory: by renaming it, or by a copy where it goes to another file system.

move(vm, "/big/vms/web")      # Moved

What in it names its own directory by the whole path is written in another way first, which means the same
files here and there. So a killed move leaves a whole machine in the one place or the other.
"""

from __future__ import annotations

import contextlib
import errno
import os

from qvmsh.config import edit
from qvmsh.errors import QvmError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import registry, state
from qvmsh.machine.journal import Kind
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.shelf import across, delete, own_files, path_images, path_snapshots
from qvmsh.machine.shelf.reports import Moved
from qvmsh.machine.storage import path_settings
from qvmsh.machine.storage.shift import Shift
from qvmsh.machine.work import creation_folder
from qvmsh.machine.work.lock import work_lock


def move(vm: BaseMachine, directory: str) -> Moved:
    """Move the machine's directory, with everything in it.

    Args:
        directory: the new path; if a directory is there, the machine is moved into it.

    Raises:
        StateError: it is not off, disks of other machines are backed by its own, a path in it would mean
            another file there, or something in it cannot be copied.
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
        _make_relocatable(vm, target)
        try:
            os.rename(was, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise QvmError(
                    f"cannot move to {target}: {error.strerror}", machine=vm.name,
                    hint=f"it is where it was: {was}",
                ) from None  # fmt: skip
            _copy(vm, target)
        host_files.sync_folder(os.path.dirname(target))
        made = type(vm)(target, io=vm.io, environ=vm.environ)
        with contextlib.suppress(OSError):  # the disk is full: disks are known by the end of their paths too
            path_snapshots.relocate(made, made, was)
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
    folders = [os.path.dirname(vm.directory), above]
    if not os.path.samefile(*folders):  # the machine's directory will have another one above it
        folders.append(vm.directory)
    own_files.require_writable(vm, folders, "move")


def _make_relocatable(vm: BaseMachine, target: str) -> None:
    """Let everything in the directory mean the same files from the new place.

    StateError, QvmError: it cannot, or cannot be copied there; nothing has been changed.
    """
    shift = Shift(vm.directory, target)
    before = host_files.read(vm.files.vmrc).text
    text = path_settings.relocatable(vm, shift, before, "move")
    changes = path_images.relocatable(vm, shift, "move")
    if os.stat(vm.directory).st_dev != os.stat(os.path.dirname(target)).st_dev:
        across.require(vm.directory, target, _job(vm))
    path_images.apply(vm, changes)
    if text != before:
        edit.replace(vm.files.vmrc, text)
        vm.reload()


def _job(vm: BaseMachine) -> across.Job:
    return across.Job(Kind.MOVE, vm.name, vm.environ, vm.io)


def _copy(vm: BaseMachine, target: str) -> None:
    """Take it to another file system.

    QvmError: it cannot be copied; it is where it was.
    """
    try:
        across.take(vm.directory, target, _job(vm))
    except OSError as error:
        raise QvmError(
            f"cannot move to {target}: {error.strerror}", machine=vm.name,
            hint=f"it is where it was: {vm.directory}",
        ) from error  # fmt: skip
