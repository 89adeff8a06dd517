"""The images of an unpacked machine: what they may name, and their names in a machine of another name.

    require_inside(made, label)                         # no image reads from a file outside
    rename(made, {"demo-base.qcow2": "twin-base.qcow2"})

What an image names is looked at before any program opens it.
"""

from __future__ import annotations

import os
import stat

from qvmsh.config import devices
from qvmsh.errors import ImageError, QvmError, printable
from qvmsh.machine.archive import drives
from qvmsh.machine.storage import chain
from qvmsh.qemu import image, programs, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import NoReturn

    from qvmsh.machine.machine import BaseMachine

HINT = "it would read from, or write to, files of this host; get the package again"


def require_inside(made: BaseMachine, label: str) -> None:
    """Refuse images that are backed by, or keep their data in, a file that is not in the package.

    Raises:
        ImageError: one does, is damaged, or lacks what it is backed by.
    """
    formats: dict[str, set[str]] = {}
    for each in _own_drives(made):
        formats.setdefault(os.path.normpath(each.path), set()).add(each.format)
    for path in _files(made.directory):
        kinds = formats.get(path, {""})  # what any of its drives may find in it counts
        _require_header(made, path, "raw" if kinds == {"raw"} else "", label)
    top = os.path.realpath(made.directory) + "/"
    for path, kind in ((path, kind) for path, kinds in formats.items() for kind in sorted(kinds)):
        if not os.path.exists(path):
            continue
        layers = chain.layers(path, kind, made.name, made.directory)
        if layers[-1].header is None:
            _refuse(label, f"{os.path.basename(layers[-1].path)} is missing, but a disk is backed by it")
        outside = [each.path for each in layers if not os.path.realpath(each.path).startswith(top)]
        if outside:
            _refuse(label, f"{os.path.basename(path)} is backed by {outside[0]}, outside the package")


def _own_drives(made: BaseMachine) -> list[drives.Drive]:
    top = made.directory + "/"
    return [each for each in drives.named(made) if each.path.startswith(top)]


def _files(folder: str) -> Iterator[str]:
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(where, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def _refuse(label: str, why: str) -> NoReturn:
    raise ImageError(f"{label}: {printable(why)}", hint=HINT)


def _require_header(made: BaseMachine, path: str, kind: str, label: str) -> None:
    name = os.path.relpath(path, made.directory)
    try:
        header = image.header(path, kind)
    except ImageError as error:
        _refuse(label, f"{name}: {error.what}")
    if header.files:
        _refuse(label, f"{name} keeps its data in another file: {header.files[0]}")
    if not header.backing:
        return
    meant = image.local_file(path, header.backing)
    is_file = meant is not None and not os.path.isabs(header.backing) and ":" not in header.backing
    top = os.path.realpath(made.directory) + "/"
    if meant is None or not is_file or not os.path.realpath(meant[0]).startswith(top):
        _refuse(label, f"{name} is backed by {header.backing}, outside the package")
    if header.backing_format not in ("", *devices.FORMATS):
        _refuse(label, f"{name} is backed by {header.backing} in format {header.backing_format}")


def rename(made: BaseMachine, moved: Mapping[str, str]) -> None:
    """Give files other names, and let the images that are backed by them say so.

    Args:
        moved: old and new name, from the machine's directory.

    Raises:
        ImageError: there is a file of the new name.
    """
    folder = made.directory
    paths = {os.path.join(folder, old): os.path.join(folder, new) for old, new in moved.items()}
    found = [(path, _below(path)) for path in _files(folder)]
    backed = [(path, *below) for path, below in found if below and below[0] in paths]
    for old, new in paths.items():
        if os.path.lexists(new):
            old_name, new_name = (os.path.relpath(each, folder) for each in (old, new))
            raise ImageError(
                f"the package holds {new_name} too, so {old_name} cannot get that name",
                hint="import it under another name",
            )
        os.rename(old, new)
    program = programs.find("qemu-img") if backed else ""
    for path, base_path, kind in backed:
        overlay = paths.get(path, path)
        base = os.path.relpath(paths[base_path], os.path.dirname(overlay))
        words = ["rebase", "-u", "-f", "qcow2", "-F", kind or "qcow2", "-b", f"./{base}", overlay]
        qemuimg.run(program, words, what=f"rename the base of {os.path.basename(overlay)}")


def _below(path: str) -> tuple[str, str] | None:
    """What an image is backed by, and its format."""
    try:
        header = image.header(path)
    except (OSError, QvmError):
        return None
    meant = image.local_file(path, header.backing) if header.format == "qcow2" and header.backing else None
    return (os.path.normpath(meant[0]), header.backing_format) if meant else None


def forget_bitmaps(made: BaseMachine) -> None:
    """Dirty bitmaps record changes since archives of the machine that was packed."""
    for each in _own_drives(made):
        if each.format == "qcow2" and not each.left_out and os.path.exists(each.path):
            qemuimg.remove_bitmaps(programs.find("qemu-img"), each.path)
