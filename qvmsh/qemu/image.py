"""Disk images: reading what a file is, and running qemu-img.

May import: `host`, `errors`; `subprocess` late.

    header("demo-backing.qcow2").backing      # "./demo-base.qcow2"

Source: QEMU docs/interop/qcow2.txt; qemu-img(1).
"""

from __future__ import annotations

import os
import struct

from qvmsh.errors import ImageError, QvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from qvmsh.host.accounts import Account

_FIXED = ">4sIQIIQIIQQIIQ"  # magic ... snapshots offset: the 72 bytes that every version has
_INCOMPATIBLE_DIRTY, _INCOMPATIBLE_CORRUPT, _INCOMPATIBLE_DATA_FILE = 1, 2, 4
_HEAD_BYTES = 4096  # what is read at once: the header, and its extensions
_BACKING_FORMAT = 0xE2792ACA
_DESCRIPTOR_BYTES = 1 << 16


class Header:
    """What the first bytes of an image file say.

    Args:
        format: `qcow2`, its predecessor `qcow`, or `raw` for anything without such a header.
        size_bytes: size of the virtual disk; of the file, where the format is `raw`.
        backing: name of the backing file as it stands in the image, "" if there is none.
        backing_format: of that file, as the image says; "" where it does not (`imagecheck.backing_format`).
        snapshots: number of internal snapshots.
        is_dirty: QEMU was ended while it worked on the tables; it mends them when it writes to it next.
        is_corrupt: QEMU marked the image as corrupt.
        has_data_file: the guest's data is in another file, that this one names.
    """

    __slots__ = (
        "backing",
        "backing_format",
        "format",
        "has_data_file",
        "is_corrupt",
        "is_dirty",
        "size_bytes",
        "snapshots",
    )

    def __init__(
        self,
        kind: str,
        size_bytes: int,
        backing: str = "",
        snapshots: int = 0,
        is_dirty: bool = False,
        is_corrupt: bool = False,
        has_data_file: bool = False,
        backing_format: str = "",
    ) -> None:
        self.format = kind
        self.size_bytes = size_bytes
        self.backing = backing
        self.backing_format = backing_format
        self.snapshots = snapshots
        self.is_dirty = is_dirty
        self.is_corrupt = is_corrupt
        self.has_data_file = has_data_file


def header(path: str) -> Header:
    """Read the header of the image at `path`.

    Raises:
        OSError: it cannot be read.
        ImageError: it begins like a qcow2 image but is cut off.
    """
    with open(path, "rb") as file:
        data = file.read(_HEAD_BYTES)
        if data[:4] != b"QFI\xfb":
            return Header("raw", os.fstat(file.fileno()).st_size)
        if len(data) < 72:
            raise ImageError(f"{path} is cut off: it has {len(data)} bytes")
        _, version, offset, length, _, size, _, _, _, _, _, snapshots, _ = struct.unpack(_FIXED, data[:72])
        flags = struct.unpack(">Q", data[72:80])[0] if version >= 3 and len(data) >= 80 else 0
        backing = b""
        if offset and length:
            file.seek(offset)
            backing = file.read(min(length, 1023))
    if version == 1:  # what follows means something else there
        return Header("qcow", size, os.fsdecode(backing))
    return Header(
        "qcow2",
        size,
        os.fsdecode(backing),
        snapshots,
        is_dirty=bool(flags & _INCOMPATIBLE_DIRTY),
        is_corrupt=bool(flags & _INCOMPATIBLE_CORRUPT),
        has_data_file=bool(flags & _INCOMPATIBLE_DATA_FILE),
        backing_format=_backing_format(data, version) if backing else "",
    )


