"""Work on the disks of a machine: list, add, resize, trim, check, commit, rebase.

May import: `config`, `host`, `qemu`, `machine`.

    resize(vm, "disk1", "+10G", is_shrinking=False)

Whatever is cut off leaves a disk that is as before or as wished: a new image is made beside its place;
`qemu-img commit` and `rebase` copy first and change what an overlay says last, so that they can simply be
done again. What an image holds for others (overlays, snapshots) is asked of `machine.chain`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass

from qvmsh.config import devices
from qvmsh.errors import ImageError, QmpError, QvmError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import (
    chain,
    configuration,
    disks,
    diskwork_live,
    guest,
    hardware,
    launch,
    log,
    owner,
    saved,
    state,
    tools,
    volumes,
)
from qvmsh.machine.diagnosis import size
from qvmsh.machine.reports import Report
from qvmsh.machine.snapshot_store import Images
from qvmsh.machine.unfinished import Journal
from qvmsh.machine.volumes import Volume
from qvmsh.qemu import image, imagecheck, platforms, qga

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from qvmsh.machine.machine import Machine

UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
TRIM_S = 600.0

TRIM = (
    "if [ $(id -u) = 0 ]; then fstrim -av; "
    "elif command -v sudo >/dev/null; then sudo -n fstrim -av; else exit 1; fi"
)


class Disks(Report):
    """Result of `disk list`.

    Args:
        disks: `id`, `name`, `file`, `format`, `size_bytes`, `used_bytes`, `writable`, `snapshots`,
            `chain` (the files that it stands on), `source`, `problem`, `users` of each.
    """

    __slots__ = ("disks", "machine")

    def __init__(self, machine: str, rows: list[dict[str, Any]]) -> None:
        self.machine = machine
        self.disks = rows

    def __str__(self) -> str:
        lines = []
        for each in self.disks:
            parts = [each["format"], size(each["size_bytes"]), f"{size(each['used_bytes'])} used"]
            if not each["writable"]:
                parts.append("read-only")
            if each["snapshots"]:
                parts.append(f"{each['snapshots']} snapshot{'s' if each['snapshots'] != 1 else ''}")
            if each["chain"]:
                parts.append("on " + " on ".join(map(os.path.basename, each["chain"])))
            if each["problem"]:
                parts = [each["problem"]]
            lines.append(f"{each['id']:8} {each['name']}: {', '.join(parts)}")
            lines += [f"{'':9}in use by {user}" for user in each["users"]]
        return "\n".join(lines)


class DiskDone(Report):
    """Result of the verbs that change a disk: its `id`, `file`, and `done`, a line."""

    __slots__ = ("disk", "done", "file", "machine")

    def __init__(self, machine: str, disk: Volume, done: str) -> None:
        self.machine = machine
        self.disk = disk.id
        self.file = disk.path
        self.done = done

    def __str__(self) -> str:
        return f"{self.machine}: {self.disk}, {os.path.basename(self.file)}: {self.done}"


class Trimmed(Report):
    """Result of `disk trim`: `by` whom, `disks` with `before_bytes` and `after_bytes`."""

    __slots__ = ("by", "disks", "machine")

    def __init__(self, machine: str, by: str, rows: list[dict[str, Any]]) -> None:
        self.machine = machine
        self.by = by
        self.disks = rows

    def __str__(self) -> str:
        lines = [f"{self.machine}: trimmed by {self.by}"]
        for each in self.disks:
            gone = each["before_bytes"] - each["after_bytes"]
            told = each.get("note") or f"{size(max(0, gone))} given back, {size(each['after_bytes'])} used"
            lines.append(f"  {each['id']:8} {told}")
        return "\n".join(lines)


class Checked(Report):
    """Result of `disk check`: `corruptions`, `leaks`, `note` of each image; status 1 with corruptions."""

    __slots__ = ("images", "machine")

    def __init__(self, machine: str, rows: list[dict[str, Any]]) -> None:
        self.machine = machine
        self.images = rows

    @property
    def is_sound(self) -> bool:
        return not any(each["corruptions"] for each in self.images)

    @property
    def exit_status(self) -> int:  # type: ignore[override]
        return 0 if self.is_sound else 1

    def __bool__(self) -> bool:
        return self.is_sound

    def __str__(self) -> str:
        return "\n".join(f"{self.machine}: {each['name']}: {_verdict(each)}" for each in self.images)


def _verdict(row: dict[str, Any]) -> str:
    if row["note"]:
        return str(row["note"])
    if row["corruptions"]:
        return f"damaged: {row['corruptions']} errors, {row['leaks']} leaked clusters"
    return f"sound, {row['leaks']} leaked clusters (harmless; `--repair`)" if row["leaks"] else "sound"


# Which disks


def _all(vm: Machine, seen: state.Observation) -> list[Volume]:
    """All disks, as QEMU has them while the machine is on."""
    if seen.is_live and seen.note is not None:
        try:
            with saved.exchange(seen.note) as exchange:
                return volumes.of_blocks(vm, exchange.ask("query-block"))
        except OSError:
            raise state.silent(vm) from None
    return volumes.configured(vm)


def _one(vm: Machine, found: list[Volume], name: str | None) -> Volume:
    """The disk that a word means: its id, its file's name or path; None = the machine's own.

    Raises:
        UsageError: there is no such disk.
    """
    if name is None:
        return found[0]
    for each in found:
        if name in (each.id, each.node, each.name, os.path.relpath(each.path, vm.directory)):
            return each
        if os.path.realpath(vm.settings.located(name)) == os.path.realpath(each.path):
            return each
    there = ", ".join(f"{each.id} ({each.name})" for each in found)
    raise UsageError(f"there is no disk {name}", machine=vm.name, hint=f"there are: {there}")


def _require_off(vm: Machine, seen: state.Observation, what: str) -> None:
    if seen.is_live:
        raise StateError(
            f"cannot {what}: it is {seen}", machine=vm.name, hint="`qvm stop` first", actual=seen.kind,
            required=state.STOPPED,
        )  # fmt: skip


def _require_ready(vm: Machine, disk: Volume) -> None:
    """Refuse a disk that is missing, damaged, or open in another process."""
    image.require(disk.path, vm.name, hint="put it back, or correct the configuration")
    image.require_unused(tools.qemu_img(vm), disk.path, vm.name)


def listing(vm: Machine) -> Disks:
    """All disks of the machine; one that is missing is told, and no error."""
    seen = state.observe(vm)
    rows = []
    for each in _all(vm, seen):
        row: dict[str, Any] = {
            "id": each.id, "name": each.name, "file": each.path, "format": each.format, "size_bytes": 0,
            "used_bytes": 0, "writable": not each.is_read_only, "snapshots": 0, "chain": [],
            "source": each.source, "problem": "", "users": [],
        }  # fmt: skip
        try:
            row["size_bytes"] = image.require(each.path, vm.name, hint="").size_bytes
            row["used_bytes"] = os.stat(each.path).st_blocks * 512
            row["snapshots"] = len(chain.snapshots_in(each.path))
            below = chain.base_of(each.path)
            while below and below not in row["chain"]:
                row["chain"].append(below)
                if not os.path.exists(below):
                    row["problem"] = f"orphaned: {os.path.basename(below)} is not there"
                below = chain.base_of(below)
            row["users"] = image.users(each.path)
        except QvmError as error:
            row["problem"] = error.what
        rows.append(row)
    return Disks(vm.name, rows)


# Add


@dataclass(frozen=True)
class Addition:
    """The options of `disk add`."""

    size: str | None = None
    format: str | None = None
    is_read_only: bool = False


def bytes_of(text: str, now: int = 0) -> int:
    """A size in bytes: `512M`, `10G`, or `+5G`, `-1G` from `now`.

    Raises:
        UsageError: it is none.
    """
    bare = text.strip()
    sign, digits = (bare[0], bare[1:]) if bare[:1] in ("+", "-") else ("", bare)
    number = digits.rstrip("iBbKkMmGgTt")
    unit = digits[len(number) :].upper().removesuffix("B").removesuffix("I")
    try:
        count = int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise UsageError(f"{text}: is no size", hint="a number and K, M, G or T: 512M, 10G, +5G") from None
    total = now + count if sign == "+" else now - count if sign == "-" else count
    if total <= 0 or total % 512:
        raise UsageError(f"{text}: a disk has a multiple of 512 bytes, and more than none")
    return total


@log.failures
def add(vm: Machine, file: str, addition: Addition) -> DiskDone:
    """Give the machine a further disk; see `commands.disk`."""
    with launch.work_lock(vm, "disk add"):
        seen = state.observe(vm)
        line = devices.DiskLine(file, addition.format or "", is_read_only=addition.is_read_only)
        if hardware.is_by_hand(vm):
            raise UsageError(
                "disk add: VM_QEMU_ARGS names the disks", machine=vm.name, hint="add it there, by hand"
            )
        path = vm.settings.located(file)
        found = disks.further(vm)
        new = Volume(f"disk{len(found) + 1}", path, line.driver, addition.is_read_only, source="VM_DISKS")
        for each in volumes.configured(vm):
            if os.path.realpath(each.path) == os.path.realpath(path):
                raise UsageError(f"disk add: {file} is {each.id} already", machine=vm.name)
        made = _made(vm, new, addition)
        try:
            further = disks.Further(file, path, new.id, line)
            disks.require_further(vm, further)
            image.require_unused(tools.qemu_img(vm), path, vm.name)
            if not addition.is_read_only:
                chain.require_writable(vm, path, "add")
            word = ":".join([file, line.format or line.driver] + (["ro"] if addition.is_read_only else []))
            text = vm.settings.text("VM_DISKS").rstrip("\n")
            configuration.change(vm, [("VM_DISKS", f"{text}\n{word}" if text else word)])
        except BaseException:
            if made:
                host_files.remove(path)
            raise
        owner.share(vm)
        done = "made and added" if made else "added"
        if seen.is_live:
            why = _plug(vm, seen, new, line)
            done += f"; the guest sees it from the next start ({why})" if why else "; the guest has it now"
    log.note(vm, f"added the disk {file}")
    return DiskDone(vm.name, new, done)


def _made(vm: Machine, disk: Volume, addition: Addition) -> bool:
    """Make the image, if a size is given; True if it was made."""
    is_there = os.path.exists(disk.path)
    if addition.size is None:
        if not is_there:
            raise ImageError(
                f"{disk.name} is not there", machine=vm.name, hint="a size behind it makes an empty one: 10G"
            )
        return False
    if is_there:
        raise ImageError(
            f"{disk.name} is there already", machine=vm.name, hint="without a size it is added as it is"
        )
    wanted = bytes_of(addition.size)
    part = f"{disk.path}.part{os.getpid()}"
    words = ["create", "-q", "-f", disk.format, image.safe_name(part), str(wanted)]
    try:
        image.run(tools.qemu_img(vm), words, what=f"make {disk.name}")
        _sync(part)
        os.link(part, disk.path)  # never over one that has just come to be
    finally:
        host_files.remove(part)
    host_files.sync_folder(os.path.dirname(disk.path))
    return True


def _plug(vm: Machine, seen: state.Observation, disk: Volume, line: devices.DiskLine) -> str:
    """Give a running guest the disk; why that cannot be, or ""."""
    settings = vm.settings
    bus = settings.text("VM_DISK_BUS")
    platform = platforms.of(settings.architecture, settings.text("VM_QEMU_MACHINE"))
    kind = {"virtio": platform.virtio("blk"), "scsi": "scsi-hd"}.get(bus)
    if kind is None or seen.note is None:
        return f"VM_DISK_BUS={bus} takes none while it runs"
    if seen.note.disposable or seen.note.base_only:
        return "this run is disposable, or of the base only"
    file = {"driver": disks.protocol(disk.path), "filename": disks.shown(vm, disk.path)}
    node: dict[str, Any] = {
        "node-name": disk.id, "driver": line.driver, "read-only": disk.is_read_only, "file": file,
    }  # fmt: skip
    if not disk.is_read_only:
        node["discard"] = "unmap"
        node["file"]["discard"] = "unmap"
    device = {"driver": kind, "drive": disk.id, "id": f"{disk.id}-device", "serial": disk.id}
    try:
        with saved.exchange(seen.note) as exchange:
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


# Resize


@log.failures
def resize(vm: Machine, name: str, wanted: str, *, is_shrinking: bool) -> DiskDone:
    """Give a disk another size; see `commands.disk`."""
    with launch.work_lock(vm, "disk resize"):
        seen = state.observe(vm)
        disk = _one(vm, _all(vm, seen), name)
        before = image.require(disk.path, vm.name, hint="put it back").size_bytes
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
            _require_off(vm, seen, "shrink a disk")
        chain.require_writable(vm, disk.path, "resize")
        if seen.is_live and seen.note is not None:
            try:
                with saved.exchange(seen.note) as exchange:
                    exchange.ask("block_resize", {"node-name": disk.node, "size": after}, timeout_s=60.0)
            except OSError:
                raise state.silent(vm) from None
            except QmpError as error:
                error.machine = vm.name
                raise
        else:
            _require_ready(vm, disk)
            words = ["resize", "-q", "-f", disk.format, *(["--shrink"] if after < before else [])]
            image.run(
                tools.qemu_img(vm), [*words, image.safe_name(disk.path), str(after)], what=f"resize {disk.id}"
            )
            _sync(disk.path)
    log.note(vm, f"resized {disk.id} from {before} to {after} bytes")
    return DiskDone(vm.name, disk, f"{size(before)} -> {size(after)}; file systems in it are as they were")


# Trim


@log.failures
def trim(vm: Machine, name: str | None) -> Trimmed:
    """Give unused room back to the host; see `commands.disk`."""
    with launch.work_lock(vm, "disk trim"):
        seen = state.observe(vm)
        found = volumes.written(_all(vm, seen))
        if name is not None:
            found = [_one(vm, found, name)]
        before = {each.id: _used(each) for each in found}
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
            "after_bytes": _used(each),
            "note": notes.get(each.id, ""),
        }
        for each in found
    ]
    log.note(vm, f"trimmed by {by}")
    return Trimmed(vm.name, by, rows)


def _used(disk: Volume) -> int:
    return os.stat(disk.path).st_blocks * 512


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
        argv = guest.link(vm, seen.note).command([TRIM], tty=False)
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=TRIM_S
        )
        if not done.returncode:
            return "fstrim over ssh"
        why = (done.stderr.strip().splitlines() or ["fstrim failed"])[-1]
    tried.append(f"ssh: {why}")
    raise StateError(
        "nothing in the guest could be asked to trim", machine=vm.name, details=tried,
        hint="the guest agent, or `sudo -n fstrim` over ssh, must be there; or trim while it is off",
    )  # fmt: skip


def _compact(vm: Machine, disk: Volume) -> str:
    """Write an image anew without what is zero or unused; why not, or "".

    It is made beside its place, compared, and takes it in one step.
    """
    _require_ready(vm, disk)
    if disk.format != "qcow2":
        return f"{disk.format} is left as it is"
    if chain.snapshots_in(disk.path):
        return "left as it is: it holds snapshots; trim while the machine is on"
    if chain.overlays_on(disk.path, vm):
        return "left as it is: other images stand on it"
    found = image.header(disk.path)
    part = f"{disk.path}.part{os.getpid()}"
    below = []
    if found.backing:
        kind = image.header(image.backing_path(disk.path, found.backing)).format
        below = ["-B", found.backing, "-F", kind]
    program = tools.qemu_img(vm)
    mode = os.stat(disk.path)
    try:
        words = ["convert", "-q", "-f", "qcow2", "-O", "qcow2", *below]
        with vm.io.stage(f"writing {disk.name} anew"):
            image.run(program, [*words, image.safe_name(disk.path), part], what=f"write {disk.name} anew")
            words = ["compare", "-q", "-f", "qcow2", "-F", "qcow2", image.safe_name(disk.path), part]
            image.run(program, words, what=f"compare {disk.name} with its new copy")
        os.chmod(part, mode.st_mode & 0o7777)
        if os.geteuid() == 0:
            os.chown(part, mode.st_uid, mode.st_gid)
        _sync(part)
        os.rename(part, disk.path)
    finally:
        host_files.remove(part)
    host_files.sync_folder(os.path.dirname(disk.path))
    return ""


# Check


def check(vm: Machine, name: str | None, *, is_repairing: bool) -> Checked:
    """Check the images and what they stand on; see `commands.disk`."""
    with launch.work_lock(vm, "disk check"):
        seen = state.observe(vm)
        if is_repairing:
            _require_off(vm, seen, "repair")
        found = _all(vm, seen)
        if name is not None:
            found = [_one(vm, found, name)]
        rows = [
            _checked(vm, path, kind, is_live=seen.is_live and is_written, is_repairing=is_repairing)
            for path, kind, is_written in _images(found)
        ]
    return Checked(vm.name, rows)


def _images(found: list[Volume]) -> list[tuple[str, str, bool]]:
    """Every image of the chains once: file, format, and whether a running QEMU writes to it."""
    rows: dict[str, tuple[str, str, bool]] = {}
    for each in found:
        rows[os.path.realpath(each.path)] = (each.path, each.format, not each.is_read_only)
        below = chain.base_of(each.path)
        while below and below not in rows and os.path.exists(below):
            rows[below] = (below, image.header(below).format, False)
            below = chain.base_of(below)
    return list(rows.values())


def _checked(vm: Machine, path: str, kind: str, *, is_live: bool, is_repairing: bool) -> dict[str, Any]:
    program = tools.qemu_img(vm)
    row: dict[str, Any] = {
        "name": os.path.basename(path), "file": path, "corruptions": 0, "leaks": 0, "note": "",
    }  # fmt: skip
    if is_live:
        row["note"] = "not checked: the machine is on and writes to it"
        return row
    image.require(path, vm.name, hint="put it back")
    with vm.io.stage(f"checking {row['name']}"):
        sound = imagecheck.check(program, path, kind)
        if sound is None:
            row["note"] = f"{kind} has nothing to check"
            return row
        if is_repairing and (sound.corruptions or sound.leaks):
            image.require_unused(program, path, vm.name)
            if sound.corruptions:  # what cannot be mended becomes zeros; leaks are nobody's data
                chain.require_writable(vm, path, "repair", besides=_own_overlay(vm, path))
            mode = "all" if sound.corruptions else "leaks"
            argv = [program, "check", "-q", "-f", kind, "-r", mode, image.safe_name(path)]
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True)
            _sync(path)
            after = imagecheck.check(program, path, kind)
            if after is not None and not after.corruptions:
                row["note"] = f"mended: {sound.corruptions} errors, {sound.leaks} leaked clusters"
            sound = after or sound
    row["corruptions"], row["leaks"] = sound.corruptions, sound.leaks
    return row


def _own_overlay(vm: Machine, base: str) -> str | None:
    """The machine's own disk that stands on a base: it wants that mended."""
    mine = [each.path for each in volumes.configured(vm)]
    return next((each for each in mine if chain.base_of(each) == os.path.realpath(base)), None)


