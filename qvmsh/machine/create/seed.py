"""The image that a machine is made from: checked, and copied so that it shares no file with the original.

found = judged("/tmp/debian.qcow2", "qcow2", "demo")
copy(found, "demo-base.qcow2", "qcow2", "demo", io, qemu_img)
"""

from __future__ import annotations

import os

from qvmsh.config import devices
from qvmsh.config.words import quote
from qvmsh.errors import ImageError
from qvmsh.host import files as host_files
from qvmsh.machine.storage import chain
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.io import Io
    from qvmsh.machine.storage.chain import Layer


def format_of(path: str, machine: str) -> str:
    """The format of an image without a declared one: a name like `disk.img` may be qcow2 too.

    Raises:
        ImageError: it cannot be used, or name and content differ.
    """
    suffix = os.path.splitext(path)[1].lower()
    named = devices.BY_SUFFIX.get(suffix, "raw")
    is_declared = "raw" if suffix == ".raw" else ""  # a guest may have written a header into it
    looks = image.require(path, machine, hint="", kind=is_declared).format
    if named == "qcow2" != looks:
        raise ImageError(
            f"{os.path.basename(path)} is named as qcow2, but is in format {looks}", machine=machine
        )
    return looks if looks != "raw" else named


def judged(path: str, kind: str, machine: str) -> list[Layer]:
    """The image with all that it is backed by, if that can be copied into one image.

    Its content becomes the guest's disk. So the header of an untrusted image must not name just any file:
    other qcow2 images only.

    Raises:
        ImageError: it cannot be a machine's disk, or takes data from other files.
    """
    name = os.path.basename(path)
    found = chain.layers(path, kind, machine, os.path.dirname(path))
    for each, below in zip(found, [*found[1:], None], strict=True):
        if each.header is None:
            raise ImageError(f"{name} is orphaned: its backing file {each.path} is missing", machine=machine)
        others = " and ".join(each.header.files) or each.header.backing
        if each.header.files or (below and (each.format, below.format) != ("qcow2", "qcow2")):
            raise ImageError(
                f"{name} reads data from {others!r}, which could be any file",
                machine=machine,
                hint="if that file belongs to it, combine both into one image: "
                f"`qemu-img convert -f {kind} -O qcow2 {quote(path)} NEW.qcow2`",
            )
    if found[1:] and found[0].header and found[0].header.snapshots:
        raise ImageError(
            f"{name} holds snapshots that read from {found[0].header.backing!r}, which a copy would lose",
            machine=machine,
            hint=f"to copy its current state: `qemu-img convert -f qcow2 -O qcow2 {quote(path)} NEW.qcow2`",
        )
    if kind == "raw" and image.is_iso(path):
        raise ImageError(
            f"{name} is a CD image (ISO 9660), not the disk of an installed system",
            machine=machine,
            hint=f"`qvm create NAME 20G --iso {quote(path)}` makes a machine that installs from it",
        )
    image.require_unused(path, machine)
    return found


def copy(found: list[Layer], target: str, kind: str, machine: str, io: Io, program: str) -> None:
    """Copy what `judged` has found to a new file without a base.

    An image in the same format keeps its options and its snapshots.

    Raises:
        OSError, QvmError: it cannot be copied.
    """
    source, name = found[0], os.path.basename(found[0].path)
    with io.stage(f"copying {name}"):
        if source.format != kind:
            words = ["convert", "-q", "-f", source.format, "-O", kind, image.safe_name(source.path), target]
            if source.header and source.header.snapshots:
                io.warn(f"{machine}: the snapshots in {name} are not copied: {kind} has another form")
            qemuimg.run(program, words, what=f"convert {name}")
            host_files.sync(target)
            return
        host_files.copy(source.path, target, io.checkpoint)
        if not found[1:]:
            return
        below = [os.path.basename(each.path) for each in found[1:]]
        io.warn(f"{machine}: {name} is backed by {', '.join(below)}, which is copied into the same image")
        try:
            rebase = ["rebase", "-q", "-f", kind]
            base = os.path.abspath(found[1].path)
            qemuimg.run(program, [*rebase, "-u", "-F", "qcow2", "-b", base, target], what=f"copy {name}")
            qemuimg.run(program, [*rebase, "-b", "", target], what=f"copy {name}")
            host_files.sync(target)
        except BaseException:
            host_files.remove(target)
            raise
