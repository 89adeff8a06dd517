"""Giving a disk another size, on or off.

resize(vm, "disk1", "+10G", is_shrinking=False)
"""

from __future__ import annotations

from qvmsh.config.words import quote
from qvmsh.errors import ImageError, QmpError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import log, programs, state
from qvmsh.machine.disk.reports import DiskDone
from qvmsh.machine.monitor import conversation
from qvmsh.machine.progress import size
from qvmsh.machine.storage import bitmaps, chain, dependents, selection
from qvmsh.machine.storage.disk_size import bytes_of
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.storage.volumes import Volume


@log.failures
def resize(vm: BaseMachine, name: str, wanted: str | None, *, is_shrinking: bool) -> DiskDone:
    """Give a disk another size; see `commands.disk`. One word alone is the size of the only disk."""
    with work_lock(vm, "disk resize"):
        seen = state.observe(vm)
        found = selection.changeable(vm, seen, "resize a disk")
        if wanted is None:
            disk, wanted = _only(vm, found, name), name
        else:
            disk = selection.one(vm, found, name)
        image.require(disk.path, vm.name, hint="put it back", kind=disk.format)
        chain.below(vm, disk.path, disk.format)
        before = qemuimg.virtual_bytes(programs.qemu_img(vm), disk.path, disk.format)
        after = bytes_of(wanted, before)
        if after == before:
            return DiskDone(vm.name, disk, f"already has {size(before)}")
        if disk.is_read_only:
            raise StateError(f"cannot resize {disk.id}: it is read-only", machine=vm.name)
        if after < before and not is_shrinking:
            raise UsageError(
                f"disk resize: {size(after)} is less than {disk.id} has ({size(before)})",
                machine=vm.name,
                hint="the data beyond that is lost; shrink the file systems first, then `--shrink`",
            )
        if after < before:
            state.require_off(vm, seen, "shrink a disk")
        dependents.require_writable(vm, disk.path, "resize")
        if seen.is_live and seen.note is not None:
            order = {"node-name": disk.node, "size": after}
            with state.Answering(vm), conversation.begin(seen.note) as exchange:
                try:
                    exchange.ask("block_resize", order, timeout_s=60.0)
                except QmpError as error:
                    error.machine = vm.name
                    error.hint = error.hint or f"it still has {size(before)}"
                    raise
        else:
            selection.require_ready(vm, disk)
            if after < before and disk.format == "qcow2":  # bitmaps do not record what comes back empty
                bitmaps.forget(vm, disk.path)
            words = ["resize", "-q", "-f", disk.format, *(["--shrink"] if after < before else [])]
            try:
                selection.run(vm, [*words, image.safe_name(disk.path), str(after)], f"resize {disk.id}")
            except ImageError as error:
                error.hint = error.hint or f"it still has {size(before)}"
                raise
            host_files.sync(disk.path)
    log.note(vm, f"resized {disk.id} from {before} to {after} bytes")
    left = "the data beyond that is gone" if after < before else "the file systems in it did not change"
    return DiskDone(vm.name, disk, f"{size(before)} -> {size(after)}; {left}")


def _only(vm: BaseMachine, found: list[Volume], word: str) -> Volume:
    """The machine's only disk, where one word alone was given."""
    kept = [each for each in found if not each.is_flash]
    ids = ", ".join(each.id for each in kept)
    if any(word in (each.id, each.name) for each in kept):
        raise UsageError("disk resize: no size given", machine=vm.name, hint="20G, or +5G for more")
    if len(kept) > 1:
        raise UsageError(
            "disk resize: no disk given, and the machine has several",
            machine=vm.name,
            hint=f"`qvm disk resize {kept[0].id} {quote(word)}`; there are: {ids}",
        )
    return selection.one(vm, kept, None)
