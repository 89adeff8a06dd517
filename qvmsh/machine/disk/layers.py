"""What a disk stands on: commit into it, rebase onto another.

commit(vm, "disk0")
"""

from __future__ import annotations

import contextlib
import os

from qvmsh.config import devices
from qvmsh.config.words import quote
from qvmsh.errors import ImageError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import log, state
from qvmsh.machine import programs as tools
from qvmsh.machine.disk import layers_live as disk_layers_live
from qvmsh.machine.disk.reports import DiskDone
from qvmsh.machine.journal import Kind, Record
from qvmsh.machine.progress import size
from qvmsh.machine.snapshot.store import Images
from qvmsh.machine.storage import chain, dependents, volumes
from qvmsh.machine.storage import selection as diskwork
from qvmsh.machine.storage.volumes import Volume
from qvmsh.machine.work.lock import work_lock
from qvmsh.machine.work.recovery import Transaction
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.machine.machine import Machine


@log.failures
def commit(vm: Machine, name: str | None) -> DiskDone:
    """Write an overlay's data into its base; see `commands.disk`."""
    with work_lock(vm, "disk commit"):
        seen = state.observe(vm)
        disk = _overlay(vm, seen, name, "commit")
        base = chain.base_of(disk.path, disk.format)
        image.require(base, vm.name, hint="put it back", kind=_base_format(vm, disk))
        dependents.require_writable(vm, base, "commit to", besides=disk.path)
        if not seen.is_live:
            image.require_unused(base, vm.name)
        needed = diskwork.used_bytes(disk)
        free = host_files.free_bytes(os.path.dirname(base))
        if free < needed:
            raise ImageError(
                f"cannot commit: {os.path.basename(base)} would grow by up to {size(needed)}, "
                f"and there is room for {size(free)}",
                machine=vm.name,
                hint=f"make room in {os.path.dirname(base)}; nothing was changed",
            )
        if seen.is_live:
            disk_layers_live.commit(vm, seen, disk)
        else:
            _commit(vm, disk, base)
    log.note(vm, f"committed {disk.id} to {os.path.basename(base)}")
    return DiskDone(vm.name, disk, f"its data is in {os.path.basename(base)} now, it is empty")


def _commit(vm: Machine, disk: Volume, base: str) -> None:
    """`qemu-img commit`: copies first, empties the overlay last."""
    _grow(vm, disk, base)
    with vm.io.stage(f"committing {disk.name}"):
        words = ["commit", "-q", "-f", disk.format, image.safe_name(disk.path)]
        diskwork.run(
            vm, words, f"commit {disk.name}", "the overlay still holds all; `qvm disk commit` goes on"
        )
        host_files.sync(base)
        host_files.sync(disk.path)


def _base_format(vm: Machine, disk: Volume) -> str:
    return chain.layers(disk.path, disk.format, vm.name, vm.directory)[1].format


def _grow(vm: Machine, disk: Volume, base: str) -> None:
    """A base that is smaller than its overlay grows first: qemu-img would do it in the middle."""
    program, wanted = tools.qemu_img(vm), image.header(disk.path, disk.format).size_bytes
    kind = _base_format(vm, disk)
    if qemuimg.virtual_bytes(program, base, kind) < wanted:
        words = ["resize", "-q", "-f", kind, image.safe_name(base), str(wanted)]
        why = f"it must grow to the size of {disk.name} first; nothing was changed"
        diskwork.run(vm, words, f"resize {os.path.basename(base)}", why)


@log.failures
def rebase(vm: Machine, name: str, base: str | None, *, is_unsafe: bool) -> DiskDone:
    """Let an overlay stand on another base, or on none; see `commands.disk`."""
    with work_lock(vm, "disk rebase"):
        seen = state.observe(vm)
        disk = diskwork.one(vm, diskwork.changeable(vm, seen, "rebase a disk"), name)
        if base is not None or is_unsafe:
            diskwork.require_off(vm, seen, "rebase a disk onto another base")
        _require_qcow2(vm, disk, "rebase")
        image.require(disk.path, vm.name, hint="put it back", kind=disk.format)
        layers = chain.below(vm, disk.path, disk.format)
        tags = [each.name for each in chain.snapshots_in(disk.path, disk.format)]
        if tags and not is_unsafe:
            raise ImageError(
                f"cannot rebase {disk.name}: it holds snapshots ({', '.join(tags)}), which would read from "
                "another base and be silently wrong",
                machine=vm.name,
                hint="`qvm snapshot delete` them first; `--unsafe`, where the new base holds the same",
            )
        if base is None and is_unsafe:
            raise UsageError("disk rebase: --unsafe needs a base that holds the same as the old one")
        if is_unsafe:
            dependents.require_writable(vm, disk.path, "rebase")
        words, target = ["rebase", "-q", "-f", "qcow2", *(["-u"] if is_unsafe else [])], ""
        if base is not None:
            path = vm.settings.located(base)
            _require_a_file(vm, disk, base, path)
            words += ["-F", _format_of(vm, base, path)]
            if os.path.realpath(path) in {
                os.path.realpath(disk.path),
                *dependents.overlays_on(disk.path, vm),
            }:
                raise UsageError(f"disk rebase: {base} stands on {disk.id} itself", machine=vm.name)
            target = _backing_name(disk, os.path.realpath(path))
        if not is_unsafe:
            _require_room_for(vm, disk, layers)
        if seen.is_live:
            disk_layers_live.flatten(vm, seen, disk)
            return DiskDone(vm.name, disk, "stands alone now")
        if not is_unsafe:
            image.require_unused(disk.path, vm.name)
        words += ["-b", target, image.safe_name(disk.path)]
        journal = contextlib.nullcontext() if is_unsafe else _journal(vm, disk)
        with vm.io.stage(f"rebasing {disk.name}"), journal:
            diskwork.run(vm, words, f"rebase {disk.name}")
            host_files.sync(disk.path)
    log.note(vm, f"rebased {disk.id} onto {target or 'nothing'}")
    shown = target.removeprefix("./")
    return DiskDone(vm.name, disk, f"stands on {shown} now" if shown else "stands alone now")


