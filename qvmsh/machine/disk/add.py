"""Adding a disk, new or existing, to VM_DISKS, and at once to a machine that is on.

add(vm, "data.qcow2", Addition("10G"))
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from qvmsh.config import devices
from qvmsh.config.words import quote
from qvmsh.errors import ImageError, QmpError, QvmError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import log, registry, state
from qvmsh.machine.disk.reports import DiskDone
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.monitor import conversation
from qvmsh.machine.settings import lines
from qvmsh.machine.storage import chain, dependents, linked, own_disk, selection, supplies, volumes
from qvmsh.machine.storage.disk_size import bytes_of
from qvmsh.machine.storage.volumes import Volume
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image, platforms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAKES = ("qcow2", "raw")
"""Formats in which an empty image is made."""


@dataclass(frozen=True)
class Addition:
    """The options of `disk add`."""

    size: str | None = None
    format: str | None = None
    is_read_only: bool = False


@log.failures
def add(vm: BaseMachine, file: str, addition: Addition) -> DiskDone:
    """Give the machine another disk; see `commands.disk`."""
    with work_lock(vm, "disk add"):
        seen = state.observe(vm)
        line = devices.DiskLine(file, addition.format or "", is_read_only=addition.is_read_only)
        word = _word(vm, line)
        if own_disk.is_by_hand(vm):
            raise UsageError(
                "disk add: the disks are named in VM_QEMU_ARGS", machine=vm.name, hint="add it there by hand"
            )
        path = vm.settings.located(file)
        supplies.shown(vm, path)
        found = supplies.additional_disks(vm)
        new = Volume(f"disk{len(found) + 1}", path, line.driver, addition.is_read_only, source="VM_DISKS")
        for each in volumes.configured(vm):
            if os.path.realpath(each.path) == os.path.realpath(path):
                raise UsageError(f"disk add: {file} is already {each.id}", machine=vm.name)
        if not addition.size:
            _require_declared_format(vm, new, line)
        made = _made(vm, new, addition)
        try:
            disk = supplies.AdditionalDisk(file, path, new.id, line)
            supplies.require_additional(vm, disk)
            _require_near(vm, disk)
            image.require_unused(path, vm.name)
            if not addition.is_read_only:
                dependents.require_writable(vm, path, "add")
            lines.add(vm, "VM_DISKS", [word])
            linked.keep(vm)
            _warn_of_others(vm, new)
        except BaseException:
            if made:
                host_files.remove(path)
            raise
        done = "created and added" if made else "added"
        if seen.is_live:
            why = _plug(vm, seen, new, line)
            done += f"; available after the next start ({why})" if why else "; available in the guest now"
    log.note(vm, f"added the disk {file}")
    below = [os.path.basename(each) for each in chain.below(vm, path, line.driver)]
    return DiskDone(vm.name, new, done + (f"; it is backed by {', '.join(below)}" if below else ""))


def _require_near(vm: BaseMachine, disk: supplies.AdditionalDisk) -> None:
    """Refuse an overlay on a raw file elsewhere: an untrusted header may name any file of the host."""
    homes = [os.path.realpath(each) for each in (os.path.dirname(disk.path), vm.directory)]
    for each in chain.layers(disk.path, disk.line.driver, vm.name, vm.directory)[1:]:
        real = os.path.realpath(each.path)
        if each.format == "raw" and not any(real.startswith(os.path.join(home, "")) for home in homes):
            raise ImageError(
                f"{disk.name} is backed by {each.path}, a raw file elsewhere that the guest could then read",
                machine=vm.name,
                hint=f"if that file belongs to it, `qvm config edit` adds the line {disk.name!r} to VM_DISKS",
            )


def _word(vm: BaseMachine, line: devices.DiskLine) -> str:
    """The disk as a line of VM_DISKS."""
    word = ":".join([line.path, line.driver, *(["ro"] if line.is_read_only else [])])
    try:
        is_declared = [each.path for each in devices.disks(word)] == [line.path]
    except ValueError:
        is_declared = False
    if not is_declared:
        raise UsageError(
            f"disk add: VM_DISKS cannot hold the name {line.path!r}",
            machine=vm.name,
            hint="each line names one disk, and leading blanks are ignored: use another name",
        )
    return word


def _require_declared_format(vm: BaseMachine, disk: Volume, line: devices.DiskLine) -> None:
    """Refuse a file that may not be an image: neither its name nor its content says so."""
    is_declared = line.format or os.path.splitext(line.path)[1].lower() in devices.BY_SUFFIX
    if is_declared or not os.path.isfile(disk.path):
        return
    if image.require(disk.path, vm.name, hint="").format != "qcow2":
        raise UsageError(
            f"disk add: neither name nor content of {disk.name} says that it is an image",
            machine=vm.name,
            hint="`--format raw` adds it anyway",
        )


def _warn_of_others(vm: BaseMachine, disk: Volume) -> None:
    """Warn of another machine of this user that has the disk: while off, nothing keeps either from it."""
    for folder in registry.directories(vm.environ):
        if os.path.realpath(folder) == os.path.realpath(vm.directory):
            continue
        other = BaseMachine(folder, environ=vm.environ)
        try:
            theirs = volumes.configured(other)
        except (QvmError, OSError):  # its configuration cannot be read now
            continue
        if any(os.path.realpath(each.path) == os.path.realpath(disk.path) for each in theirs):
            vm.io.warn(
                f"{vm.name}: {disk.name} is also a disk of {other.name} ({folder}): only one may write to it"
            )


def _made(vm: BaseMachine, disk: Volume, addition: Addition) -> bool:
    """Create the image, if a size is given; True if it was created."""
    is_there = os.path.exists(disk.path)
    if addition.size is None:
        if not is_there:
            raise ImageError(
                f"{disk.name} is missing", machine=vm.name, hint="add a size to create an empty one: 10G"
            )
        return False
    if is_there:
        raise ImageError(
            f"{disk.name} already exists", machine=vm.name, hint="leave out the size to add it as it is"
        )
    if disk.format not in MAKES:
        stem = os.path.splitext(os.path.basename(disk.path))[0]
        raise UsageError(
            f"disk add: qvm creates {' and '.join(MAKES)} images, not {disk.format}",
            machine=vm.name,
            hint=f"`qvm disk add {quote(stem + '.qcow2')} {quote(addition.size)}`",
        )
    wanted = bytes_of(addition.size)
    folder = os.path.dirname(disk.path)
    if not os.path.isdir(folder):
        raise ImageError(
            f"cannot create {disk.name}: there is no folder {folder}", machine=vm.name, hint="create it first"
        )
    part = f"{disk.path}.part{os.getpid()}"
    words = ["create", "-q", "-f", disk.format, image.safe_name(part), str(wanted)]
    _note(vm, part)
    with host_files.Removed(vm.files.adding), host_files.Removed(part):
        try:
            _lay_down(vm, part)
            selection.run(vm, words, f"create {disk.name}")
        except ImageError as error:
            error.details = tuple(
                line.removeprefix(f"{part}: ").replace(part, disk.path) for line in error.details
            )
            error.hint = error.hint or "choose a smaller size or another place; nothing was changed"
            raise
        host_files.sync(part)
        os.link(part, disk.path)  # never over a new file
    host_files.sync_folder(os.path.dirname(disk.path))
    return True


def _note(vm: BaseMachine, part: str) -> None:
    """Note the image before it exists: nothing else names it yet. What a killed command left is removed."""
    left = selection.interrupted_addition(vm)
    if left:
        host_files.remove(left)
    vm.state_folder()
    host_files.write_atomic(vm.files.adding, part)


def _lay_down(vm: BaseMachine, path: str) -> None:
    """An empty file, never through a link."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _plug(vm: BaseMachine, seen: state.Observation, disk: Volume, line: devices.DiskLine) -> str:
    """Attach the disk to a running guest; "" or why that is not possible."""
    settings = vm.settings
    bus = settings.text("VM_DISK_BUS")
    platform = platforms.of(settings.architecture, settings.text("VM_QEMU_MACHINE"))
    kind = {"virtio": platform.virtio("blk"), "scsi": "scsi-hd"}.get(bus)
    if kind is None or seen.note is None:
        return f"VM_DISK_BUS={bus} takes no disk while it runs"
    if seen.note.disposable or seen.note.base_only:
        return "this run is --disposable or --base-only"
    file = {"driver": supplies.protocol(disk.path), "filename": supplies.shown(vm, disk.path)}
    node: dict[str, Any] = {
        "node-name": disk.id, "driver": line.driver, "read-only": disk.is_read_only, "file": file,
    }  # fmt: skip
    if not disk.is_read_only:
        node["discard"] = "unmap"
        node["file"]["discard"] = "unmap"
    device = {"driver": kind, "drive": disk.id, "id": f"{disk.id}-device", "serial": disk.id}
    try:
        with conversation.begin(seen.note) as exchange:
            exchange.ask("blockdev-add", node, timeout_s=30.0)
            try:
                exchange.ask("device_add", device)
            except QmpError:
                exchange.ask("blockdev-del", {"node-name": disk.id})
                raise
    except QmpError as error:
        return error.what.partition(": ")[2] or error.what
    except OSError:
        return "QEMU does not answer"
    return ""
