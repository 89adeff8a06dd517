"""The base of a disk: commit to it, rebase onto another.

commit(vm, "disk0")
"""

from __future__ import annotations

import contextlib
import os

from qvmsh.config import devices
from qvmsh.config.words import quote
from qvmsh.errors import ImageError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import log, programs, state
from qvmsh.machine.disk import commit_rebase_live
from qvmsh.machine.disk.reports import DiskDone
from qvmsh.machine.journal import Kind, Record
from qvmsh.machine.progress import size
from qvmsh.machine.snapshot.store import Images
from qvmsh.machine.storage import chain, dependents, linked, selection, volumes
from qvmsh.machine.storage.volumes import Volume
from qvmsh.machine.work.lock import work_lock
from qvmsh.machine.work.recovery import Transaction
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.machine.machine import BaseMachine


@log.failures
def commit(vm: BaseMachine, name: str | None) -> DiskDone:
    """Write an overlay's data into its base; see `commands.disk`."""
    with work_lock(vm, "disk commit"):
        seen = state.observe(vm)
        disk = _overlay(vm, seen, name, "commit")
        base = chain.base_of(disk.path, disk.format)
        image.require(base, vm.name, hint="put it back", kind=_base_format(vm, disk))
        dependents.require_writable(vm, base, "commit to", besides=disk.path)
        _require_base_alone(vm, base)
        if not seen.is_live:
            image.require_unused(base, vm.name)
        needed = selection.used_bytes(disk)
        free = host_files.free_bytes(os.path.dirname(base))
        if free < needed:
            raise ImageError(
                f"cannot commit: {os.path.basename(base)} would grow by up to {size(needed)}, "
                f"but only {size(free)} is free",
                machine=vm.name,
                hint=f"free space in {os.path.dirname(base)}; nothing was changed",
            )
        if seen.is_live:
            commit_rebase_live.commit(vm, seen, disk)
        else:
            _commit(vm, disk, base)
    log.note(vm, f"committed {disk.id} to {os.path.basename(base)}")
    return DiskDone(vm.name, disk, f"emptied; its data is now in {os.path.basename(base)}")


def _require_base_alone(vm: BaseMachine, base: str) -> None:
    """Refuse to commit to what a guest has as its disk: the file systems on it would be overwritten.

    StateError: the text names the machine.
    """
    same = dependents.content(base)
    own = [each.id for each in volumes.configured(vm) if dependents.content(each.path) == same]
    other = dependents.users([base], vm, is_written=True).get(base)
    if own or other:
        whose = f"{own[0]} of this machine" if own else f"a disk of the machine in {other}"
        raise StateError(
            f"cannot commit to {os.path.basename(base)}: it is {whose}, whose data would be overwritten",
            machine=vm.name, hint="`qvm disk rebase DISK` makes the overlay a disk without a base",
        )  # fmt: skip


def _commit(vm: BaseMachine, disk: Volume, base: str) -> None:
    """`qemu-img commit`: copies first, empties the overlay last."""
    _grow(vm, disk, base)
    with vm.io.stage(f"committing {disk.name}"):
        words = ["commit", "-q", "-f", disk.format, image.safe_name(disk.path)]
        selection.run(
            vm, words, f"commit {disk.name}", "the overlay still holds all data; `qvm disk commit` continues"
        )
        host_files.sync(base)
        host_files.sync(disk.path)


def _base_format(vm: BaseMachine, disk: Volume) -> str:
    return chain.layers(disk.path, disk.format, vm.name, vm.directory)[1].format


def _grow(vm: BaseMachine, disk: Volume, base: str) -> None:
    """Grow a base that is smaller than its overlay first: qemu-img would do it in the middle."""
    program, wanted = programs.qemu_img(vm), image.header(disk.path, disk.format).size_bytes
    kind = _base_format(vm, disk)
    if qemuimg.virtual_bytes(program, base, kind) < wanted:
        words = ["resize", "-q", "-f", kind, image.safe_name(base), str(wanted)]
        why = f"it must grow to the size of {disk.name} first; nothing was changed"
        selection.run(vm, words, f"resize {os.path.basename(base)}", why)


