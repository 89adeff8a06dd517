"""`archive --verify`: proof that an archived state comes back.

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
from qvmsh.machine import programs as tools
from qvmsh.machine.archive import maintenance as archive_keeping
from qvmsh.machine.archive.index import Shelf
from qvmsh.machine.archive.model import Archive, Point
from qvmsh.machine.archive.reader import Reader
from qvmsh.machine.archive.reports import Verified
from qvmsh.machine.archive.settings import SETTINGS
from qvmsh.machine.machine import Machine
from qvmsh.machine.power import start as lifecycle
from qvmsh.machine.power import stop as power
from qvmsh.machine.restore import new_machine as restore_new
from qvmsh.machine.restore import restore as restoring
from qvmsh.qemu import qemuimg


def verify(vm: Machine, word: str | None, *, is_booting: bool) -> Verified:
    """Read a state back, check its images, and perhaps start it.

    Args:
        word: as for `restore`; a folder alone means all its states, None the newest state of all.

    Raises:
        ImageError: something of it is missing, changed or broken.
        DeadlineError: it was started and did not become ready.
    """
    shelf, archive, point = restoring.find(vm, word or "latest")
    is_folder = word is not None and os.path.basename(word.rstrip("/")) == archive.folder
    points = archive.done if is_folder else [point]
    notes = []
    read: set[str] = set()
    for each in points:
        archive_keeping.require_whole(vm, shelf, archive, each, read)
    if any(not part.xxh128 for part in archive.parts(points)):
        notes.append(f"{archive.folder} has no checksums (it was made by `vm`)")
    try:
        with _folder(vm) as folder:
            checked: set[str] = set()
            for each in points:
                _check(vm, shelf, archive, each, folder, checked)
            boot_s = _boot(vm, shelf, archive, point, os.path.join(folder, "boot")) if is_booting else None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise QvmError(
            f"cannot verify {archive.folder}: there is no room to unpack its images in {vm.files.state}",
            machine=vm.name,
            hint="make room there; the files' checksums are right, so far as they were read",
        ) from None
    names = [f"{archive.folder}/{each.stamp}" for each in points]
    return Verified(vm.name, names, notes, boot_s)


class _folder:  # noqa: N801  # used as a function
    """A folder to work in, that vanishes; what killed ones left goes first."""

    def __init__(self, vm: Machine) -> None:
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


def _check(vm: Machine, shelf: Shelf, archive: Archive, point: Point, folder: str, checked: set[str]) -> None:
    """Let `qemu-img check` look at all images of a state, where they lie if they can be read there.

    Args:
        folder: where those are unpacked that cannot.
        checked: names of those that it has looked at already; gets the others.

    Raises:
        ImageError: one is broken, or stands on what the archive does not hold.
    """
    program = tools.qemu_img(vm)
    reader = Reader(vm.io, program, shelf, archive, point, folder, verb="unpacking")
    disks = [part.role for part in point.parts if part.role != SETTINGS and not part.left_out]
    for part in itertools.chain.from_iterable(map(reader.files, disks)):
        if part.name in checked:
            continue
        with reader.opened(part) as fd:
            label = f"{archive.folder}/{part.name}"
            sound = qemuimg.check_alone(program, fd, part.format, label)
            if sound and sound.corruptions:
                raise ImageError(
                    f"{label} has {sound.corruptions} errors",
                    machine=vm.name,
                    hint=archive_keeping.OTHER_STATE,
                )
        checked.add(part.name)


def _boot(vm: Machine, shelf: Shelf, archive: Archive, point: Point, folder: str) -> float:
    """Start the state as a machine of its own, whose changes vanish; the seconds until it was ready."""
    tools.require_accepted(vm)
    os.mkdir(folder)
    restore_new.lay_out(vm, shelf, archive, point, folder, vm.io, vm.environ)
    host_files.remove(os.path.join(folder, ".qvm", "uuid"))
    own = [("VM_SSH_PORT", "auto"), ("VM_HOSTFWD", ""), ("VM_PRE_START", ""), ("VM_POST_STOP", "")]
    own = [(name, value) for name, value in own if name in vm.settings]
    environ = {**vm.environ, "XDG_DATA_HOME": folder}  # the list of known machines is not for it
    made = Machine(folder, io=vm.io, environ=environ, overrides=(*vm.overrides, *own))
    try:
        request = lifecycle.Request(disposable=True)
        report = lifecycle.start(made, request, ssh_attempts=None, is_waiting=True)
    except QvmError as error:
        error.machine = vm.name
        error.what = f"{archive.folder}/{point.stamp} does not boot: {error.what}"
        raise
    finally:
        _end(made)
    return report.seconds


def _end(made: Machine) -> None:
    try:
        power.kill(made)
    except QvmError:
        pass  # it has ended already