# Commit and rebase


@log.failures
def commit(vm: Machine, name: str | None) -> DiskDone:
    """Write an overlay's data into its base; see `commands.disk`."""
    with launch.work_lock(vm, "disk commit"):
        seen = state.observe(vm)
        disk = _overlay(vm, seen, name, "commit")
        base = chain.base_of(disk.path)
        chain.require_writable(vm, base, "commit to", besides=disk.path)
        if not seen.is_live:
            image.require_unused(tools.qemu_img(vm), base, vm.name)
        needed = _used(disk)
        free = host_files.free_bytes(os.path.dirname(base))
        if free < needed:
            raise ImageError(
                f"cannot commit: {os.path.basename(base)} would grow by up to {size(needed)}, "
                f"and there is room for {size(free)}",
                machine=vm.name,
                hint=f"make room in {os.path.dirname(base)}; nothing was changed",
            )
        if seen.is_live:
            diskwork_live.commit(vm, seen, disk)
        else:
            _commit(vm, disk, base)
    log.note(vm, f"committed {disk.id} to {os.path.basename(base)}")
    return DiskDone(vm.name, disk, f"its data is in {os.path.basename(base)} now, it is empty")


def _commit(vm: Machine, disk: Volume, base: str) -> None:
    """`qemu-img commit`: copies first, empties the overlay last."""
    _grow(vm, base, image.header(disk.path).size_bytes)
    with vm.io.stage(f"committing {disk.name}"):
        words = ["commit", "-q", "-f", disk.format, image.safe_name(disk.path)]
        _run(vm, words, f"commit {disk.name}", "the overlay still holds all; `qvm disk commit` goes on")
        _sync(base)
        _sync(disk.path)


