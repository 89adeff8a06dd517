"""Disk images: what a file is, what it is backed by, and which process uses it.

    header("demo-backing.qcow2").backing      # "./demo-base.qcow2"

Source: QEMU docs/interop/qcow2.txt.
"""

from __future__ import annotations

import os
import struct
import time

from qvmsh.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO, Any

_FIXED = ">4sIQIIQIIQQIIQ"  # magic ... snapshots offset: the 72 bytes that every version has
_INCOMPATIBLE_DIRTY, _INCOMPATIBLE_CORRUPT, _INCOMPATIBLE_DATA_FILE = 1, 2, 4
_HEAD_BYTES = 4096  # what is read at once
_BACKING_FORMAT, _DATA_FILE = 0xE2792ACA, 0x44415441
_MOST_CLUSTER_BITS = 21
_DESCRIPTOR_BYTES = 1 << 16
_DYING_S = 5.0
"""How long an image may stay locked by a process that is ending. Source: do_exit in Linux: the table
of open files goes first, then each file is closed."""
_WRITER_LOCKS = (101, 103, 200)  # writes, resizes, does not share reading
_MAGICS = (
    (0, rb"QFI\xfb", "qcow2"),
    (0, rb"QED\0", "qed"),
    (0, rb"KDMV|COWD|# Disk DescriptorFile|(#[^\n]*\n| +\r?\n)*version=[123]\r?\n", "vmdk"),
    (0, rb"vhdxfile", "vhdx"),
    (0, rb"conectix", "vpc"),
    (64, rb"\x7f\x10\xda\xbe", "vdi"),
    (0, rb"WithoutFreeSpace|WithouFreSpacExt", "parallels"),
    (0, rb"LUKS\xba\xbe", "luks"),
)
"""The signature by which QEMU detects an image's format."""


class Header:
    """What an image's header contains.

    Args:
        format: `qcow2`, `raw` for anything without a header that is known here, ...
        size_bytes: size of the virtual disk; of the file, if the format is neither `qcow2` nor `qcow`.
        backing: name of the backing file as written in the image, "" if there is none.
        backing_format: of that file, as written in the image; "" if it is not.
        snapshots: number of internal snapshots.
        is_dirty: QEMU ended while it worked on the tables; it repairs them when it next writes to it.
        is_corrupt: QEMU marked the image as corrupt.
        is_encrypted: it opens only with a key.
        files: names of the other files that hold the guest's data: a data file, extents.
    """

    __slots__ = (
        "backing", "backing_format", "files", "format", "is_corrupt", "is_dirty", "is_encrypted",
        "size_bytes", "snapshots",
    )  # fmt: skip

    def __init__(
        self,
        kind: str,
        size_bytes: int,
        backing: str = "",
        snapshots: int = 0,
        flags: int = 0,
        is_encrypted: bool = False,
        backing_format: str = "",
        files: tuple[str, ...] = (),
    ) -> None:
        self.format = kind
        self.size_bytes = size_bytes
        self.backing = backing
        self.backing_format = backing_format
        self.snapshots = snapshots
        self.is_dirty = bool(flags & _INCOMPATIBLE_DIRTY)
        self.is_corrupt = bool(flags & _INCOMPATIBLE_CORRUPT)
        self.is_encrypted = is_encrypted
        self.files = files

    @property
    def has_data_file(self) -> bool:
        """True if the guest's data is in another file, which this one names."""
        return bool(self.files)


