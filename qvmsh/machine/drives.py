"""All disks of a machine as one unit: its own, those of VM_DISKS and VM_QEMU_EXTRA, UEFI's variables.

May import: `qemu`, `machine`.

    for drive in of(vm): print(drive.role, drive.path)         # main /vm/demo/demo-backing.qcow2
    for drive in live(vm, blocks): print(drive.node)           # as the running QEMU has them
"""

from __future__ import annotations

import itertools
import json
import os
import stat
from dataclasses import dataclass, replace

from qvmsh.errors import ImageError
from qvmsh.machine import disks, hardware, tools
from qvmsh.machine.hardware import Launch
from qvmsh.machine.volumes import file_of
from qvmsh.qemu import image, imagecheck

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.machine.machine import Machine

MAIN = "main"


@dataclass(frozen=True)
class Drive:
    """One disk that the guest may write to.

    Args:
        role: `main`, `disk1` ..., `uefi`, `extra1` ...; it stays the same over the runs.
        path: absolute.
        node: QEMU's name of it, "" where QEMU does not run.
        left_out: why its content cannot be taken as a file; "" if it can.
    """

    role: str
    path: str
    format: str
    node: str = ""
    left_out: str = ""

    @property
    def name(self) -> str:
        return os.path.basename(self.path)


def of(vm: Machine) -> list[Drive]:
    """The disks that the configuration names; its own comes first.

    Raises:
        ImageError: its own disk, or one of VM_DISKS, is missing or cannot be used.
    """
    found = []
    words = [*vm.settings.words("VM_QEMU_EXTRA")]
    if hardware.is_by_hand(vm):
        words = [*vm.settings.words("VM_QEMU_ARGS"), *words]
    else:
        supplies = disks.gather(vm)
        disks.require(vm, supplies)
        name = hardware.require_disk(vm, Launch())
        found.append(Drive(MAIN, os.path.join(vm.directory, name), hardware.image_format(vm, name)))
        for each in supplies.further:
            why = "the guest only reads it" if each.line.is_read_only else _no_file(each.path)
            found.append(Drive(each.node, each.path, each.line.driver, left_out=why))
        if supplies.variables and os.path.exists(supplies.variables):
            found.append(Drive("uefi", supplies.variables, "qcow2"))
    for path, kind in _named(words):
        path = os.path.join(vm.directory, path)
        if os.path.exists(path):
            role = f"extra{sum(each.role.startswith('extra') for each in found) + 1}" if found else MAIN
            found.append(Drive(role, path, kind or image.header(path).format, left_out=_no_file(path)))
    return found


def live(vm: Machine, blocks: Sequence[dict[str, Any]]) -> list[Drive]:
    """The disks that a running QEMU writes to, by what it says (`query-block`), with their roles.

    Raises:
        ImageError: it does not have the machine's own disk.
    """
    known = of(vm)
    found = []
    for block in blocks:
        inserted = block.get("inserted")
        if not inserted or inserted["ro"]:
            continue
        node, name = inserted["node-name"], file_of(inserted["image"]["filename"])
        path = os.path.join(vm.directory, name)
        mine = [each for each in known if same(each.path, path)]
        if mine:
            found.append(replace(mine[0], node=node))
        else:
            why = _no_file(path) if os.path.exists(path) else "it is no file of this host"
            role = f"extra{sum(each.role.startswith('extra') for each in (*known, *found)) + 1}"
            found.append(Drive(role, path, inserted["drv"], node, why))
    roles = {each.role for each in found}
    for each in known:
        if each.role == MAIN and MAIN not in roles:
            raise ImageError(f"QEMU does not have {each.name} open, the machine's own disk", machine=vm.name)
        if each.role not in roles:
            why = each.left_out or "the machine was started without it"
            found.append(replace(each, left_out=why))
    order = [each.role for each in known]
    return sorted(found, key=lambda each: order.index(each.role) if each.role in order else len(order))


def same(one: str, other: str) -> bool:
    """True if two paths lead to the same file."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def below(vm: Machine, drive: Drive) -> list[tuple[str, str]]:
    """What a disk stands on, the nearest first: path and format of each layer.

    Raises:
        ImageError: one of them is missing.
    """
    layers = imagecheck.chain(tools.qemu_img(vm), drive.path, drive.format)
    return [(layer.path, layer.format) for layer in layers[1:]]


def _no_file(path: str) -> str:
    try:
        return "" if stat.S_ISREG(os.stat(path).st_mode) else "it is no file"
    except OSError:
        return ""


def _named(words: Sequence[str]) -> list[tuple[str, str]]:
    """Path and format ("" where it is not said) of the writable disks in words for QEMU."""
    found = []
    for word, value in itertools.pairwise(words):
        option = "-" + word.lstrip("-") if word.startswith("-") else ""
        if option in ("-hda", "-hdb", "-hdc", "-hdd"):
            found.append((value, ""))
        elif option == "-drive":
            keys = _keys(value)
            is_read_only = keys.get("readonly", "off") in ("on", "true") or keys.get("media") == "cdrom"
            if keys.get("file") and not is_read_only and keys.get("if") != "pflash":
                found.append((keys["file"], keys.get("format", "")))
        elif option == "-blockdev":
            keys = _flat(json.loads(value)) if value.startswith("{") else _keys(value)
            path = keys.get("file.filename") or ("" if "file" in keys else keys.get("filename", ""))
            if path and keys.get("driver") != "file" and keys.get("read-only", "off") not in ("on", "true"):
                found.append((path, keys.get("driver", "")))
    return found


def _keys(text: str) -> dict[str, str]:
    """`key=value,...` with doubled commas, as QEMU reads it."""
    parts = text.replace(",,", "\0").split(",")
    pairs = (part.replace("\0", ",").partition("=") for part in parts)
    return {key: value for key, _, value in pairs}


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, each in value.items():
        if isinstance(each, dict):
            found |= _flat(each, f"{prefix}{key}.")
        else:
            found[prefix + key] = {True: "on", False: "off"}.get(each, str(each))
    return found
