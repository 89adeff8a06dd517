"""The disks of a new machine: empty, a copy of an image, or backed by one.

lay(part, "web", wish, io, os.environ)       # makes web-base.qcow2 and web-backing.qcow2 in the folder `part`
"""

from __future__ import annotations

import os

from qvmsh.errors import ImageError, UsageError
from qvmsh.images import builtin
from qvmsh.machine import registry
from qvmsh.machine.create import seed
from qvmsh.machine.create.wish import Wish
from qvmsh.machine.storage import dependents, disk_size, linked, own_disk
from qvmsh.qemu import image, programs, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.io import Io
    from qvmsh.machine.machine import BaseMachine


def found(wish: Wish, name: str, io: Io, environ: Mapping[str, str]) -> str:
    """Path of the image that the disk is made from; "" for an empty disk. A built-in one is built first.

    Raises:
        ImageError: there is no such file.
    """
    wanted = wish.source
    if not wanted:
        return ""
    if wish.image in builtin.BUILTIN and not wish.disk:
        path = builtin.path(wish.image, environ)
        if path is None:
            path = builtin.build(wish.image, io, environ=environ).image
        return str(path)
    if not os.path.exists(wanted):
        names = ", ".join(sorted(builtin.BUILTIN))
        way = f"built-in: {names}; or --image FILE"
        if wish.disk:
            way = f"--image names a built-in image: {names}"
        raise ImageError(
            f"there is no file {wanted}" + ("" if wish.disk else ", and no built-in image of that name"),
            machine=name,
            hint=way,
        )
    return os.path.abspath(wanted)


def require_iso(iso: str, name: str) -> None:
    """Refuse a file that is not a CD image: the firmware would find nothing to boot."""
    if not os.path.isfile(iso):
        raise ImageError(f"there is no file {iso}", machine=name)
    if not image.is_iso(iso):
        raise ImageError(
            f"{os.path.basename(iso)} is not a CD image (ISO 9660)", machine=name,
            hint="the disk of an installed system is given with --image",
        )  # fmt: skip


def lay(part: str, name: str, wish: Wish, source: str, io: Io) -> None:
    """Make base, overlay and additional disks in a folder.

    Args:
        source: what `found` has found.

    Raises:
        ImageError, QvmError, OSError: it cannot be done.
    """
    program = programs.find("qemu-img")
    base, kind = f"{name}-base.{wish.format}", wish.format
    if wish.is_s2e:
        base, kind = own_disk.S2E, "raw"
    target = os.path.join(part, base)
    if not source:
        _empty(program, target, kind, wish.size or DEFAULT_SIZE)
    else:
        layers = seed.judged(source, seed.format_of(source, name), name)
        if wish.is_moved and layers[0].format != kind and layers[0].header and layers[0].header.snapshots:
            raise ImageError(
                f"create: --move: {os.path.basename(source)} holds snapshots, which {kind} cannot take over",
                machine=name, hint="leave out --move: the image is copied, and stays",
            )  # fmt: skip
        if wish.is_linked:
            qemuimg.create_overlay(program, base, source, layers[0].format, cwd=part)
        else:
            seed.copy(layers, target, kind, name, io, program)
    if not wish.is_s2e:
        qemuimg.create_overlay(program, f"{name}-backing.{kind}", base, kind, cwd=part)
    for number, size in enumerate(wish.disks, start=1):
        _empty(program, os.path.join(part, additional(name, number)), "qcow2", size)


DEFAULT_SIZE = "20G"
"""Of the empty disk that an installer gets."""


def additional(name: str, number: int) -> str:
    """File name of an additional disk."""
    return f"{name}-disk{number}.qcow2"


def _empty(program: str, target: str, kind: str, size: str) -> None:
    words = ["create", "-q", "-f", kind, image.safe_name(target), str(disk_size.of_new(size))]
    qemuimg.run(program, words, what=f"create {os.path.basename(target)}")


def require_movable(source: str, name: str, vm: BaseMachine) -> None:
    """Refuse to remove an image that another image is backed by.

    Args:
        vm: any machine of this user, from whose place others are looked for.

    Raises:
        UsageError: there is one, or it is not a plain file.
    """
    if os.path.islink(source) or not os.path.isfile(source):
        raise UsageError(f"create: --move: {source} is not a plain file", machine=name)
    real = os.path.realpath(source)
    around = linked.home(real)  # also of a machine that is not in the list
    for directory in [*([around] if around else []), *registry.directories(vm.environ)]:
        if real.startswith(os.path.realpath(directory) + os.sep):
            raise UsageError(
                f"create: --move: {source} belongs to the machine in {directory}", machine=name,
                hint="leave out --move: the image is copied; or `qvm clone` that machine",
            )  # fmt: skip
    for directory in dependents.users([source], vm).values():
        raise UsageError(
            f"create: --move: {source} is a disk of the machine in {directory}", machine=name,
            hint="leave out --move: the image is copied",
        )  # fmt: skip
    for overlay in dependents.overlays_on(source, vm):
        raise UsageError(
            f"create: --move: {overlay} is backed by {os.path.basename(source)}", machine=name,
            hint="leave out --move: the image is copied",
        )  # fmt: skip