def _grow(vm: Machine, base: str, wanted: int) -> None:
    """A base that is smaller than its overlay grows first: qemu-img would do it in the middle."""
    found = image.header(base)
    if found.size_bytes < wanted:
        words = ["resize", "-q", "-f", found.format, image.safe_name(base), str(wanted)]
        image.run(tools.qemu_img(vm), words, what=f"resize {os.path.basename(base)}")


@log.failures
def rebase(vm: Machine, name: str, base: str | None, *, is_unsafe: bool) -> DiskDone:
    """Let an overlay stand on another base, or on none; see `commands.disk`."""
    with launch.work_lock(vm, "disk rebase"):
        seen = state.observe(vm)
        disk = _one(vm, _all(vm, seen), name)
        if base is not None or is_unsafe:
            _require_off(vm, seen, "rebase a disk onto another base")
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
            header = image.require(path, vm.name, hint="name an image that is there", name=base)
            if os.path.realpath(path) in {os.path.realpath(disk.path), *chain.overlays_on(disk.path, vm)}:
                raise UsageError(f"disk rebase: {base} stands on {disk.id} itself", machine=vm.name)
            inside = os.path.relpath(os.path.realpath(path), os.path.dirname(os.path.realpath(disk.path)))
            target = os.path.realpath(path) if inside.startswith("..") else inside
            words += ["-F", header.format]
        if not is_unsafe:
            _require_room_below(vm, disk)
        if seen.is_live:
            diskwork_live.flatten(vm, seen, disk)
            return DiskDone(vm.name, disk, "stands alone now")
        if not is_unsafe:
            image.require_unused(tools.qemu_img(vm), disk.path, vm.name)
        words += ["-b", target, image.safe_name(disk.path)]
        with vm.io.stage(f"rebasing {disk.name}"), _journal(vm, disk):
            _run(vm, words, f"rebase {disk.name}")
            _sync(disk.path)
    log.note(vm, f"rebased {disk.id} onto {target or 'nothing'}")
    return DiskDone(vm.name, disk, f"stands on {target} now" if target else "stands alone now")


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
    disk = _one(vm, _all(vm, seen), name)
    if not seen.is_live:
        _require_ready(vm, disk)
    if not chain.base_of(disk.path):
        raise UsageError(f"disk {what}: {disk.id}, {disk.name}, stands on no other image", machine=vm.name)
    return disk


def _run(vm: Machine, words: list[str], what: str, after: str = "") -> None:
    try:
        image.run(tools.qemu_img(vm), words, what=what)
    except ImageError as error:
        error.machine = vm.name
        error.details = (*error.details, after) if after else error.details
        raise


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
