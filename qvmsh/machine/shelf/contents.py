"""What of a machine goes into a package, and under which names.

    found = gather(vm, drives.of(vm), has_keys=False)
    found.files            # [Taken("demo-base.qcow2", "/vm/demo/demo-base.qcow2", "base of main"), ...]
    found.vmrc             # the text of `.vmrc`, whose disks are all in the package

A disk from elsewhere is put into `disks/`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace

from qvmsh.config import edit, files, trust
from qvmsh.config.words import joined
from qvmsh.errors import ConfigError, ImageError, QvmError
from qvmsh.host import files as host_files
from qvmsh.machine import programs
from qvmsh.machine.archive import changes, drives, settings
from qvmsh.machine.create import layers as create_layers
from qvmsh.machine.restore.new_machine import free_name, line_of
from qvmsh.machine.shelf import manifest, names, tar_format
from qvmsh.machine.snapshot import of_s2e
from qvmsh.machine.storage import path_settings, supplies
from qvmsh.machine.storage.path_settings import WORDS, between
from qvmsh.machine.storage.shift import Shift
from qvmsh.qemu import drives as qemu_drives
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.machine.archive.drives import Drive
    from qvmsh.machine.machine import BaseMachine

OUTSIDE = "disks"
"""The folder for disks that were not in the machine's directory."""
KEPT = os.path.join(".qvm", "snapshots.json")
_TPM = os.path.join(".qvm", "tpm", "")
_PRIVATE = re.compile(rb"^-----BEGIN [A-Z ]*PRIVATE KEY-----", re.MULTILINE)
_KEY_BYTES = 16384
FRESH_NS = tar_format.DATE_S * 10**9
"""The date of a base in the metadata of a snapshot, if it is the one that the snapshot was made on."""


@dataclass(frozen=True)
class Taken:
    """One file that is read from the host.

    Args:
        name: in the package.
        path: on the host.
        backing: name and format of what it is backed by in the package, where its header must be changed.
    """

    name: str
    path: str
    role: str
    format: str = ""
    mode: int = 0o600
    backing: tuple[str, str] | None = None


@dataclass
class Contents:
    """All of it, and what is not in it."""

    vmrc: str
    snapshots: str = ""
    files: list[Taken] = field(default_factory=list)
    left_out: list[manifest.LeftOut] = field(default_factory=list)


def gather(vm: BaseMachine, found: Sequence[Drive], *, has_keys: bool) -> Contents:
    """What goes into the package.

    Raises:
        ConfigError: the machine is broken: a disk is missing.
        ImageError: a disk cannot be packed.
    """
    taken = [_with_content(each) for each in found]
    wanted = [each for each in taken if not each.left_out]
    if not wanted:
        raise ConfigError(
            "cannot export: the machine has no disk that qvm knows of", machine=vm.name,
            hint="`qvm disk add data.qcow2 10G` adds one; with hardware by hand, -drive or -hda does",
        )  # fmt: skip
    images = _Images(vm, wanted)
    elsewhere = Shift(vm.directory, f"{vm.directory}.package")
    text = path_settings.relocatable(vm, elsewhere, files.read(vm.files.vmrc).text, "export")
    result = Contents(_with_disks_inside(vm, text, images.moved), files=images.files)
    result.snapshots = _snapshots(vm, images.places)
    result.left_out += [
        manifest.LeftOut(_shown(vm, each.path), each.left_out) for each in taken if each.left_out
    ]
    others = [*images.places, create_layers.Layers(vm).seed]
    small = settings.gather(vm, taken, others)
    known = {each.name for each in result.left_out}
    rows = [(_shown(vm, path), why) for path, why in small.left_out]
    result.left_out += [manifest.LeftOut(name, why) for name, why in rows if name not in known]
    for name in [*small.names, trust.RC, *map(vm.files.inside, of_s2e.paths(vm).values())]:
        _add_small(vm, name, result, has_keys=has_keys)
    _require_names(vm, result)
    return result


