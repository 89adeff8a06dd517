"""How large a disk is, and how much room it takes: resize, trim.

resize(vm, "disk1", "+10G", is_shrinking=False)
"""

from __future__ import annotations

import contextlib
import os
import subprocess

from qvmsh.config.words import quote
from qvmsh.errors import ImageError, QmpError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.host import ssh
from qvmsh.machine import log, state
from qvmsh.machine import programs as tools
from qvmsh.machine.disk.add import bytes_of
from qvmsh.machine.disk.reports import DiskDone, Trimmed
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.monitor import conversation
from qvmsh.machine.progress import size
from qvmsh.machine.storage import bitmaps, chain, dependents, volumes
from qvmsh.machine.storage import selection as diskwork
from qvmsh.machine.storage.volumes import Volume
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image, qemuimg, qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from qvmsh.machine.machine import Machine

TRIM_S = 600.0

TRIM = (
    "if [ $(id -u) = 0 ]; then fstrim -av; "
    "elif command -v sudo >/dev/null; then sudo -n fstrim -av; else exit 1; fi"
)


@log.failures
def resize(vm: Machine, name: str, wanted: str | None, *, is_shrinking: bool) -> DiskDone:
    """Give a disk another size; see `commands.disk`. One word alone is the size of the only disk."""
    with work_lock(vm, "disk resize"):
        seen = state.observe(vm)
        found = diskwork.changeable(vm, seen, "resize a disk")
        if wanted is None:
            disk, wanted = _only(vm, found, name), name
        else:
            disk = diskwork.one(vm, found, name)
        image.require(disk.path, vm.name, hint="put it back", kind=disk.format)
        chain.below(vm, disk.path, disk.format)
        before = qemuimg.virtual_bytes(tools.qemu_img(vm), disk.path, disk.format)
        after = bytes_of(wanted, before)
        if after == before:
            return DiskDone(vm.name, disk, f"has {size(before)} already")
        if disk.is_read_only:
            raise StateError(f"cannot resize {disk.id}: it is read-only", machine=vm.name)
        if after < before and not is_shrinking:
            raise UsageError(
                f"disk resize: {size(after)} is less than {disk.id} has ({size(before)})",
                machine=vm.name,
                hint="what lies behind is lost; shrink the file systems first, then `--shrink`",
            )
        if after < before:
            diskwork.require_off(vm, seen, "shrink a disk")
        dependents.require_writable(vm, disk.path, "resize")
        if seen.is_live and seen.note is not None:
            try:
                with conversation.begin(seen.note) as exchange:
                    exchange.ask("block_resize", {"node-name": disk.node, "size": after}, timeout_s=60.0)
            except OSError:
                raise state.silent(vm) from None
            except QmpError as error:
                error.machine = vm.name
                error.hint = error.hint or f"it has {size(before)} as before"
                raise
        else:
            diskwork.require_ready(vm, disk)
            if after < before and disk.format == "qcow2":  # no bitmap tells of what comes back empty
                bitmaps.forget(vm, disk.path)
            words = ["resize", "-q", "-f", disk.format, *(["--shrink"] if after < before else [])]
            try:
                diskwork.run(vm, [*words, image.safe_name(disk.path), str(after)], f"resize {disk.id}")
            except ImageError as error:
                error.hint = error.hint or f"it has {size(before)} as before"
                raise
            host_files.sync(disk.path)
    log.note(vm, f"resized {disk.id} from {before} to {after} bytes")
    left = "what lay behind is cut off" if after < before else "file systems in it are as they were"
    return DiskDone(vm.name, disk, f"{size(before)} -> {size(after)}; {left}")


def _only(vm: Machine, found: list[Volume], word: str) -> Volume:
    """The machine's only disk, where one word alone was given.

    Raises:
        UsageError: it has several, or the word is no size.
    """
    kept = [each for each in found if not each.is_flash]
    ids = ", ".join(each.id for each in kept)
    if any(word in (each.id, each.name) for each in kept):
        raise UsageError("disk resize: SIZE is missing", machine=vm.name, hint="20G, or +5G for more")
    if len(kept) > 1:
        raise UsageError(
            "disk resize: the disk is missing, and there are several",
            machine=vm.name,
            hint=f"`qvm disk resize {kept[0].id} {quote(word)}`; there are: {ids}",
        )
    return diskwork.one(vm, kept, None)


@log.failures
def trim(vm: Machine, name: str | None) -> Trimmed:
    """Give unused room back to the host; see `commands.disk`."""
    with work_lock(vm, "disk trim"):
        seen = state.observe(vm)
        every = diskwork.changeable(vm, seen, "trim a disk")
        found = volumes.written(every if name is None else [diskwork.one(vm, every, name)])
        if not found:
            raise StateError(f"cannot trim {name or 'a disk'}: it is read-only", machine=vm.name)
        before = {each.id: diskwork.used_bytes(each) for each in found}
        notes: dict[str, str] = {}
        if seen.is_live:
            by = _trim_live(vm, seen)
        else:
            by = "qemu-img"
            for each in found:
                notes[each.id] = _compact(vm, each)
    rows = [
        {
            "id": each.id,
            "file": each.path,
            "before_bytes": before[each.id],
            "after_bytes": diskwork.used_bytes(each),
            "note": notes.get(each.id, ""),
        }
        for each in found
    ]
    log.note(vm, f"trimmed by {by}")
    return Trimmed(vm.name, by, rows)