@log.failures
def rebase(vm: BaseMachine, name: str, base: str | None, *, is_unsafe: bool) -> DiskDone:
    """Put an overlay on another base, or on none; see `commands.disk`."""
    with work_lock(vm, "disk rebase"):
        seen = state.observe(vm)
        disk = selection.one(vm, selection.changeable(vm, seen, "rebase a disk"), name)
        if base is not None or is_unsafe:
            state.require_off(vm, seen, "rebase a disk onto another base")
        _require_qcow2(vm, disk, "rebase")
        image.require(disk.path, vm.name, hint="put it back", kind=disk.format)
        layers = chain.below(vm, disk.path, disk.format)
        tags = [each.name for each in chain.snapshots_in(disk.path, disk.format)]
        if tags and not is_unsafe:
            raise ImageError(
                f"cannot rebase {disk.name}: it holds snapshots ({', '.join(tags)}), which would read from "
                "another base and be silently corrupted",
                machine=vm.name,
                hint="`qvm snapshot delete` them first; or `--unsafe` if the new base holds the same",
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
                raise UsageError(f"disk rebase: {base} is backed by {disk.id} itself", machine=vm.name)
            image.require_unused(path, vm.name)  # else it does not stay as it is
            target = _backing_name(disk, os.path.realpath(path))
        if not is_unsafe:
            _require_room_for(vm, disk, layers)
        if seen.is_live:
            commit_rebase_live.flatten(vm, seen, disk)
            linked.renew(vm)
            return DiskDone(vm.name, disk, "no longer backed by another image")
        if not is_unsafe:
            image.require_unused(disk.path, vm.name)
        words += ["-b", target, image.safe_name(disk.path)]
        journal = contextlib.nullcontext() if is_unsafe else _journal(vm, disk)
        with vm.io.stage(f"rebasing {disk.name}"), journal:
            selection.run(vm, words, f"rebase {disk.name}")
            host_files.sync(disk.path)
        linked.renew(vm)
    log.note(vm, f"rebased {disk.id} onto {target or 'nothing'}")
    shown = target.removeprefix("./")
    return DiskDone(vm.name, disk, f"now backed by {shown}" if shown else "no longer backed by another image")


def _backing_name(disk: Volume, base: str) -> str:
    """The name of a base for the header of an overlay: relative if it is beside it or deeper.

    QEMU looks for a relative name beside the name that it opens, which may be a link, and takes what is
    before a `:` for a protocol.
    """
    inside = os.path.relpath(base, os.path.dirname(os.path.realpath(disk.path)))
    if inside.startswith("..") or selection.is_link_elsewhere(disk.path):
        return base
    return image.safe_name(inside)


def _format_of(vm: BaseMachine, base: str, path: str) -> str:
    """The format of a new base, from its name and its content."""
    suffix = os.path.splitext(path)[1].lower()
    kind = devices.BY_SUFFIX.get(suffix, "raw")
    is_declared = "raw" if suffix == ".raw" else ""
    looks = image.require(path, vm.name, hint="name an existing image", name=base, kind=is_declared).format
    if looks != kind and (kind == "raw" or looks != "raw"):
        raise ImageError(
            f"{base} looks like {looks}, but its name does not say so",
            machine=vm.name,
            hint=f"name it {quote(base + '.' + looks)}, if that is what it is; or {quote(base + '.raw')}",
        )
    chain.below(vm, path, kind)
    if kind not in ("raw", looks):  # some images say it only at the end
        qemuimg.info(programs.qemu_img(vm), path, kind)
    return kind


def _require_a_file(vm: BaseMachine, disk: Volume, base: str, path: str) -> None:
    """A disk may be named by its id, a base may not."""
    other = next((each for each in volumes.configured(vm) if base in (each.id, each.node)), None)
    is_file = other is None or os.path.exists(path)
    if os.path.realpath(path if is_file or not other else other.path) == os.path.realpath(disk.path):
        raise UsageError("disk rebase: a disk cannot be its own base", machine=vm.name)
    if other and not is_file:
        raise UsageError(
            f"disk rebase: {base} is the id of a disk; a base is given as a file",
            machine=vm.name,
            hint=f"its file is {other.name}; once {disk.id} is backed by it, the guest must not write to it",
        )


@contextlib.contextmanager
def _journal(vm: BaseMachine, disk: Volume) -> Iterator[None]:
    """Note the base of a disk until the data from below is in the disk, or in the new base.

    qemu-img (7.2) writes the new base into the header before the tables that say where the data from below
    now is: killed in between, the disk would have lost that data.
    """
    record = Record(Kind.DISK_REBASE, name=disk.id, disks=Images(vm, [disk]).named())
    backing = image.header(disk.path).backing
    with Transaction(vm, record) as journal:
        journal.write(backing=backing, backing_format=_base_format(vm, disk) if backing else "")
        yield


def _require_room_for(vm: BaseMachine, disk: Volume, layers: list[str]) -> None:
    """All data of the chain below may have to be copied."""
    needed = sum(os.stat(each).st_blocks * 512 for each in layers if os.path.exists(each))
    folder = os.path.dirname(os.path.realpath(disk.path))
    free = host_files.free_bytes(folder)
    if free < needed:
        raise ImageError(
            f"cannot rebase: {disk.name} may grow by {size(needed)}, but only {size(free)} is free",
            machine=vm.name,
            hint=f"free space in {folder}; nothing was changed",
        )


def _require_qcow2(vm: BaseMachine, disk: Volume, what: str) -> None:
    """Other formats may have a base too, but the journal and a commit while on know only qcow2."""
    if disk.format != "qcow2":
        raise UsageError(
            f"disk {what}: {disk.id} is {disk.format}; only a qcow2 overlay can be changed", machine=vm.name
        )


def _overlay(vm: BaseMachine, seen: state.Observation, name: str | None, what: str) -> Volume:
    """The disk that a word means; it must be an overlay."""
    disk = selection.one(vm, selection.changeable(vm, seen, f"{what} a disk"), name)
    _require_qcow2(vm, disk, what)
    if not seen.is_live:
        selection.require_ready(vm, disk)
    if not chain.below(vm, disk.path, disk.format):
        raise UsageError(
            f"disk {what}: {disk.id}, {disk.name}, is not backed by another image", machine=vm.name
        )
    return disk