def _with_content(drive: Drive) -> Drive:
    """A disk that the guest only reads belongs to the machine too."""
    if drive.left_out == drives.READ_ONLY and os.path.isfile(drive.path):
        return replace(drive, left_out="")
    return drive


def _shown(vm: BaseMachine, path: str) -> str:
    return vm.files.inside(path)


class _Images:
    """The disks with all that they are backed by.

    `places`: the name in the package by the path on the host; `moved`: those from outside.
    """

    def __init__(self, vm: BaseMachine, wanted: Sequence[Drive]) -> None:
        self.vm = vm
        self.files: list[Taken] = []
        self.places: dict[str, str] = {}
        self.moved: dict[str, str] = {}
        self._names: dict[str, str] = {}  # by the real path: one file may have several
        self._taken_names: set[str] = set()
        chains = [(each, [(each.path, each.format), *drives.below(vm, each)]) for each in wanted]
        inside = [path for _, chain in chains for path, _ in chain if not self._is_outside(path)]
        self._taken_names.update(os.path.relpath(path, vm.directory) for path in inside)
        for drive, chain in chains:
            for at in range(len(chain) - 1, -1, -1):
                below = chain[at + 1] if at + 1 < len(chain) else None
                self._add(drive.role, *chain[at], is_layer=at > 0, below=below)

    def _is_outside(self, path: str) -> bool:
        return os.path.relpath(path, self.vm.directory).startswith("..")

    def _add(self, role: str, path: str, form: str, *, is_layer: bool, below: tuple[str, str] | None) -> None:
        if image.has_other_files(path, form):
            raise ImageError(
                f"cannot export: {os.path.basename(path)} keeps its data in another file",
                machine=self.vm.name, hint=f"`{qemuimg.converted(path, form)}` makes one image of both",
            )  # fmt: skip
        real = os.path.realpath(path)
        is_new = real not in self._names
        if is_new:
            name = os.path.relpath(path, self.vm.directory)
            if self._is_outside(path):
                name = free_name(os.path.join(OUTSIDE, os.path.basename(path)), self._taken_names)
                self._taken_names.add(name)
            self._names[real] = name
        name = self._names[real]
        self.places |= {path: name, os.path.normpath(path): name, real: name}
        if self._is_outside(path) and not is_layer:
            self.moved[path] = name
        if is_new:
            full_role = f"{manifest.LAYER}{role}" if is_layer else role
            backing = self._backing(path, name, form, below)
            self.files.append(Taken(name, path, full_role, form, backing=backing))

    def _backing(
        self, path: str, name: str, form: str, below: tuple[str, str] | None
    ) -> tuple[str, str] | None:
        """What its header must say, if it does not say that already."""
        if below is None:
            return None
        if form != "qcow2":
            raise ImageError(
                f"cannot export: {os.path.basename(path)} is backed by another image, and in format {form} "
                "that cannot be changed",
                machine=self.vm.name, hint=f"`{qemuimg.converted(path, form)}` makes one image of both",
            )  # fmt: skip
        wanted = os.path.relpath(self.places[below[0]], os.path.dirname(name) or ".")
        header = image.header(path, form)
        is_right = (os.path.normpath(header.backing), header.backing_format) == (wanted, below[1])
        return None if is_right else (wanted, below[1])


def staged(vm: BaseMachine, each: Taken) -> str:
    """A copy of an overlay that names its base as it is in the package.

    Args:
        each: one with `backing`.
    """
    assert each.backing is not None
    path = changes.staged(vm, ".qcow2")
    need, free = os.stat(each.path).st_blocks * 512, host_files.free_bytes(vm.files.state)
    if need > free:
        raise QvmError(
            f"cannot export: {os.path.basename(each.path)} must be copied to change the name of its base in "
            "it, and there is not enough free space for that",
            machine=vm.name, hint="free some space, or put its base into the machine's directory",
        )  # fmt: skip
    host_files.copy(each.path, path, vm.io.checkpoint)
    words = ["rebase", "-u", "-f", "qcow2", "-F", each.backing[1], "-b", f"./{each.backing[0]}"]
    qemuimg.run(programs.qemu_img(vm), [*words, path], what=f"export {os.path.basename(each.path)}")
    return path


