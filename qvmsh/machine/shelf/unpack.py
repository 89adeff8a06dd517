"""The members of a package into an empty folder; nothing of it is believed before it was checked.

    found = unpack(source, "demo.tar.gz", folder, io)
    found.manifest          # None for a package of another tool
    found.names             # ["disk.s2e", "disk.s2e.ready"]

A package of qvm holds what its manifest names, with those sizes and checksums. Of any other one all regular
files are taken. Links, devices and the like are refused, wherever they lead.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from qvmsh.errors import ImageError, QvmError, printable
from qvmsh.host import files as host_files
from qvmsh.host import scan, tar_reader
from qvmsh.machine.progress import size
from qvmsh.machine.shelf import manifest, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from qvmsh.host.tar_reader import Member
    from qvmsh.machine.shelf.manifest import Item, Manifest

RESERVE_BYTES = 16 << 20
"""What must stay free."""
OTHER = "get the package again, from somebody whom you trust"
_STATE = ("snapshots.json", "uuid")
"""What is taken from a `.qvm`, besides TPM and keys."""


@dataclass
class Unpacked:
    """What is in the folder now.

    Args:
        names: of the files, from the folder.
        passed: members that belong to a run of the machine where it was, not to the machine.
    """

    manifest: Manifest | None = None
    names: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)


def unpack(
    read: Callable[[int], bytes],
    label: str,
    folder: str,
    checkpoint: Callable[[], None],
    begun: Callable[[Manifest], object] = lambda _: None,
) -> Unpacked:
    """Write all members; see above.

    Args:
        begun: called with the manifest before anything is written.

    Raises:
        ImageError: the package is refused; the text says why.
        OSError: a file cannot be written.
    """
    return _Unpacking(read, label, folder, checkpoint).result(begun)


class _Unpacking:
    def __init__(
        self, read: Callable[[int], bytes], label: str, folder: str, checkpoint: Callable[[], None]
    ) -> None:
        self._reader = tar_reader.Reader(read, label)
        self._label = printable(label)
        self._folder = folder
        self._checkpoint = checkpoint
        self._names = names.Names()
        self._found = Unpacked()
        self._left_bytes = host_files.free_bytes(folder) - RESERVE_BYTES

    def result(self, begun: Callable[[Manifest], object]) -> Unpacked:
        found = self._found
        is_first = True
        for member in self._reader:
            self._checkpoint()
            name = self._clean_name(member)
            if member.kind not in ("file", "folder"):
                self._refuse(f"it holds {member.kind}: {name}")
            if is_first and name == manifest.NAME and member.kind == "file":
                found.manifest = self._manifest(member)
                begun(found.manifest)
                self._add(name)
                is_first = False
                continue
            is_first = False
            if name == manifest.NAME and not found.manifest:
                self._refuse(f"{manifest.NAME} is not its first member, so nothing could be checked by it")
            self._add(name, is_folder=member.kind == "folder")
            if member.kind == "folder":
                continue
            if found.manifest:
                self._put_named(found.manifest, member, name)
            elif _is_wanted(name):
                self._put(member, name, _mode(member))
            else:
                found.passed.append(name)
        if found.manifest:
            lacking = [each for each in found.manifest.files if each not in found.names]
            if lacking:
                self._refuse(f"{lacking[0]} is missing")
        elif not found.names:
            self._refuse("it holds no file")
        return found

    def _refuse(self, why: str) -> NoReturn:
        raise ImageError(f"{self._label}: {printable(why)}", hint=OTHER)

    def _clean_name(self, member: Member) -> str:
        try:
            return names.clean(member.name)
        except names.Refused as error:
            self._refuse(f"it holds {member.name[:80]!r}: {error}")

    def _add(self, name: str, *, is_folder: bool = False) -> None:
        try:
            if name:
                self._names.add(name, is_folder=is_folder)
            elif not is_folder:
                self._refuse("it holds a file without a name")
        except names.Refused as error:
            self._refuse(f"it holds {name!r}: {error}")

    def _manifest(self, member: Member) -> Manifest:
        if member.size_bytes > manifest.MAX_BYTES or member.stored_bytes != member.size_bytes:
            self._refuse(f"its manifest has more than {size(manifest.MAX_BYTES)}, or holes")
        data = b"".join(piece for _, piece in member.data())
        try:
            found = manifest.parse(data)
            for each in found.files:
                if names.clean(each) != each or not _is_of_package(each):
                    raise names.Refused(f"{each!r} is not a file of a machine")
        except (ValueError, names.Refused) as error:
            self._refuse(f"its manifest is not valid: {error}")
        if ".vmrc" not in found.files:
            self._refuse("its manifest names no .vmrc")
        return found

    def _put_named(self, found: Manifest, member: Member, name: str) -> None:
        item = found.files.get(name)
        if item is None:
            self._refuse(f"it holds {name}, which its manifest does not name")
        if member.size_bytes != item.size:
            self._refuse(
                f"{name} has {member.size_bytes} bytes, but the manifest says {item.size}: "
                "one of them was changed"
            )
        is_of_data = item.sha256.startswith(scan.OF_DATA)
        if not is_of_data and member.size_bytes - member.stored_bytes > scan.MOST_HASHED_BYTES:
            self._refuse(f"{name} has holes of {size(member.size_bytes - member.stored_bytes)}")
        is_plain = item.role in (manifest.FILE, manifest.SETTINGS)
        mode = (0o755 if member.mode & 0o100 else 0o644) if is_plain else 0o600
        total = scan.Sha256(is_of_data=is_of_data)
        self._put(member, name, mode, total)
        self._require_sum(item, total)

    def _require_sum(self, item: Item, total: scan.Sha256) -> None:
        if total.digest(item.size) != item.sha256:
            self._refuse(f"{item.name} is not what it was when it was exported: its checksum differs")

    def _put(self, member: Member, name: str, mode: int, total: scan.Sha256 | None = None) -> None:
        """Write one file, with holes where it has zeros, and on the disk when this returns."""
        if member.stored_bytes > self._left_bytes:
            raise QvmError(
                f"{self._label}: not enough free space for {name}: it takes {size(member.stored_bytes)}, "
                f"only {size(max(0, self._left_bytes))} is free",
                hint="free some space, or choose another place",
            )
        path = os.path.join(self._folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with host_files.new(path) as file:
            fd = file.fileno()
            os.fchmod(fd, mode)
            os.ftruncate(fd, member.size_bytes)
            for at, data in member.data():
                if total:
                    total.add(at, data)
                for first, length in scan.parts(data):
                    host_files.write_at(fd, data[first : first + length], at + first)
                self._checkpoint()
            os.fsync(fd)
        self._left_bytes -= member.stored_bytes
        self._found.names.append(name)


def _mode(member: Member) -> int:
    return member.mode & 0o755 | 0o600


def _below_state(name: str) -> str:
    """What follows `.qvm/` in a name, whether or not a folder is in front; "" if it is not in there."""
    parts = name.split("/")
    for at in (0, 1):
        if len(parts) > at + 1 and parts[at] == ".qvm":
            return "/".join(parts[at + 1 :])
    return ""


def _is_wanted(name: str) -> bool:
    """False for what a machine's `.qvm` holds of its runs and of its host."""
    rest = _below_state(name)
    return not rest or rest in _STATE or _is_kept(rest)


def _is_kept(rest: str) -> bool:
    first, _, more = rest.partition("/")
    if first == "tpm":
        return bool(more) and not os.path.basename(more).startswith(".lock")
    return not more and first.startswith("id_")


def _is_of_package(name: str) -> bool:
    """True for a file that an `export` may have put into a package."""
    if name != ".qvm" and not name.startswith(".qvm/"):
        return name != manifest.NAME and not names.is_of_others(name)
    rest = name.removeprefix(".qvm/")
    return rest == "snapshots.json" or _is_kept(rest)