def _backing_format(data: bytes, version: int) -> str:
    """What the header extensions say of the backing file's format, "" where they do not."""
    at = struct.unpack(">I", data[100:104])[0] if version >= 3 and len(data) >= 104 else 72
    while at + 8 <= len(data):
        kind, length = struct.unpack(">II", data[at : at + 8])
        if kind == _BACKING_FORMAT:
            return data[at + 8 : at + 8 + length].decode(errors="replace")
        if not kind:
            break
        at += 8 + -(-length // 8) * 8
    return ""


def backing(path: str) -> str:
    """Name of the backing file in an image of any format that QEMU gives one, "" if there is none.

    Raises:
        OSError: it cannot be read.
        ImageError: it begins like a qcow2 image but is cut off.

    Source: QEMU docs/interop/qed_spec.txt; VMware's Virtual Disk Format 5.0.
    """
    with open(path, "rb") as file:
        data = file.read(_HEAD_BYTES)
        if data[:4] == b"QED\0" and len(data) >= 64:
            features, (offset, length) = (
                struct.unpack("<Q", data[16:24])[0],
                struct.unpack("<II", data[56:64]),
            )
            file.seek(offset)
            return os.fsdecode(file.read(min(length, 1023))) if features & 1 else ""
        if data[:4] == b"KDMV" and len(data) >= 44:
            offset, length = struct.unpack("<QQ", data[28:44])
            file.seek(offset * 512)
            data = file.read(min(length * 512, _DESCRIPTOR_BYTES))
        elif not data.startswith(b"# Disk DescriptorFile"):
            return header(path).backing
    import re

    found = re.search(rb'^parentFileNameHint="([^"\n]*)"', data, re.MULTILINE)
    return os.fsdecode(found[1]) if found else ""


def backing_path(image: str, backing: str) -> str:
    """The file that the backing name in `image` means (relative names stand beside the image)."""
    return backing_files(image, backing)[0]


def backing_files(image: str, backing: str) -> list[str]:
    """All files that a backing name may mean, the likeliest first.

    QEMU takes what is before a `:` for a protocol, where no slash stands before it: `file:/vm/base.qcow2`,
    `json:{"driver": ..., "file": {...}}`. What follows any other protocol counts too: rather a file too
    many than one that is written to because nothing seems to stand on it.
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


def run(
    program: str, words: Sequence[str], *, cwd: str | None = None, what: str, account: Account | None = None
) -> str:
    """Run qemu-img and return what it prints.

    Args:
        program: qemu-img.
        words: its sub-command and options.
        what: what is being done, for the error: `make demo-backing.qcow2`.
        account: whose rights it gets; None = the caller's.

    Raises:
        ImageError: with qemu-img's own words as details.
    """
    import subprocess

    from qvmsh.host import locks

    done = subprocess.run(
        [program, *words],
        cwd=cwd,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=account.groups if account else None,
        umask=0o077,  # an image that it makes holds what is private to the guest
        pass_fds=tuple(locks.HELD),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )
    if done.returncode:
        lines = [line.removeprefix("qemu-img: ") for line in done.stderr.splitlines() if line.strip()]
        raise ImageError(f"cannot {what}", details=lines[-5:], hint=_remedy(done.stderr))
    return done.stdout


def version(program: str) -> str:
    """The version of qemu-img, which is QEMU's: `7.2.22`."""
    words = run(program, ["--version"], what="ask qemu-img for its version").split()
    return words[words.index("version") + 1] if "version" in words[:-1] else ""


def _remedy(words: str) -> str | None:
    if "No space left" in words:
        return "the disk is full: make room, then try again; nothing was changed"
    if "lock" in words:
        return "another process has the image open: end it first"
    return None


def create_overlay(
    program: str, overlay: str, backing: str, backing_format: str, *, cwd: str | None = None
) -> None:
    """Make an empty qcow2 overlay on `backing` (a name relative to the overlay's folder)."""
    run(
        program,
        ["create", "-q", "-f", "qcow2", "-F", backing_format, "-b", safe_name(backing), safe_name(overlay)],
        cwd=cwd,
        what=f"make {os.path.basename(overlay)}",
    )


def has_data(program: str, path: str) -> bool:
    """True if the image itself (without what it stands on) holds data or snapshots."""
    from qvmsh.qemu.qmp import loads

    if header(path).snapshots:
        return True
    text = run(
        program, ["map", "-U", "--output=json", safe_name(path)], what=f"read {os.path.basename(path)}"
    )
    return any(part["depth"] == 0 and part.get("data") for part in loads(text))


def told(program: str, path: str, kind: str) -> dict[str, Any]:
    """What qemu-img tells of an image in a format whose header qvm does not read.

    Args:
        kind: its format; "" for the one that QEMU takes it for by its content.

    Source: QEMU's QAPI, `ImageInfo`.
    """
    from qvmsh.qemu.qmp import loads

    words = ["info", "-U", *(["-f", kind] if kind else []), "--output=json", safe_name(path)]
    found: dict[str, Any] = loads(run(program, words, what=f"read {os.path.basename(path)}"))
    return found


def virtual_bytes(program: str, path: str, kind: str) -> int:
    """The size of the disk that a guest sees."""
    if kind == "qcow2":
        return header(path).size_bytes
    found: int = told(program, path, kind)["virtual-size"]
    return found


def has_other_files(program: str, path: str, kind: str) -> bool:
    """True if the guest's data is in files that this one names: a qcow2 data file, extents of a vmdk.

    A backing file counts as one too, but for qcow2: of other formats none is given another one.
    """
    if kind in ("qcow2", "raw"):
        return kind == "qcow2" and header(path).has_data_file
    real = os.path.realpath(path)  # with which QEMU names the extents in full
    found = told(program, real, kind)
    if found.get("backing-filename"):
        return True
    extents = found.get("format-specific", {}).get("data", {}).get("extents", [])
    return any(os.path.realpath(each["filename"]) != real for each in extents)


def snapshots(program: str, path: str) -> list[str]:
    """Names of the internal snapshots of an image that nobody has open."""
    from qvmsh.qemu.qmp import loads

    text = run(program, ["info", "--output=json", safe_name(path)], what=f"read {os.path.basename(path)}")
    return [each["name"] for each in loads(text).get("snapshots", [])]


def remove_bitmaps(program: str, path: str, prefix: str = "", account: Account | None = None) -> None:
    """Remove the dirty bitmaps (whose names begin so) of a qcow2 image that nobody has open.

    They tell what has changed since a backup: nothing true any more once another state is put back,
    and `qemu-img snapshot -a` refuses an image that has some.
    """
    from qvmsh.qemu.qmp import loads

    what = f"remove the dirty bitmaps of {os.path.basename(path)}"
    asked = ["info", "-U", "--output=json", "-f", "qcow2", safe_name(path)]
    found = loads(run(program, asked, what=what, account=account))
    for each in found.get("format-specific", {}).get("data", {}).get("bitmaps", []):
        if each["name"].startswith(prefix):
            words = ["bitmap", "--remove", "-f", "qcow2", safe_name(path), each["name"]]
            run(program, words, what=what, account=account)


def in_use(path: str, machine: str | None) -> ImageError:
    """The error for an image that another process has open: names the process."""
    names = users(path)
    return ImageError(
        f"{os.path.basename(path)} is in use by {', '.join(names) or 'another process'}",
        machine=machine,
        hint="end that process first; two writers would destroy the image",
    )


def users(path: str) -> list[str]:
    """Who has the image open, in words: `machine demo, pid 4711, since 10:02:33`."""
    return users_of_each([path]).get(path, [])


def users_of_each(paths: Iterable[str]) -> dict[str, list[str]]:
    """`users` of many images, in one look at all processes; only those that others have open are in it."""
    from qvmsh.host import files

    found = files.users_of_each(paths).items()
    words = {path: [_user(pid) for pid in pids if pid != os.getpid()] for path, pids in found}
    return {path: names for path, names in words.items() if names}


def _user(pid: int) -> str:
    import time

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


def require_unused(program: str, path: str, machine: str) -> None:
    """Refuse an image that a QEMU has open, whoever started it; a missing one is fine.

    Raises:
        ImageError: it is locked.
    """
    if not os.path.exists(path):
        return
    try:
        run(program, ["info", safe_name(path)], what=f"look at {os.path.basename(path)}")
    except ImageError as error:
        if any("lock" in line for line in error.details):
            raise in_use(path, machine) from None


def require(path: str, machine: str, *, hint: str, name: str = "") -> Header:
    """The header of an image that must be there and whole.

    Args:
        name: what messages call it; its file name by default.

    Raises:
        ImageError: it is missing, unreadable, cut off, or marked corrupt.
    """
    name = name or os.path.basename(path)
    try:
        found = header(path)
    except FileNotFoundError:
        raise ImageError(f"{name} is not there", machine=machine, hint=hint) from None
    except OSError as error:
        raise ImageError(f"cannot read {name}: {error.strerror}", machine=machine) from error
    except QvmError as error:
        raise ImageError(
            f"{name} is corrupt: it is cut off", machine=machine, hint="restore it from an archive"
        ) from error
    if found.is_corrupt:
        raise ImageError(
            f"{name} is marked as corrupt",
            machine=machine,
            hint=f"`qemu-img check -r all {name}` may mend it; copy the file first",
        )
    return found
