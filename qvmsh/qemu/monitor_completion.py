"""What QEMU's monitors understand, as the running QEMU lists it: commands, arguments, their values.

words = Vocabulary(ask)                  # ask("query-commands", None): one QMP command
words.human(["info", "bl"])              # [("block", "[-n] [-v] [device]  show info of ..."), ...]
words.machine(["device_del", "id="])     # [("id=nic0", "virtio-net-pci"), ...]
"""

from __future__ import annotations

import functools

from qvmsh.qemu import hmp_help
from qvmsh.qemu.qmp_schema import Schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    Found = list[tuple[str, str]]
    Ask = Callable[[str, "dict[str, Any] | None"], Any]

PERIPHERALS, OBJECTS = "/machine/peripheral", "/objects"


class Vocabulary:
    """The words of one QEMU; its list of commands is remembered.

    Args:
        ask: executes a QMP command and returns what QEMU returns.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._hmp = hmp_help.Completions(self._human, ask)

    def _human(self, line: str) -> str:
        text: str = self._ask("human-monitor-command", {"command-line": line})
        return text.replace("\r\n", "\n")

    @functools.cached_property
    def _schema(self) -> Schema:
        return Schema(self._ask("query-qmp-schema", None))

    def human(self, words: Sequence[str]) -> Found:
        """What the last of the words of an HMP command may become."""
        return [(word.text, word.meaning) for word in self._hmp.of(" ".join(words))]

    def machine(self, words: Sequence[str]) -> Found:
        """What the last of the words of a QMP command (`NAME key=value ...`) may become."""
        found = [(word, "") for word in self._schema.completions(" ".join(words))]
        key, mark, start = words[-1].partition("=")
        if len(words) < 2 or found or not mark:
            return found
        rows = self._things(words[0], key)
        return [(f"{key}={name}", text) for name, text in rows if name.startswith(start)]

    def _things(self, command: str, argument: str) -> Found:
        """What the argument of a QMP command may name in this machine."""
        if command == "device_del":
            return self._children(PERIPHERALS)
        if command == "object-del":
            return self._children(OBJECTS)
        if argument in ("device", "node-name", "device-name", "root-node"):
            return self.disks()
        if argument == "tag":
            return self.snapshots()
        if argument in ("id", "job-id", "name") and "job" in command:
            return [(row["id"], row.get("type", "")) for row in self._ask("query-jobs", None)]
        if argument == "id" and "chardev" in command:
            return [(row["label"], row["filename"]) for row in self._ask("query-chardev", None)]
        if command in ("netdev_del", "set_link"):
            return [(word.text, word.meaning) for word in self._hmp.of("set_link ")]
        return self.disks() + self._children(PERIPHERALS) if argument == "id" else []

    def disks(self) -> Found:
        """The block devices, by the name that commands take: QEMU's own, the node's, the device's."""
        found: dict[str, str] = {}
        for row in self._ask("query-block", None):
            inserted = row.get("inserted", {})
            for name in (row["device"], row.get("qdev", ""), inserted.get("node-name", "")):
                if name and not name.startswith(("#", "/")):
                    found[name] = inserted.get("file", "no medium")
        return sorted(found.items())

    def _children(self, path: str) -> Found:
        """The devices or objects that have a name (`-device ...,id=NAME`)."""
        rows = self._ask("qom-list", {"path": path})
        kinds = ((row["name"], row["type"]) for row in rows)
        return sorted((name, kind[6:-1]) for name, kind in kinds if kind.startswith("child<"))

    def snapshots(self) -> Found:
        """The snapshots in the disks."""
        found: dict[str, str] = {}
        for row in self._ask("query-block", None):
            image = row.get("inserted", {}).get("image", {})
            found.update(snapshot_rows(image.get("snapshots", [])))
        return sorted(found.items())


def snapshot_rows(rows: Iterable[dict[str, Any]]) -> Found:
    """Name and description of the snapshots of an image, in QEMU's and qemu-img's JSON."""
    return [(row["name"], "with memory" if row.get("vm-state-size") else "disk only") for row in rows]