def _with_disks_inside(vm: BaseMachine, text: str, moved: dict[str, str]) -> str:
    """The `.vmrc` with the places that disks from elsewhere have in the package."""
    if not moved:
        return text
    disks = supplies.additional_disks(vm)
    if any(each.path in moved for each in disks):
        names = {each.path: between(each.name, vm.directory, ".") for each in disks}
        lines = [line_of((names | moved)[each.path], each.line) for each in disks]
        text = edit.assign(text, "VM_DISKS", "\n".join(lines))
    for variable in WORDS:
        words = vm.settings.words(variable)
        renamed = {
            each.file: moved[path]
            for each in qemu_drives.drives(words)
            if (path := os.path.normpath(os.path.join(vm.directory, each.file))) in moved
        }
        if renamed:
            renamed = {old: f"./{now}" if ":" in now else now for old, now in renamed.items()}
            words = [between(each, vm.directory, ".") for each in qemu_drives.renamed(words, renamed)]
            text = edit.assign(text, variable, joined(words))
    return text


def _add_small(vm: BaseMachine, name: str, result: Contents, *, has_keys: bool) -> None:
    path = os.path.join(vm.directory, name)
    if name in (".vmrc", KEPT) or os.path.islink(path) or not os.path.isfile(path):
        return
    is_key = _is_key(path)
    inside = name.partition(os.path.join(".qvm", ""))
    is_state = not inside[0] and bool(inside[1])
    if is_key and not has_keys:
        if name.endswith(".pub"):  # reported with the key itself
            return
        result.left_out.append(manifest.LeftOut(name, "it is a private key (--with-keys takes it)"))
        return
    if name.startswith(_TPM):
        role, mode = manifest.TPM, 0o600
    elif is_key:
        role, mode = manifest.KEY, 0o600
    elif is_state:
        return
    else:
        role, mode = manifest.FILE, 0o755 if os.stat(path).st_mode & 0o100 else 0o644
    result.files.append(Taken(name, path, role, mode=mode))


def _is_key(path: str) -> bool:
    """True for a private key, and for the public half beside one."""
    try:
        with open(host_files.opened(path.removesuffix(".pub")), "rb") as file:
            return bool(_PRIVATE.search(file.read(_KEY_BYTES)))
    except OSError:
        return False


def _require_names(vm: BaseMachine, result: Contents) -> None:
    """Refuse names that no import would take."""
    known = names.Names()
    for name in (manifest.NAME, ".vmrc", KEPT, *(each.name for each in result.files)):
        try:
            if names.clean(name) != name:
                raise names.Refused("it is not the shortest form of its path")
            known.add(name)
        except names.Refused as error:
            raise ConfigError(
                f"cannot export {name}: {error}", machine=vm.name,
                hint="rename the file, and where the settings name it",
            ) from None  # fmt: skip


def _snapshots(vm: BaseMachine, places: dict[str, str]) -> str:
    """`.qvm/snapshots.json` with the names of the package, and without host keys; "" if there is none."""
    try:
        document = host_files.document(vm.files.snapshots)
        for row in document["snapshots"]:
            row.pop("host_keys", None)
            row["disks"] = [places.get(each, each) for each in row.get("disks") or ()]
            for each in row.get("images") or ():
                each["file"] = places.get(each.get("file"), each.get("file"))
                if base := each.get("base"):
                    _packed_base(base, places)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""  # missing or invalid: the images have the snapshots themselves
    return json.dumps(document, indent=1) + "\n"


def _packed_base(base: dict[str, Any], places: dict[str, str]) -> None:
    """The date of a base says only whether it is still the one that the snapshot reads from."""
    path = base["file"]
    try:
        now = os.stat(path)
        is_same = (now.st_size, now.st_mtime_ns) == (base["size_bytes"], base["mtime_ns"])
    except OSError:
        is_same = False
    base.update(file=places.get(path, path), mtime_ns=FRESH_NS if is_same else 0, ctime_ns=0)