def opened(path: str) -> IO[bytes]:
    """Open an image for reading: a file or a block device, never something that could block.

    Raises:
        OSError: it cannot be opened.
        ImageError: it is something else.
    """
    import stat

    mode = os.stat(path).st_mode  # opening alone has effects on some devices
    for is_kind, kind in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
    ):
        if is_kind(mode):
            raise ImageError(f"{os.path.basename(path)} is {kind}, not an image")
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def header(path: str, kind: str = "") -> Header:
    """Read the header of the image at `path`; nothing that it names is opened.

    Args:
        kind: the format that it is known to have: a guest may write any header into a raw disk.
            "" for the one that its content looks like.

    Raises:
        OSError: it cannot be read.
        ImageError: its header is truncated, or it is not a file.

    Source: QEMU docs/interop/qcow2.txt, qed_spec.txt; VMware's Virtual Disk Format 5.0.
    """
    import re

    with opened(path) as file:
        data = file.read(_HEAD_BYTES)
        size_bytes = file.seek(0, os.SEEK_END)
        looks = next((name for at, magic, name in _MAGICS if re.match(magic, data[at:])), "raw")
        if "raw" in (kind, looks) and kind != "vmdk":
            return Header("raw", size_bytes)
        if looks == "qcow2":
            return _qcow2(file, data, path)
        if looks == "qed" and len(data) >= 64:
            features = struct.unpack("<Q", data[16:24])[0]
            offset, length = struct.unpack("<II", data[56:64])
            name = _text(_at(file, offset, min(length, 1023))) if features & 1 else ""
            return Header("qed", size_bytes, name)
        if "vmdk" in (kind, looks):
            return _vmdk(file, data, size_bytes, path)
    return Header(looks, size_bytes, is_encrypted=looks == "luks")


def _qcow2(file: IO[bytes], data: bytes, path: str) -> Header:
    if len(data) < 72:
        raise ImageError(
            f"{os.path.basename(path)} is corrupt: it is truncated", hint="restore it from an archive"
        )
    _, version, offset, length, bits, size, crypt, _, _, _, _, snapshots, _ = struct.unpack(_FIXED, data[:72])
    backing = _text(_at(file, offset, min(length, 1023))) if offset and length else ""
    if version == 1:  # the following fields differ there
        return Header("qcow", size, backing, is_encrypted=data[36:40] != bytes(4))
    flags = struct.unpack(">Q", data[72:80])[0] if version >= 3 and len(data) >= 80 else 0
    extensions = _extensions(_at(file, 0, 1 << min(bits, _MOST_CLUSTER_BITS)), version)
    return Header(
        "qcow2",
        size,
        backing,
        snapshots,
        flags,
        is_encrypted=bool(crypt),
        backing_format=extensions.get(_BACKING_FORMAT, "") if backing else "",
        files=(extensions.get(_DATA_FILE, ""),) if flags & _INCOMPATIBLE_DATA_FILE else (),
    )


def _at(file: IO[bytes], offset: int, count: int) -> bytes:
    """Part of a file; empty if the offset is not valid."""
    try:
        return os.pread(file.fileno(), count, offset)
    except (OSError, OverflowError):
        return b""


def _text(data: bytes) -> str:
    """A name as QEMU reads it: up to the first NUL."""
    return os.fsdecode(data.partition(b"\0")[0])