def _trim_live(vm: Machine, seen: state.Observation) -> str:
    """Let the guest tell what it does not use: by its agent, else by ssh.

    Raises:
        StateError: neither can.
    """
    if seen.kind != state.RUNNING or seen.note is None:
        raise state.not_in_state(vm, seen, "trim", state.RUNNING)
    tried = []
    try:
        qga.ask(seen.note.socket("qga"), "guest-ping", timeout_s=1.0)
        qga.ask(seen.note.socket("qga"), "guest-fstrim", timeout_s=TRIM_S)
        return "the guest agent"
    except (OSError, QmpError) as error:
        tried.append(f"guest agent: {error or 'none answers'}")
    is_there, why = guest.answers(vm, seen.note, timeout_s=10.0)
    if is_there:
        why = _fstrim(guest.link(vm, seen.note))
        if not why:
            return "fstrim over ssh"
    tried.append(f"ssh: {why}")
    raise StateError(
        "nothing in the guest could be asked to trim", machine=vm.name, details=tried,
        hint="the guest agent, or `sudo -n fstrim` over ssh, must be there; or trim while it is off",
    )  # fmt: skip


def _fstrim(found: ssh.Link) -> str:
    """Run it in the guest; what went wrong, "" for nothing."""
    try:
        done = found.run(TRIM, timeout_s=TRIM_S)
    except subprocess.TimeoutExpired:
        return f"fstrim has not ended within {TRIM_S:.0f} s"
    return (done.stderr.strip().splitlines() or ["fstrim failed"])[-1] if done.returncode else ""


@contextlib.contextmanager
def _fresh(path: str) -> Iterator[int]:
    """A file that nobody has made before us, open for writing."""
    host_files.remove(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _compact(vm: Machine, disk: Volume) -> str:
    """Write an image anew without what is zero or unused; why not, or "".

    It is made beside its place, compared, and takes it in one step, if it is smaller and the same kind of
    image: all that `qemu-img info` shows of it.
    """
    diskwork.require_ready(vm, disk)
    if disk.format != "qcow2":
        return f"{disk.format} is left as it is"
    found, program = image.header(disk.path, disk.format), tools.qemu_img(vm)
    if found.has_data_file:
        return "left as it is: its data is in another file; trim while the machine is on"
    place = os.path.realpath(disk.path)
    kind = qemuimg.kind(program, place)
    why = _why_not(vm, disk, found, kind)
    if why:
        return f"left as it is: {why}"
    part = f"{place}.part{os.getpid()}"
    below = ["-B", found.backing, "-F", found.backing_format] if found.backing else []
    below += ["-o", qemuimg.options(kind), *(["--bitmaps"] if qemuimg.bitmaps(kind) else [])]
    mode = os.stat(disk.path)
    with host_files.Removed(part), _fresh(part) as fd:
        if os.geteuid() == 0:
            os.fchown(fd, mode.st_uid, mode.st_gid)
        os.fchmod(fd, mode.st_mode & 0o7777)
        words = ["convert", "-q", "-f", "qcow2", "-O", "qcow2", *below]
        with vm.io.stage(f"writing {disk.name} anew"):
            diskwork.run(vm, [*words, image.safe_name(disk.path), part], f"write {disk.name} anew")
            words = ["compare", "-q", "-f", "qcow2", "-F", "qcow2", image.safe_name(disk.path), part]
            diskwork.run(vm, words, f"compare {disk.name} with its new copy")
        made = qemuimg.kind(program, part)
        changed = sorted(key for key in {*kind, *made} if kind.get(key) != made.get(key))
        if changed:
            return f"left as it is: qemu-img would change its {', '.join(changed)}"
        os.fsync(fd)  # before that not all of its blocks may be counted
        if os.fstat(fd).st_blocks > mode.st_blocks:
            return "left as it is: written anew it would be larger"
        os.rename(part, place)
    host_files.sync_folder(os.path.dirname(place))
    return ""


def _why_not(vm: Machine, disk: Volume, found: image.Header, kind: dict[str, Any]) -> str:
    """Why an image cannot be written anew as the same kind of image, or ""."""
    on = "trim while the machine is on"
    if kind.get("encrypted"):
        return f"it is encrypted; {on}"
    if found.snapshots:
        return f"it holds snapshots; {on}"
    if dependents.overlays_on(disk.path, vm):
        return "other images stand on it"
    if os.stat(disk.path).st_nlink > 1:
        return f"its file has another name too (a hard link); {on}"
    if diskwork.is_link_elsewhere(disk.path) and _is_beside(found.backing):
        place = os.path.realpath(disk.path)
        return f"it is a link, and {found.backing} would mean another file beside {place}"
    if found.backing and not found.backing_format:
        return "it does not say of which format its backing file is"
    broken = [each["name"] for each in qemuimg.bitmaps(kind) if "in-use" in each["flags"]]
    if broken:
        words = f"qemu-img bitmap --remove {image.typed(disk.path)} {quote(broken[0])}"
        return f"its dirty bitmap {broken[0]} is broken, and `{words}` removes it"
    sound = qemuimg.check(tools.qemu_img(vm), disk.path, disk.format)
    if sound and sound.corruptions:
        return "it is damaged; `qvm disk check --repair`"
    if sound and sound.compressed:
        return f"it holds compressed data; {on}"
    if sound and sound.is_preallocated:
        return f"all of it is allocated (preallocation); {on}"
    return ""


def _is_beside(backing: str) -> bool:
    """Whether a backing name is looked for beside the image."""
    return bool(backing) and not os.path.isabs(backing) and ":" not in backing.partition("/")[0]
