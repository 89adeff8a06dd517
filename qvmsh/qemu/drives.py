"""The disks that a QEMU argument list names, for the user's own arguments.

    drives(["-drive", "file=data.raw,format=raw,if=virtio"])     # [Drive("drive0", "data.raw", "raw")]

Only what holds data is listed: not `-drive media=cdrom`, not what is discarded (`snapshot=on`, or `-snapshot`
for all but `-blockdev`).
Source: qemu-system(1).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from qvmsh.qemu.qmp import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

_PLAIN = ("hda", "hdb", "hdc", "hdd", "sd", "mtdblock", "pflash", "fda", "fdb")
_PROTOCOLS = ("file", "host_device")
_TRUE = ("on", "yes", "true", "y")


@dataclass(frozen=True)
class Drive:
    """One disk.

    Args:
        id: its name in the words, else `drive0`, `drive1`, ...
        file: as in the words, but without `file:`, which QEMU takes off, too.
        format: "" if the words leave it to QEMU's guess.
        is_flash: it is a flash chip, such as UEFI's variables.
    """

    id: str
    file: str
    format: str = ""
    is_read_only: bool = False
    is_flash: bool = False


def drives(words: Sequence[str]) -> list[Drive]:
    """The disks in an argument list; everything that is not understood is left out."""
    found: list[Drive] = []
    nodes: list[dict[str, Any]] = []
    for word, value in pairwise([*words, ""]):
        option = word.lstrip("-") if word.startswith("-") else ""
        if option in _PLAIN:
            found.append(Drive(f"drive{len(found)}", _plain(value), is_flash=option == "pflash"))
        elif option == "drive":
            each = _of_drive(pairs(value), len(found))
            found += [each] if each else []
        elif option == "blockdev":
            node = _node(value)
            nodes += [node] if node else []
    is_thrown_away = any(word in ("-snapshot", "--snapshot") for word in words)
    return [*([] if is_thrown_away else found), *_of_nodes(nodes)]


def renamed(words: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """The argument list with other names for the files of its disks, everything else as it was.

    Args:
        names: new names by those in the words (`Drive.file`).
    """
    found = list(words)
    for at, (word, value) in enumerate(pairwise([*words, ""])):
        option = word.lstrip("-") if word.startswith("-") else ""
        if option in _PLAIN and _plain(value) in names:
            found[at + 1] = names[_plain(value)]
        elif option == "blockdev" and value.lstrip().startswith("{"):
            node = _node(value)
            if node is not None:
                found[at + 1] = dumps(_renamed(node, names))
        elif option in ("drive", "blockdev"):
            rows = pairs(value)
            meant = {key: rows.get(key, "") for key in ("file", "file.filename", "filename")}
            if option == "drive":
                meant["file"] = _plain(meant["file"])
            keys = [key for key in meant if meant[key] in names]
            rows |= {key: names[meant[key]] for key in keys}
            if keys:
                found[at + 1] = ",".join(_pair(key, text, value) for key, text in rows.items())
    return found


def _renamed(node: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for key, value in node.items():
        if isinstance(value, dict):
            value = _renamed(value, names)
        elif key == "filename" and isinstance(value, str):
            value = names.get(value, value)
        found[key] = value
    return found


def _pair(key: str, text: str, before: str) -> str:
    """A pair as it is written in a word; a key without a value is written alone."""
    bare = key in before.split(",") and not text
    return key if bare else f"{key}={text.replace(',', ',,')}"


def _plain(file: str) -> str:
    """The file that a protocol's name stands before. Source: QEMU's bdrv_parse_filename_strip_prefix."""
    return file.removeprefix("file:")


def _of_drive(values: dict[str, str], number: int) -> Drive | None:
    file = values.get("file") or values.get("file.filename")
    if not file or values.get("media") == "cdrom" or values.get("snapshot") in _TRUE:
        return None
    is_read_only = values.get("readonly", values.get("read-only")) in _TRUE
    name = values.get("id") or f"drive{number}"
    kind = values.get("format") or values.get("driver", "")
    return Drive(name, _plain(file), kind, is_read_only, values.get("if") == "pflash")


def pairs(text: str) -> dict[str, str]:
    """`a=1,b=x,,y` as a dict: a doubled comma is one in a value."""
    found, part = {}, ""
    pieces = text.split(",")
    while pieces:
        part += pieces.pop(0)
        if len(pieces) > 1 and pieces[0] == "":
            pieces.pop(0)
            part += ","
            continue
        key, _, value = part.partition("=")
        found[key] = value
        part = ""
    return found


def _node(value: str) -> dict[str, Any] | None:
    if not value.lstrip().startswith("{"):
        return dict(pairs(value))
    try:
        node = loads(value)
    except (ValueError, StopIteration):
        return None
    return node if isinstance(node, dict) else None


def _of_nodes(nodes: list[dict[str, Any]]) -> Iterable[Drive]:
    by_name = {str(node.get("node-name")): node for node in nodes}
    used = {str(node[key]) for node in nodes for key in ("file", "backing") if isinstance(node.get(key), str)}
    for node in nodes:
        name, kind = str(node.get("node-name", "")), str(node.get("driver", ""))
        file = _filename(node, by_name)
        if name in used or not file:
            continue
        is_read_only = node.get("read-only") in (True, *_TRUE)
        yield Drive(name or "blockdev", file, "raw" if kind in _PROTOCOLS else kind, is_read_only)


def _filename(node: dict[str, Any], by_name: dict[str, dict[str, Any]]) -> str:
    """The file at the bottom of a node."""
    for _ in range(8):
        below = node.get("file")
        if isinstance(below, str) and below in by_name:
            node = by_name[below]
        elif isinstance(below, dict):
            node = below
        else:
            return str(node.get("filename") or node.get("file.filename") or "")
    return ""
