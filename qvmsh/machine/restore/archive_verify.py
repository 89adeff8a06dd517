"""`archive --verify`: proof that an archived state can be restored.

verify(vm, "latest", is_booting=True)       # Verified(...)
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil

from qvmsh.errors import ImageError, QvmError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import programs
from qvmsh.machine.archive import maintenance
from qvmsh.machine.archive.checked_reader import Reader
from qvmsh.machine.archive.index import ArchiveIndex
from qvmsh.machine.archive.model import Archive, Point
from qvmsh.machine.archive.reports import Verified
from qvmsh.machine.archive.settings import SETTINGS
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.power import start
from qvmsh.machine.power.request import Request
from qvmsh.machine.restore import new_machine, restore
from qvmsh.machine.work import kill
from qvmsh.qemu import qemuimg


def verify(vm: BaseMachine, word: str | None, *, is_booting: bool) -> Verified:
    """Read a state back, check its images, and perhaps start it.

    Args:
        word: as for `restore`; a folder alone means all its states, None the newest state of all.

    Raises:
        ImageError: something of it is missing, changed or broken.
        DeadlineError: it was started and did not become ready.
    """
    index, archive, point = restore.find(vm, word or "latest")
    is_folder = word is not None and os.path.basename(word.rstrip("/")) == archive.folder
    points = archive.done if is_folder else [point]
    notes = []
    read: set[str] = set()
    for each in points:
        maintenance.require_whole(vm, index, archive, each, read)
    if any(not part.xxh128 for part in archive.parts(points)):
        notes.append(f"{archive.folder} has no checksums (it was made by `vm`)")
    try:
        with _folder(vm) as folder:
            checked: set[str] = set()
            for each in points:
                _check(vm, index, archive, each, folder, checked)
            boot_s = _boot(vm, index, archive, point, os.path.join(folder, "boot")) if is_booting else None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise QvmError(
            f"cannot verify {archive.folder}: not enough free space to unpack its images in {vm.files.state}",
            machine=vm.name,
            hint="free some space there; the checksums of the files read so far are right",
        ) from None
    names = [f"{archive.folder}/{each.stamp}" for each in points]
    return Verified(vm.name, names, notes, boot_s)


class _folder:  # noqa: N801  # used as a function
    """A temporary folder; those of killed commands are removed first."""

    def __init__(self, vm: BaseMachine) -> None:
        self.path = host_files.unique(os.path.join(vm.state_folder(), "verify-"))
        for name in os.listdir(vm.files.state):
            pid = name.removeprefix("verify-").partition("-")[0]
            if name.startswith("verify-") and not process.exists(process.number(pid)):
                shutil.rmtree(os.path.join(vm.files.state, name), ignore_errors=True)

    def __enter__(self) -> str:
        os.mkdir(self.path, 0o700)
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _check(
    vm: BaseMachine, index: ArchiveIndex, archive: Archive, point: Point, folder: str, checked: set[str]
) -> None:
    """Run `qemu-img check` on all images of a state, in place if they can be read there.

    Args:
        folder: where those are unpacked that cannot.
        checked: names of those that it has looked at already; gets the others.
    """
    program = programs.qemu_img(vm)
    reader = Reader(vm.io, program, index, archive, point, folder, verb="unpacking")
    disks = [part.role for part in point.parts if part.role != SETTINGS and not part.left_out]
    for part in itertools.chain.from_iterable(map(reader.files, disks)):
        if part.name in checked:
            continue
        with reader.opened(part) as fd:
            label = f"{archive.folder}/{part.name}"
            sound = qemuimg.check_alone(program, fd, part.format, label)
            if sound and sound.corruptions:
                raise ImageError(
                    f"{label} has {sound.corruptions} errors", machine=vm.name, hint=maintenance.OTHER_STATE
                )
        checked.add(part.name)


def _boot(vm: BaseMachine, index: ArchiveIndex, archive: Archive, point: Point, folder: str) -> float:
    """Start the state as a disposable machine of its own; the seconds until it was ready."""
    programs.require_accepted(vm)
    os.mkdir(folder)
    reader = Reader(vm.io, programs.qemu_img(vm), index, archive, point, folder)
    new_machine.lay_out(vm, reader, vm.environ)
    host_files.remove(os.path.join(folder, ".qvm", "uuid"))
    own = [("VM_SSH_PORT", "auto"), ("VM_HOSTFWD", ""), ("VM_PRE_START", ""), ("VM_POST_STOP", "")]
    own = [(name, value) for name, value in own if name in vm.settings]
    environ = {**vm.environ, "XDG_DATA_HOME": folder}  # the list of known machines is not for it
    made = BaseMachine(folder, io=vm.io, environ=environ, overrides=(*vm.overrides, *own))
    try:
        request = Request(disposable=True)
        report = start.start(made, request, ssh_attempts=None, is_waiting=True)
    except QvmError as error:
        error.machine = vm.name
        error.what = f"{archive.folder}/{point.stamp} does not boot: {error.what}"
        raise
    finally:
        _end(made)
    return report.seconds


def _end(made: BaseMachine) -> None:
    try:
        kill.kill(made)
    except QvmError:
        pass  # it has ended already