def _extensions(data: bytes, version: int) -> dict[int, str]:
    """The header extensions of a qcow2 image as text; of several of one kind QEMU takes the last."""
    found = {}
    at = struct.unpack(">I", data[100:104])[0] if version >= 3 and len(data) >= 104 else 72
    while at + 8 <= len(data):
        kind, length = struct.unpack(">II", data[at : at + 8])
        if not kind:
            break
        found[kind] = _text(data[at + 8 : at + 8 + length])
        at += 8 + -(-length // 8) * 8
    return found


def _vmdk(file: IO[bytes], data: bytes, size_bytes: int, path: str) -> Header:
    """A descriptor names the extents and the parent; it is a file of its own, or inside the one extent.

    An inner one counts only for the parent, unless the header says that its extent is empty.
    """
    import re

    has_extents, offset, length = data[:4] != b"COWD", 0, -(-size_bytes // 512)
    if data[:4] == b"KDMV" and len(data) >= 44:
        capacity, _, offset, length = struct.unpack("<QQQQ", data[12:44])
        has_extents = not capacity
    if has_extents and length * 512 > _DESCRIPTOR_BYTES:
        raise ImageError(f"{path} is not a vmdk image: its descriptor has {length * 512} bytes")
    text = _at(file, offset * 512, _DESCRIPTOR_BYTES)
    parent = re.search(rb'parentFileNameHint..([^"]*)"', text, re.DOTALL)
    extents = re.findall(rb'^\s*RW\s+\S+\s+\S+\s+"([^"\r\n]*)', text, re.MULTILINE) if has_extents else []
    return Header("vmdk", size_bytes, _text(parent[1]) if parent else "", files=tuple(map(_text, extents)))


def is_iso(path: str) -> bool:
    """True if the image of a CD is in a file (ISO 9660)."""
    with opened(path) as file:
        return _at(file, 0x8001, 5) == b"CD001"


def local_file(image: str, backing: str) -> tuple[str, str] | None:
    """The one file of this host that the backing name in `image` means, and the format that it gives, if any.

    None for anything else: `nbd://...`, `fat:...`, JSON with more than a file in it.
    """
    if backing.startswith("json:"):
        return _local_node(backing.removeprefix("json:"))
    if backing.startswith("file:"):  # as with JSON a relative name would start where QEMU runs
        name = backing.removeprefix("file:")
        return (name, "") if os.path.isabs(name) else None
    return None if ":" in backing.partition("/")[0] else (os.path.join(os.path.dirname(image), backing), "")


def _local_node(words: str) -> tuple[str, str] | None:
    rows: list[tuple[str, Any]] = []
    left = [("", _json(words))]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{key}.{name}" if key else name, each) for name, each in value.items()]
        elif value is not None and not isinstance(value, bool):
            rows.append((key, value))
    found = dict(rows)
    name = next((key for key in found if key.endswith("filename")), "")
    depth = name.count("file.")
    drivers = ["file." * at + "driver" for at in range(depth + 1)]
    if sorted(key for key, _ in rows) != sorted([name, *drivers]) or not os.path.isabs(str(found[name])):
        return None
    top, *between, protocol = [found[each] for each in drivers] if depth else ["", found["driver"]]
    if protocol not in ("file", "host_device") or any(each != "raw" for each in between):
        return None
    return str(found[name]), str(top)


def _json(words: str) -> Any:
    """QEMU's JSON, which knows `'...'` too; None for what is not JSON."""
    import json

    for text in (words, words.replace("'", '"')):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
    return None


def backing_files(image: str, backing: str) -> list[str]:
    """All files that a backing name may mean, the likeliest first.

    QEMU takes what is before a `:` for a protocol, if no slash comes before it: `file:/vm/base.qcow2`,
    `json:{"driver": ..., "file": {...}}`. What follows any other protocol counts too: rather a file too
    many than one that is written to because nothing seems to be backed by it.
    """
    folder = os.path.dirname(image)
    if backing.startswith("json:"):
        names = _names_in(backing.removeprefix("json:"))
        found = [path for name in names for path in backing_files(image, name)]
        return found or [os.path.join(folder, backing)]
    names = [backing]
    while ":" in names[-1].partition("/")[0]:
        names.append(names[-1].partition(":")[2])
    return [os.path.join(folder, name) for name in names[backing.startswith("file:") :]]


def _names_in(words: str) -> list[str]:
    """The files in QEMU's JSON. It knows `'...'` too; of what Python cannot read all words count."""
    import json
    import re

    try:
        left = [("", json.loads(words))]
    except (ValueError, RecursionError):
        found = [one or other for one, other in re.findall(r"""'([^']+)'|"([^"]+)\"""", words)]
        return sorted(found, key=lambda name: "/" not in name)
    found = []
    while left:
        key, value = left.pop(0)
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += [(key, each) for each in value]
        elif isinstance(value, str) and key.rpartition(".")[2] == "filename":
            found.append(value)
    return found


def safe_name(path: str) -> str:
    """`path` so that QEMU's tools cannot take a `:` in it for a protocol (`nbd:...`)."""
    return path if os.path.isabs(path) else os.path.join(".", path)


def typed(path: str, where: str = "") -> str:
    """`path` as a word of a command that is typed in a folder; "" for the current one."""
    import shlex

    path = os.path.abspath(path)
    inside = os.path.relpath(path, where or here())
    if inside.startswith(".."):
        return shlex.quote(path)
    return shlex.quote(safe_name(inside) if inside.startswith("-") or ":" in inside else inside)


def here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it has been removed
        return "/"


def has_other_files(path: str, kind: str) -> bool:
    """True if the guest's data is in files that this one names: a qcow2 data file, extents of a vmdk.

    A backing file counts as one too, except for qcow2: in other formats it is never changed.
    """
    found = header(path, kind)
    return bool(found.files or (found.backing and kind != "qcow2"))


def in_use(path: str, machine: str | None) -> ImageError:
    """The error for an image that another process has open: names the process."""
    names = users(path)
    return ImageError(
        f"{os.path.basename(path)} is in use by {', '.join(names) or 'another process'}",
        machine=machine,
        hint="end that process first; two writers would destroy the image",
    )


def users(path: str) -> list[str]:
    """What has the image open, in words: `machine demo, pid 4711, since 10:02:33`."""
    return users_of_each([path]).get(path, [])


def users_of_each(paths: Iterable[str]) -> dict[str, list[str]]:
    """`users` of many images, in one look at all processes; only those that others have open are in it."""
    from qvmsh.host import files

    found = files.users_of_each(paths).items()
    words = {path: [_user(pid) for pid in pids if pid != os.getpid()] for path, pids in found}
    return {path: names for path, names in words.items() if names}


def _user(pid: int) -> str:
    from qvmsh.host import process

    words = process.arguments(pid)
    name = words[words.index("-name") + 1] if "-name" in words[:-1] else ""
    if "-pidfile" not in words or not name:
        return f"{process.program(pid)} (pid {pid}, {process.user(pid)})"
    machine = name.partition(",process=")[0].removeprefix("guest=").replace(",,", ",")
    age_s = process.age_s(pid)
    began = time.localtime(time.time() - age_s)
    since = time.strftime("%T" if age_s < 43200 else "%F %T", began)
    return f"machine {machine}, pid {pid}, since {since}"


def require_unused(path: str, machine: str) -> None:
    """Refuse an image that any QEMU writes to; a missing one is fine.

    A QEMU that was killed holds its images for a moment longer: this waits for that.

    Raises:
        ImageError: it is locked.

    Source: QEMU block/file-posix.c: it locks byte 100 + N of what it may do, 200 + N of what no other may.
    """
    deadline = time.monotonic() + _DYING_S
    while _is_written(path):
        if users(path) or time.monotonic() > deadline:
            raise in_use(path, machine)
        time.sleep(0.01)  # a lock's end cannot be waited for with a limit


def _is_written(path: str) -> bool:
    from qvmsh.host import locks

    try:
        return any(locks.holder(path, byte) is not None for byte in _WRITER_LOCKS)
    except OSError:  # reported when it is used
        return False


def require(path: str, machine: str, *, hint: str, name: str = "", kind: str = "") -> Header:
    """The header of an image that must exist, be sound, and open without a key.

    Args:
        name: what messages call it; its file name by default.
        kind: as of `header`.

    Raises:
        ImageError: it is missing, unreadable, empty, truncated, encrypted, or marked corrupt.
    """
    name = name or os.path.basename(path)
    try:
        found = header(path, kind)
    except FileNotFoundError:
        raise ImageError(f"{name} is missing", machine=machine, hint=hint) from None
    except OSError as error:
        raise ImageError(f"cannot read {name}: {error.strerror}", machine=machine) from error
    except ImageError as error:
        error.machine = machine
        raise
    if found.format == "raw" and not found.size_bytes:
        raise ImageError(
            f"{name} is empty: a file of 0 bytes is not a disk",
            machine=machine,
            hint="`qemu-img create -f qcow2 FILE 10G` makes an image of an empty disk",
        )
    if found.is_encrypted:
        raise ImageError(
            f"{name} is encrypted, and qvm cannot give QEMU its key",
            machine=machine,
            hint="`qemu-img convert` with `--object secret,...` makes a copy without encryption; "
            "encrypt inside the guest, or the host's file system",
        )
    if found.is_corrupt:
        raise ImageError(
            f"{name} is marked as corrupt",
            machine=machine,
            hint=f"`qemu-img check -r all {typed(path)}` may repair it; copy the file first",
        )
    return found
