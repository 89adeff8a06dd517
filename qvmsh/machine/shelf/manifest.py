"""The manifest of a package, `qvm.json`: its first member.

    text = Manifest(machine="demo", ...).text()
    manifest = parse(data)               # ValueError: what is wrong with it
    manifest.files[".vmrc"].sha256

Sizes, checksums and roles of all other members in their order; snapshots; what was left out, and why. A
package may come from anywhere: `parse` checks every value.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field

from qvmsh.host.tar_reader import MOST_MEMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

NAME = "qvm.json"
VERSION = 1
MAX_BYTES = 8 << 20
MOST_TEXTS = 10_000
OFF, QUIESCED, CRASH = "off", "quiesced", "crash-consistent"
SETTINGS, SNAPSHOTS, TPM, KEY, FILE = "settings", "snapshots", "tpm", "key", "file"
"""Roles besides those of disks, which are `main`, `disk1` ..., `uefi`, `extra1` ..."""
LAYER = "base of "
"""The role of what a disk is backed by begins so; the disk's role follows."""
_SHA256 = re.compile(r"(data:)?[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|")


@dataclass(frozen=True)
class Item:
    """One file of the package.

    Args:
        name: from the machine's directory.
        sha256: of all its bytes; `data:` before it: see `scan.Sha256`.
        role: `settings`, `main`, `base of main`, `disk1`, `uefi`, `tpm`, `snapshots`, `key`, `file`, ...
        format: of an image, else "".
    """

    name: str
    size: int
    sha256: str
    role: str
    format: str = ""


@dataclass(frozen=True)
class LeftOut:
    """What belongs to the machine and is not in the package."""

    name: str
    why: str


@dataclass(frozen=True)
class Manifest:
    """A whole machine.

    Args:
        qemu: QEMU's version; "" where it is not known.
        machine_type: VM_QEMU_MACHINE.
        consistency: `off`, `quiesced` or `crash-consistent`.
        snapshots: names of the internal snapshots of the machine's own disk.
        files: by name, in their order.
    """

    machine: str
    uuid: str
    qemu: str = ""
    machine_type: str = ""
    consistency: str = OFF
    snapshots: tuple[str, ...] = ()
    files: Mapping[str, Item] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()

    def with_sums(self, sums: Mapping[str, str]) -> Manifest:
        """The same with the checksums of these files."""
        files = {
            name: dataclasses.replace(each, sha256=sums.get(name, each.sha256))
            for name, each in self.files.items()
        }
        return dataclasses.replace(self, files=files)

    def text(self) -> str:
        """The contents of the member."""
        found = {
            "qvm_package": VERSION,
            "machine": self.machine,
            "uuid": self.uuid,
            "qemu": self.qemu,
            "machine_type": self.machine_type,
            "consistency": self.consistency,
            "snapshots": list(self.snapshots),
            "files": [dataclasses.asdict(each) for each in self.files.values()],
            "left_out": [dataclasses.asdict(each) for each in self.left_out],
        }
        return json.dumps(found, indent=1) + "\n"


def parse(data: bytes) -> Manifest:
    """The manifest in a package.

    Raises:
        ValueError: it is not one; the text says why.
    """
    try:
        found = json.loads(data.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it is not JSON") from None
    value = _Object("the manifest", found)
    version = value.number("qvm_package")
    if version != VERSION:
        raise ValueError(f"it is of version {version}, and this qvm knows version {VERSION}")
    files = [_item(each) for each in value.rows("files")]
    if len(files) > MOST_MEMBERS:
        raise ValueError(f"it names more than {MOST_MEMBERS} files")
    by_name = {each.name: each for each in files}
    if len(by_name) < len(files):
        raise ValueError("it names a file twice")
    uuid = value.text("uuid")
    if not _UUID.fullmatch(uuid):
        raise ValueError("uuid is not valid")
    return Manifest(
        value.text("machine"), uuid, value.text("qemu"), value.text("machine_type"),
        value.text("consistency"), value.texts("snapshots"), by_name,
        tuple(LeftOut(each.text("name"), each.text("why")) for each in value.objects("left_out")),
    )  # fmt: skip


def _item(row: Any) -> Item:
    value = _Object("files", row)
    name, size, sha256 = value.text("name"), value.number("size"), value.text("sha256")
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"the checksum of {name[:80]!r} is not valid")
    return Item(name, size, sha256, value.text("role"), value.text("format"))


class _Object:
    """A JSON object whose values are checked when they are read."""

    def __init__(self, what: str, found: Any) -> None:
        if not isinstance(found, dict):
            raise ValueError(f"{what} is not a JSON object")
        self._what = what
        self._found = found

    def text(self, key: str) -> str:
        return _text(key, self._found.get(key))

    def number(self, key: str) -> int:
        found = self._found.get(key)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 1 << 63:
            raise ValueError(f"{key} is not a number of bytes or a version")
        return found

    def rows(self, key: str) -> list[Any]:
        found = self._found.get(key)
        if not isinstance(found, list):
            raise ValueError(f"{key} is not a list")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        found = self.rows(key)
        if len(found) > MOST_TEXTS:
            raise ValueError(f"{key} is too long")
        return tuple(_text(key, each) for each in found)

    def objects(self, key: str) -> list[_Object]:
        found = self.rows(key)
        if len(found) > MOST_TEXTS:
            raise ValueError(f"{key} is too long")
        return [_Object(key, each) for each in found]


def _text(key: str, found: Any) -> str:
    if not isinstance(found, str) or "\0" in found:
        raise ValueError(f"{key} is not a text")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key} is not valid Unicode") from None
    return found
