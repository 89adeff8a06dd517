"""What a disk stands on: commit into it, rebase onto another.

May import: `host`, `qemu`, `machine`.

    commit(vm, "disk0")
"""

from __future__ import annotations

import contextlib
import os

from qvmsh.errors import ImageError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import (
    chain,
    disk_layers_live,
    diskwork,
    launch,
    log,
    state,
    tools,
    volumes,
)
from qvmsh.machine.diagnosis import size
from qvmsh.machine.disk_reports import DiskDone
from qvmsh.machine.snapshot_store import Images
from qvmsh.machine.unfinished import Journal
from qvmsh.machine.volumes import Volume
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.machine.machine import Machine


@log.failures
def commit(vm: Machine, name: str | None) -> DiskDone:
    """Write an overlay's data into its base; see `commands.disk`."""
    with launch.work_lock(vm, "disk commit"):
        seen = state.observe(vm)
        disk = _overlay(vm, seen, name, "commit")
        base = chain.base_of(disk.path)
        image.require(base, vm.name, hint="put it back; only a file can be committed to")
        chain.require_writable(vm, base, "commit to", besides=disk.path)
        if not seen.is_live:
            image.require_unused(tools.qemu_img(vm), base, vm.name)
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
    _grow(vm, base, image.header(disk.path).size_bytes)
    with vm.io.stage(f"committing {disk.name}"):
        words = ["commit", "-q", "-f", disk.format, image.safe_name(disk.path)]
        diskwork.run(
            vm, words, f"commit {disk.name}", "the overlay still holds all; `qvm disk commit` goes on"
        )
        host_files.sync(base)
        host_files.sync(disk.path)


def _grow(vm: Machine, base: str, wanted: int) -> None:
    """A base that is smaller than its overlay grows first: qemu-img would do it in the middle."""
    found = image.header(base)
    if found.size_bytes < wanted:
        words = ["resize", "-q", "-f", found.format, image.safe_name(base), str(wanted)]
        diskwork.run(vm, words, f"resize {os.path.basename(base)}")


@log.failures
def rebase(vm: Machine, name: str, base: str | None, *, is_unsafe: bool) -> DiskDone:
    """Let an overlay stand on another base, or on none; see `commands.disk`."""
    with launch.work_lock(vm, "disk rebase"):
        seen = state.observe(vm)
        disk = diskwork.one(vm, diskwork.every(vm, seen), name)
        if base is not None or is_unsafe:
            diskwork.require_off(vm, seen, "rebase a disk onto another base")
        if disk.format != "qcow2":
            raise UsageError(f"disk rebase: {disk.id} is {disk.format}, no overlay", machine=vm.name)
        image.require(disk.path, vm.name, hint="put it back")
        tags = [each.name for each in chain.snapshots_in(disk.path)]
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
            chain.require_writable(vm, disk.path, "rebase")
        words, target = ["rebase", "-q", "-f", "qcow2", *(["-u"] if is_unsafe else [])], ""
        if base is not None:
            path = vm.settings.located(base)
            _require_a_file(vm, disk, base, path)
            header = image.require(path, vm.name, hint="name an image that is there", name=base)
            if os.path.realpath(path) in {os.path.realpath(disk.path), *chain.overlays_on(disk.path, vm)}:
                raise UsageError(f"disk rebase: {base} stands on {disk.id} itself", machine=vm.name)
            inside = os.path.relpath(os.path.realpath(path), os.path.dirname(os.path.realpath(disk.path)))
            target = os.path.realpath(path) if inside.startswith("..") else inside
            words += ["-F", header.format]
        if not is_unsafe:
            _require_room_below(vm, disk)
        if seen.is_live:
            disk_layers_live.flatten(vm, seen, disk)
            return DiskDone(vm.name, disk, "stands alone now")
        if not is_unsafe:
            image.require_unused(tools.qemu_img(vm), disk.path, vm.name)
        words += ["-b", target, image.safe_name(disk.path)]
        with vm.io.stage(f"rebasing {disk.name}"), _journal(vm, disk):
            diskwork.run(vm, words, f"rebase {disk.name}")
            host_files.sync(disk.path)
    log.note(vm, f"rebased {disk.id} onto {target or 'nothing'}")
    return DiskDone(vm.name, disk, f"stands on {target} now" if target else "stands alone now")


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
    """What a disk stands on, noted until it stands elsewhere for good.

    qemu-img (7.2) writes into the header where the disk stands before it writes out where the data from
    below now is: killed in between, the disk would have lost that.
    """
    journal = Journal(Images(vm, [disk]), "rebase", disk.id, was_running=False, has_memory=False)
    header = image.header(disk.path)
    with journal:
        try:
            below = (
                image.header(image.backing_path(disk.path, header.backing)).format if header.backing else ""
            )
        except OSError:  # what it stands on is missing: `--unsafe` names another
            below = "qcow2"
        journal.write(backing=header.backing, backing_format=below)
        yield


def _require_room_below(vm: Machine, disk: Volume) -> None:
    """What the chain below holds may all have to be copied."""
    needed, below = 0, chain.base_of(disk.path)
    while below and os.path.exists(below):
        needed += os.stat(below).st_blocks * 512
        below = chain.base_of(below)
    folder = os.path.dirname(os.path.realpath(disk.path))
    free = host_files.free_bytes(folder)
    if free < needed:
        raise ImageError(
            f"cannot rebase: {disk.name} may grow by {size(needed)}, and there is room for {size(free)}",
            machine=vm.name,
            hint=f"make room in {folder}; nothing was changed",
        )


def _overlay(vm: Machine, seen: state.Observation, name: str | None, what: str) -> Volume:
    """The disk that a word means; it must stand on another."""
    disk = diskwork.one(vm, diskwork.every(vm, seen), name)
    if not seen.is_live:
        diskwork.require_ready(vm, disk)
    if not chain.base_of(disk.path):
        raise UsageError(f"disk {what}: {disk.id}, {disk.name}, stands on no other image", machine=vm.name)
    return disk