def _backing_name(disk: Volume, base: str) -> str:
    """The name of a base for the header of an overlay: relative if it lies beside it or deeper.

    QEMU looks for a relative name beside the name that it opens, which may be a link, and takes what is
    before a `:` for a protocol.
    """
    inside = os.path.relpath(base, os.path.dirname(os.path.realpath(disk.path)))
    if inside.startswith("..") or diskwork.is_link_elsewhere(disk.path):
        return base
    return image.safe_name(inside)


def _format_of(vm: Machine, base: str, path: str) -> str:
    """The format of a new base: what its name tells, and its content too.

    Raises:
        ImageError: it is missing, or the name does not tell what the content is.
    """
    suffix = os.path.splitext(path)[1].lower()
    kind = devices.BY_SUFFIX.get(suffix, "raw")
    is_told = "raw" if suffix == ".raw" else ""
    looks = image.require(path, vm.name, hint="name an image that is there", name=base, kind=is_told).format
    if looks != kind and (kind == "raw" or looks != "raw"):
        raise ImageError(
            f"{base} looks like {looks}, but its name does not say so",
            machine=vm.name,
            hint=f"name it {quote(base + '.' + looks)}, if that is what it is; or {quote(base + '.raw')}",
        )
    chain.below(vm, path, kind)
    if kind not in ("raw", looks):  # of some images only the end tells
        qemuimg.info(tools.qemu_img(vm), path, kind)
    return kind


def _require_a_file(vm: Machine, disk: Volume, base: str, path: str) -> None:
    """A disk may be named by its id, a base may not.

    Raises:
        UsageError: it is an id, or the disk itself.
    """
    other = next((each for each in volumes.configured(vm) if base in (each.id, each.node)), None)
    is_file = other is None or os.path.exists(path)
    if os.path.realpath(path if is_file or not other else other.path) == os.path.realpath(disk.path):
        raise UsageError("disk rebase: a disk cannot stand on itself", machine=vm.name)
    if other and not is_file:
        raise UsageError(
            f"disk rebase: {base} is a disk, and a base is named by its file",
            machine=vm.name,
            hint=f"its file is {other.name}; once {disk.id} stands on that, the guest must not write to it",
        )


@contextlib.contextmanager
def _journal(vm: Machine, disk: Volume) -> Iterator[None]:
    """What a disk stands on, noted until its data from below is in it, or in the new base.

    qemu-img (7.2) writes into the header where the disk stands before it writes out where the data from
    below now is: killed in between, the disk would have lost that.
    """
    record = Record(Kind.DISK_REBASE, name=disk.id, disks=Images(vm, [disk]).named())
    backing = image.header(disk.path).backing
    with Transaction(vm, record) as journal:
        journal.write(backing=backing, backing_format=_base_format(vm, disk) if backing else "")
        yield


def _require_room_for(vm: Machine, disk: Volume, layers: list[str]) -> None:
    """What the chain below holds may all have to be copied."""
    needed = sum(os.stat(each).st_blocks * 512 for each in layers if os.path.exists(each))
    folder = os.path.dirname(os.path.realpath(disk.path))
    free = host_files.free_bytes(folder)
    if free < needed:
        raise ImageError(
            f"cannot rebase: {disk.name} may grow by {size(needed)}, and there is room for {size(free)}",
            machine=vm.name,
            hint=f"make room in {folder}; nothing was changed",
        )


def _require_qcow2(vm: Machine, disk: Volume, what: str) -> None:
    """Other formats may have a base too, but the journal and a commit while on know only qcow2."""
    if disk.format != "qcow2":
        raise UsageError(
            f"disk {what}: {disk.id} is {disk.format}, and only an overlay in qcow2 can be worked on",
            machine=vm.name,
        )


def _overlay(vm: Machine, seen: state.Observation, name: str | None, what: str) -> Volume:
    """The disk that a word means; it must stand on another."""
    disk = diskwork.one(vm, diskwork.changeable(vm, seen, f"{what} a disk"), name)
    _require_qcow2(vm, disk, what)
    if not seen.is_live:
        diskwork.require_ready(vm, disk)
    if not chain.below(vm, disk.path, disk.format):
        raise UsageError(f"disk {what}: {disk.id}, {disk.name}, stands on no other image", machine=vm.name)
    return disk
