"""Giving back the unused space of disks: by the guest, or while it is off by rewriting the image."""

from __future__ import annotations

import contextlib
import os
import subprocess

from qvmsh.config.words import quote
from qvmsh.errors import QmpError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import ssh_connection
from qvmsh.machine import log, programs, state
from qvmsh.machine.disk.reports import Trimmed
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.storage import dependents, linked, selection, volumes
from qvmsh.machine.storage.volumes import Volume
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image, qemuimg, qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from qvmsh.machine.machine import BaseMachine

TRIM_S = 600.0

TRIM = (
    "if [ $(id -u) = 0 ]; then fstrim -av; "
    "elif command -v sudo >/dev/null; then sudo -n fstrim -av; else exit 1; fi"
)


@log.failures
def trim(vm: BaseMachine, name: str | None) -> Trimmed:
    """Give unused space back to the host; see `commands.disk`."""
    with work_lock(vm, "disk trim"):
        seen = state.observe(vm)
        every = selection.changeable(vm, seen, "trim a disk")
        found = volumes.written(every if name is None else [selection.one(vm, every, name)])
        if not found:
            raise StateError(f"cannot trim {name or 'a disk'}: it is read-only", machine=vm.name)
        before = {each.id: selection.used_bytes(each) for each in found}
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
            "after_bytes": selection.used_bytes(each),
            "note": notes.get(each.id, ""),
        }
        for each in found
    ]
    log.note(vm, f"trimmed by {by}")
    return Trimmed(vm.name, by, rows)


def _trim_live(vm: BaseMachine, seen: state.Observation) -> str:
    """Let the guest trim its disks: by its agent, else by ssh."""
    _, note = state.require(vm, seen, "trim", state.RUNNING)
    tried = []
    try:
        qga.ask(note.socket("qga"), "guest-ping", timeout_s=1.0)
        qga.ask(note.socket("qga"), "guest-fstrim", timeout_s=TRIM_S)
        return "the guest agent"
    except (OSError, QmpError) as error:
        tried.append(f"guest agent: {error}")
    is_there, why = guest.answers(vm, note, timeout_s=10.0)
    if is_there:
        why = _fstrim(guest.link(vm, note))
        if not why:
            return "fstrim over ssh"
    tried.append(f"ssh: {why}")
    raise StateError(
        "cannot trim: neither the guest agent nor ssh could do it", machine=vm.name, details=tried,
        hint="the guest needs its agent or `sudo -n fstrim` over ssh; or trim while it is off",
    )  # fmt: skip


def _fstrim(found: ssh_connection.Link) -> str:
    """Run fstrim in the guest; "" or what failed."""
    try:
        done = found.run(TRIM, timeout_s=TRIM_S)
    except subprocess.TimeoutExpired:
        return f"fstrim did not end within {TRIM_S:.0f} s"
    return (done.stderr.strip().splitlines() or ["fstrim failed"])[-1] if done.returncode else ""


@contextlib.contextmanager
def _fresh(path: str) -> Iterator[int]:
    """A new file, open for writing."""
    host_files.remove(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _compact(vm: BaseMachine, disk: Volume) -> str:
    """Rewrite an image without what is zero or unused; "" or why not.

    The copy is compared with the image, and replaces it in one step if it is smaller and of the same kind:
    everything that `qemu-img info` shows.
    """
    selection.require_ready(vm, disk)
    if disk.format != "qcow2":
        return f"unchanged: {disk.format} cannot be trimmed"
    found, program = image.header(disk.path, disk.format), programs.qemu_img(vm)
    if found.has_data_file:
        return "unchanged: its data is in another file; trim while the machine is on"
    place = os.path.realpath(disk.path)
    kind = qemuimg.kind(program, place)
    why = _why_not(vm, disk, found, kind)
    if why:
        return f"unchanged: {why}"
    part = f"{place}.part{os.getpid()}"
    below = ["-B", found.backing, "-F", found.backing_format] if found.backing else []
    below += ["-o", qemuimg.options(kind), *(["--bitmaps"] if qemuimg.bitmaps(kind) else [])]
    mode = os.stat(disk.path)
    with host_files.Removed(part), _fresh(part) as fd:
        if os.geteuid() == 0:
            os.fchown(fd, mode.st_uid, mode.st_gid)
        os.fchmod(fd, mode.st_mode & 0o7777)
        words = ["convert", "-q", "-f", "qcow2", "-O", "qcow2", *below]
        with vm.io.stage(f"rewriting {disk.name}"):
            selection.run(vm, [*words, image.safe_name(disk.path), part], f"rewrite {disk.name}")
            words = ["compare", "-q", "-f", "qcow2", "-F", "qcow2", image.safe_name(disk.path), part]
            selection.run(vm, words, f"compare {disk.name} with its new copy")
        made = qemuimg.kind(program, part)
        changed = sorted(key for key in {*kind, *made} if kind.get(key) != made.get(key))
        if changed:
            return f"unchanged: qemu-img would change its {', '.join(changed)}"
        os.fsync(fd)  # before that not all of its blocks may be counted
        if os.fstat(fd).st_blocks > mode.st_blocks:
            return "unchanged: rewritten it would be larger"
        os.rename(part, place)
    host_files.sync_folder(os.path.dirname(place))
    return ""


def _why_not(vm: BaseMachine, disk: Volume, found: image.Header, kind: dict[str, Any]) -> str:
    """Why an image cannot be rewritten as the same kind of image, or ""."""
    on = "trim while the machine is on"
    if kind.get("encrypted"):
        return f"it is encrypted; {on}"
    if found.snapshots:
        return f"it holds snapshots; {on}"
    if dependents.overlays_on(disk.path, vm) or linked.gap(vm, disk.path):
        return "other images are backed by it"
    if os.stat(disk.path).st_nlink > 1:
        return f"its file has a second name (a hard link); {on}"
    is_beside = found.backing and not os.path.isabs(found.backing) and ":" not in found.backing.split("/")[0]
    if is_beside and selection.is_link_elsewhere(disk.path):
        place = os.path.realpath(disk.path)
        return f"it is a link, and beside {place} {found.backing} would be another file"
    if found.backing and not found.backing_format:
        return "it does not record the format of its backing file"
    broken = [each["name"] for each in qemuimg.bitmaps(kind) if "in-use" in each["flags"]]
    if broken:
        words = f"qemu-img bitmap --remove {image.typed(disk.path)} {quote(broken[0])}"
        return f"its dirty bitmap {broken[0]} is broken, and `{words}` removes it"
    sound = qemuimg.check(programs.qemu_img(vm), disk.path, disk.format)
    if sound and sound.corruptions:
        return "it is damaged; `qvm disk check --repair`"
    if sound and sound.compressed:
        return f"it holds compressed data; {on}"
    if sound and sound.is_preallocated:
        return f"all of it is allocated (preallocation); {on}"
    return ""
