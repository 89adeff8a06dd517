"""Images that are backed by one another: which files they may name, and which they do.

layers("demo-backing.qcow2", "qcow2", "demo", "/vm/demo")[1].format     # "qcow2"
snapshots_in("demo-backing.qcow2", "qcow2")          # [Snapshot(id="1", name="ready", ...)]
below(vm, "demo-backing.qcow2", "qcow2")             # ["/vm/demo/demo-base.qcow2"]
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from qvmsh.config import devices
from qvmsh.config.words import quote
from qvmsh.errors import ImageError, QvmError
from qvmsh.qemu import image, qcow2
from qvmsh.qemu.qcow2 import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine


@dataclass(frozen=True)
class Layer:
    """One image of a chain.

    Args:
        path: as QEMU opens it.
        format: `qcow2`, `raw`, ...; "" if unknown of a missing one.
        header: None if it is missing.
    """

    path: str
    format: str
    header: image.Header | None


def layers(path: str, kind: str, machine: str, folder: str) -> list[Layer]:
    """An image and all that it is backed by, the nearest first, by their headers; the last may be missing.

    The one rule about which files an image may name, asked before qemu-img or QEMU opens any of them:

    - its backing file is a file, or a block device, of this host: nothing with a protocol;
    - the format of that is recorded, or its name and its content agree: in a raw disk a guest
      may have written a header that names any file of the host;
    - another file with the guest's data (a qcow2 data file, extents), to which QEMU writes, is a plain
      file in the image's own folder or below it, no link.

    Args:
        kind: format of the image, as the configuration says.
        folder: where QEMU runs, the machine's directory.

    Raises:
        ImageError: one of them names what it may not name, is damaged or encrypted, or they are in a circle.
    """
    found: list[Layer] = []
    while True:
        real = os.path.realpath(path)
        names = [os.path.realpath(each.path) for each in found]
        if real in names:
            circle = " on ".join(os.path.basename(each) for each in (*names[names.index(real) :], real))
            raise ImageError(
                f"{os.path.basename(found[0].path)} cannot be read: {circle} is a circle",
                machine=machine,
                hint="`qemu-img rebase -u -f qcow2 -F FORMAT -b BASE IMAGE` gives one of them its own base",
            )
        if not os.path.exists(path):
            return [*found, Layer(path, kind, None)]
        header = image.require(path, machine, hint="", kind=kind)
        if found and kind == "qcow2" != header.format:
            name, above = os.path.basename(path), found[-1].path
            raise ImageError(
                f"{name} is in format {header.format}, but {os.path.basename(above)} says qcow2",
                machine=machine,
                hint=_recording(above, header.format, found[-1].header),
            )
        for name in header.files:
            _require_own(path, name, folder if header.format == "qcow2" else os.path.dirname(path), machine)
        found.append(Layer(path, kind, header))
        if not header.backing:
            return found
        path, kind = _backing(path, header, machine)


def _backing(path: str, header: image.Header, machine: str) -> tuple[str, str]:
    """The file that an image is backed by, and its format."""
    name, meant = os.path.basename(path), image.local_file(path, header.backing)
    if meant is None or header.backing_format not in ("", *devices.FORMATS):
        what = f"{header.backing!r} ({header.backing_format or 'no format'})"
        raise ImageError(
            f"{name} names {what} as its backing file, but it must be a file of this host",
            machine=machine,
            hint=f"`qemu-img rebase -u -f {header.format} -F FORMAT -b FILE {image.typed(path)}` sets "
            "another",
        )
    base, kind = meant[0], header.backing_format or meant[1]
    if kind not in devices.FORMATS:
        named = devices.BY_SUFFIX.get(os.path.splitext(base)[1].lower(), "")
        kind = "vmdk" if header.format == "vmdk" else named  # a vmdk has nothing else below
        if not os.path.exists(base):
            return base, kind
        looks = image.require(base, machine, hint="").format
        if looks != kind:
            raise ImageError(
                f"{name} does not record the format of its backing file {os.path.basename(base)}, "
                f"which may look like {looks} only because a guest wrote that",
                machine=machine,
                hint=_recording(path, named or "raw", header),
            )
    return base, kind


def _recording(path: str, kind: str, header: image.Header | None) -> str:
    """The command that records the format of a backing file."""
    if header is None or header.format != "qcow2":
        return f"`qemu-img convert` turns {os.path.basename(path)} into a qcow2 image without a base"
    words = f"-F {kind} -b {quote(header.backing)} {image.typed(path)}"
    return f"`qemu-img rebase -u -f qcow2 {words}` records it, if it is {kind}"


def _require_own(path: str, name: str, folder: str, machine: str) -> None:
    """Refuse another file that holds data of an image unless it is surely the image's own."""
    file = os.path.join(folder, name)
    try:
        is_plain = stat.S_ISREG(os.lstat(file).st_mode)
    except (OSError, ValueError):
        is_plain = False
    homes = {os.path.realpath(os.path.dirname(each)) for each in (path, os.path.realpath(path))}
    real = os.path.realpath(file)
    if (
        not is_plain
        or ":" in name.partition("/")[0]
        or not any(real.startswith(f"{each}/") for each in homes)
    ):
        raise ImageError(
            f"{os.path.basename(path)} keeps its data in {name!r}, which is not a plain file beside it",
            machine=machine,
            hint="`qemu-img convert -O qcow2` in the folder of that file makes one image of both",
        )


def snapshots_in(path: str, kind: str) -> list[Snapshot]:
    """The internal snapshots of the one image at `path`; none if there is no such file.

    Read from the file itself: no process is started, no lock is taken, and a QEMU that has the image
    open does not matter.

    Args:
        kind: its format; only qcow2 has any, whatever a guest has written into a raw disk.

    Raises:
        ImageError: the file is there and cannot be read.
    """
    if kind != "qcow2":
        return []
    try:
        return qcow2.snapshots(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ImageError(f"cannot read {os.path.basename(path)}: {error.strerror}") from error


def base_of(path: str, kind: str) -> str:
    """The file that the image at `path` is backed by, "" where it is backed by no file of this host."""
    try:
        backing = image.header(path, kind).backing
    except (OSError, QvmError):
        return ""
    meant = image.local_file(path, backing) if backing else None
    return os.path.realpath(meant[0]) if meant else ""


def below(vm: BaseMachine, path: str, kind: str) -> list[str]:
    """The files that the image at `path` is backed by, the nearest first; the last one may be missing.

    Raises:
        ImageError: see `layers`.
    """
    return [os.path.realpath(each.path) for each in layers(path, kind, vm.name, vm.directory)[1:]]


def print_of(path: str) -> dict[str, int]:
    """What changes when a base is written to: its size and its dates; ctime cannot be set."""
    status = os.stat(path)
    return {
        "size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns
    }  # fmt: skip
