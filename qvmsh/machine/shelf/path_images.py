"""The images and links in a machine's directory that name other files, and writing them in another way.

    changes = relocatable(vm, Shift("/vm/web", "/big/web"), "move")     # nothing is changed yet
    apply(vm, changes)                          # now they mean the same files, from there too
    apply(vm, renamed(vm, {"web-base.qcow2": "mail-base.qcow2"}))       # the files have their new names

An image that names its base, or a link that leads, into the machine's own directory by a whole path gets a
path from its own folder instead: that means the same before the directory is moved and after. Archives stay
as they are: their files must match their manifest.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field

from qvmsh.config import devices
from qvmsh.config.words import quote
from qvmsh.errors import QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.machine import programs
from qvmsh.machine.storage import chain, dependents, volumes
from qvmsh.machine.storage.path_settings import other_file
from qvmsh.machine.storage.shift import INSIDE, OTHER, SAME, Shift
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qvmsh.machine.machine import BaseMachine

NEW_LINK = os.path.join(".qvm", "link.new")
"""A link on its way to its name."""


@dataclass
class Changes:
    """What is to be written.

    Args:
        bases: image, the name of its base, the format of that.
        links: link, and where it leads.
    """

    bases: list[tuple[str, str, str]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)


def apply(vm: BaseMachine, changes: Changes) -> None:
    """Write them; each step can be done again.

    Raises:
        ImageError: qemu-img cannot change an image.
        OSError: a link cannot be written.
    """
    for path, base, kind in changes.bases:
        words = ["rebase", "-q", "-u", "-f", "qcow2", "-F", kind, "-b", base, image.safe_name(path)]
        name = vm.files.inside(path)
        qemuimg.run(programs.qemu_img(vm), words, cwd=vm.directory, what=f"name the base of {name}")
    for path, text in changes.links:
        part = os.path.join(vm.state_folder(), os.path.basename(NEW_LINK))
        host_files.remove(part)
        os.symlink(text, part)
        os.rename(part, path)
        host_files.sync_folder(os.path.dirname(path))


def relocatable(vm: BaseMachine, shift: Shift, verb: str) -> Changes:
    """What must be written so that images and links mean the same files here and at the new place.

    Args:
        verb: for the errors: `move`.

    Raises:
        StateError: one would mean another file there, and cannot be written in another way.
        ImageError: an image that must be changed is damaged.
    """
    found = Changes()
    if shift.is_still:
        return found
    raw = _raw(vm)
    for path, is_link in _files(vm.directory):
        if is_link:
            _add_link(vm, shift, verb, path, found)
        if not os.path.isdir(path) and os.path.realpath(path) not in raw:
            _add_image(vm, shift, verb, path, found)
    return found


def _files(directory: str) -> Iterator[tuple[str, bool]]:
    """The files and links below a directory, and whether it is a link; not those of archives."""
    for folder, folders, names in os.walk(directory):
        links = [each for each in folders if os.path.islink(os.path.join(folder, each))]
        folders[:] = sorted(each for each in folders if not dependents.is_archive(os.path.join(folder, each)))
        for name in sorted([*links, *names]):
            path = os.path.join(folder, name)
            yield path, os.path.islink(path)


def _raw(vm: BaseMachine) -> set[str]:
    """Raw disks, and raw files below others: a guest may have written any header into them."""
    found = set()
    for disk in volumes.configured(vm, is_to_come=True):
        if disk.format == "raw":
            found.add(os.path.realpath(disk.path))
        with contextlib.suppress(OSError, QvmError):
            layers = chain.layers(disk.path, disk.format, vm.name, vm.directory)
            found |= {os.path.realpath(each.path) for each in layers if each.format == "raw"}
    return found


# Links


def _add_link(vm: BaseMachine, shift: Shift, verb: str, path: str, found: Changes) -> None:
    folder, text = os.path.dirname(path), os.readlink(path)
    meant = os.path.join(folder, text)
    verdict = shift.verdict(folder, text)
    name = vm.files.inside(path)
    there = os.path.join(shift.target, os.path.relpath(folder, vm.directory), text)
    if verdict == OTHER and (os.path.exists(path) or os.path.exists(there)):
        error = other_file(vm, verb, f"the link {name}", text, meant)
        error.hint = f"`ln -sfn {quote(os.path.realpath(path))} {quote(path)}` names it by its whole path"
        raise error
    if verdict == INSIDE:
        found.links.append((path, _from(path, os.path.join(vm.directory, shift.inside(meant) or "."))))


def _from(path: str, target: str) -> str:
    """The path of `target` from the folder of `path`."""
    return os.path.relpath(target, os.path.dirname(path))


# Images


def _add_image(vm: BaseMachine, shift: Shift, verb: str, path: str, found: Changes) -> None:
    header = _header(path)
    if header is None:
        return
    name, folder = f"the image {vm.files.inside(path)}", os.path.dirname(path)
    for each in header.files:
        where = vm.directory if header.format == "qcow2" else folder
        if shift.verdict(where, each) != SAME:
            error = other_file(vm, verb, name, each, os.path.join(where, each))
            error.hint = f"`qemu-img convert -O qcow2 {quote(path)} NEW` makes one file of it"
            raise error
    for meant, text in _meant(path, header):
        verdict = shift.verdict(folder, text)
        if verdict == OTHER:
            error = other_file(vm, verb, name, header.backing, meant)
            if header.format == "qcow2":
                kind = header.backing_format or "FORMAT"
                words = f"-F {kind} -b {quote(os.path.realpath(meant))} {quote(path)}"
                error.hint = f"`qemu-img rebase -u -f qcow2 {words}` names it by its whole path"
            raise error
        if verdict == INSIDE:
            inside = os.path.join(vm.directory, shift.inside(meant) or "")
            found.bases += _rebased(vm, verb, path, header, inside)


def _header(path: str) -> image.Header | None:
    """The header of an image that names other files; None for anything else."""
    try:
        header = image.header(path)
    except (OSError, QvmError):
        return None
    return header if header.backing or header.files else None


def _meant(path: str, header: image.Header) -> list[tuple[str, str]]:
    """The files that an image may be backed by: absolute, and as it is written."""
    if not header.backing:
        return []
    local = image.local_file(path, header.backing)
    files = [local[0]] if local else image.backing_files(path, header.backing)
    is_plain = local is not None and ":" not in header.backing.partition("/")[0]
    return [(each, header.backing if is_plain else each) for each in files]


def _rebased(
    vm: BaseMachine, verb: str, path: str, header: image.Header, base: str
) -> list[tuple[str, str, str]]:
    """The change that lets an image name the file `base` by a path from its own folder.

    StateError: qemu-img cannot do that.
    """
    name = vm.files.inside(path)
    local = image.local_file(path, header.backing)
    real = os.path.realpath(path)
    if os.path.islink(path) and os.path.dirname(real) == os.path.realpath(os.path.dirname(path)):
        return []  # the file itself is in the directory too
    if header.format != "qcow2" or local is None or os.path.islink(path):
        raise StateError(
            f"cannot {verb}: the image {name} names {header.backing}, which would be missing",
            machine=vm.name,
            hint=f"`qemu-img convert -O qcow2 {quote(path)} NEW` makes an image without a base",
        )
    kind = header.backing_format or local[1]
    if header.files or kind not in devices.FORMATS:  # is it what it may be?
        kind = chain.layers(path, "qcow2", vm.name, vm.directory)[1].format
    text = _from(path, base)
    return [(path, image.safe_name(text) if ":" in text else text, kind)] if kind else []


# Files with other names


def renamed(vm: BaseMachine, renames: Mapping[str, str], verb: str = "rename") -> Changes:
    """What must be written where files get other names, or have them already.

    Args:
        renames: new names by old ones, of files and folders, from the machine's directory.

    Raises:
        StateError, ImageError: as `relocatable`.
    """
    found, here = Changes(), Shift(vm.directory, vm.directory)
    raw = _raw(vm)
    for path, is_link in _files(vm.directory):
        folder = os.path.dirname(path)
        if is_link:
            new = _new_name(here.inside(os.path.join(folder, os.readlink(path))), renames)
            if new:
                found.links.append((path, _from(path, os.path.join(vm.directory, new))))
        header = None if os.path.isdir(path) or os.path.realpath(path) in raw else _header(path)
        for meant, _ in _meant(path, header) if header else ():
            new = _new_name(here.inside(meant), renames)
            if new and header:
                found.bases += _rebased(vm, verb, path, header, os.path.join(vm.directory, new))
    return found


def _new_name(inside: str | None, renames: Mapping[str, str]) -> str:
    """The new name of a file, or of what is in a folder that gets another name; "" if it keeps its name."""
    for old, new in renames.items():
        if inside == old:
            return new
        if inside and inside.startswith(f"{old}/"):
            return new + inside[len(old) :]
    return ""
