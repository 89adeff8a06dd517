"""What qvm knows of a machine's snapshots beyond what the images hold: `.qvm/snapshots.json`.

    catalogue = Catalogue.read(vm)
    catalogue.entries["ready"]["message"]      # "before the upgrade"

One JSON object a snapshot. The images decide: an entry without a snapshot in them is stale, a snapshot
without an entry was made by another tool. An invalid file does not stop a command: its valid parts are
used, and it is kept as `snapshots.json.unreadable` before it is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from datetime import datetime

from qvmsh.errors import QvmError
from qvmsh.host import files as host_files
from qvmsh.machine.reports import stamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.snapshot.store import Store
    from qvmsh.machine.storage.volumes import Volume

VERSION = 1

HARDWARE = (
    "VM_MACHINE_ARCH", "VM_QEMU_MACHINE", "VM_QEMU_CPU", "VM_MACHINE_CPUS", "VM_MACHINE_MEM", "VM_DISK_BUS",
    "VM_DISKS", "VM_NET_MODEL", "VM_FIRMWARE", "VM_TPM", "VM_SERIAL", "VM_GUEST_AGENT",
    "VM_GUEST_AGENT_METHOD", "VM_VIRTIO_RNG", "VM_CDROM", "VM_QEMU_EXTRA", "VM_QEMU_ARGS",
)  # fmt: skip
"""The settings that a saved memory depends on."""


KINDS: dict[str, type] = {
    "time": str, "disks": list, "message": str, "parent": str, "memory": bool, "vmstate_bytes": int,
    "frozen": bool, "qemu": str, "machine": str, "arguments": list, "settings": dict, "images": list,
    "host_keys": str, "shares": list,
}  # fmt: skip
"""The fields of an entry; null is allowed for each."""


def json_of(value: object, indent: int | None = None) -> str:
    """A value as JSON, in readable characters where possible."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a path that is not valid UTF-8
        return json.dumps(value, indent=indent)
    return text


def moment(text: str) -> float:
    """The time of an entry, 0 if it has none; without a zone it is local time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


class Catalogue:
    """The entries by name, and the snapshot that the current state descends from ("" = none)."""

    def __init__(
        self, vm: BaseMachine, entries: dict[str, dict[str, Any]], head: str, *, is_broken: bool = False
    ) -> None:
        self.vm = vm
        self.entries = entries
        self.head = head
        self._is_broken = is_broken

    @classmethod
    def read(cls, vm: BaseMachine) -> Catalogue:
        """The contents of the file; empty if it is missing or invalid.

        Raises:
            QvmError: it exists and cannot be read, so the next write would replace it.
        """
        try:
            document = host_files.document(vm.files.snapshots)
        except FileNotFoundError:
            return cls(vm, {}, "")
        except OSError as error:
            raise QvmError(
                f"cannot read .qvm/snapshots.json: {error.strerror}",
                machine=vm.name,
                hint="it describes the snapshots; make it readable, or move it away",
            ) from None
        except ValueError as error:  # no JSON, no UTF-8
            vm.io.warn(f"{vm.name}: .qvm/snapshots.json is not JSON ({error}) and is ignored")
            return cls(vm, {}, "", is_broken=True)
        entries, head, wrong = _sane(document)
        if wrong:
            vm.io.warn(f"{vm.name}: .qvm/snapshots.json: {wrong[0]} is invalid and is ignored")
        return cls(vm, entries, head, is_broken=bool(wrong))

    def text(self) -> str:
        """The contents of the file."""
        rows = sorted(self.entries.values(), key=lambda each: moment(str(each.get("time"))))
        document = {"version": VERSION, "head": self.head or None, "snapshots": rows}
        return json_of(document, indent=1) + "\n"

    def write(self) -> None:
        """Replace the file in one step; an invalid one is kept under another name."""
        text = self.text()
        self.vm.state_folder()
        if self._is_broken:
            aside = self.vm.files.snapshots + ".unreadable"
            if os.path.lexists(aside):
                aside += time.strftime("-%Y-%m-%dT%H-%M-%S")
            with contextlib.suppress(OSError):  # gone, or the disk is full
                os.link(self.vm.files.snapshots, aside)
                self.vm.io.warn(f"{self.vm.name}: the old .qvm/snapshots.json is kept as {aside}")
            self._is_broken = False
        host_files.write_atomic(self.vm.files.snapshots, text)

    def add(self, entry: dict[str, Any]) -> None:
        """A snapshot was taken: the current state descends from it."""
        self.forget(entry["name"])  # children of the one that it replaces are not its own
        self.entries[entry["name"]] = entry
        self.head = entry["name"]
        self.write()

    def remove(self, name: str) -> None:
        """A snapshot is gone."""
        self.forget(name)
        self.write()

    def forget(self, name: str) -> None:
        """Remove it in memory only: its children become those of its parent."""
        gone = self.entries.pop(name, None)
        parent = (gone or {}).get("parent") or ""
        for each in self.entries.values():
            if each.get("parent") == name:
                each["parent"] = parent or None
        if self.head == name:
            self.head = parent

    def relocate(self, path: Callable[[str], str], value: Callable[[str, str], str]) -> None:
        """Files were renamed or moved: change what names them, in memory only.

        Args:
            path: the new path of a file.
            value: the new value of a setting, by its name and its old one.
        """
        for entry in self.entries.values():
            if "disks" in entry:
                entry["disks"] = [path(each) for each in entry["disks"]]
            if "settings" in entry:
                entry["settings"] = {name: value(name, old) for name, old in entry["settings"].items()}
            for row in entry.get("images", ()):
                if row.get("file"):
                    row["file"] = path(row["file"])
                if row.get("base"):
                    row["base"]["file"] = path(row["base"]["file"])

    def moved_to(self, name: str) -> None:
        """The machine went back to a snapshot; its guest has the host keys it had then, or makes new ones."""
        pinned = self.entries.get(name, {}).get("host_keys")
        if pinned is not None and pinned != _host_keys(self.vm):
            if pinned:
                host_files.write_atomic(self.vm.files.known_hosts, pinned)
            else:
                host_files.remove(self.vm.files.known_hosts)
        if self.head != name:
            self.head = name
            self.write()


def _sane(document: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], str, list[str]]:
    """The entries and the head of a file that may have been edited, and what is invalid in it."""
    if not isinstance(document.get("snapshots"), list):
        return {}, "", ["the whole file"]
    wrong = []
    entries: dict[str, dict[str, Any]] = {}
    for row in document["snapshots"]:
        name = row.get("name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not name:
            wrong.append("a snapshot without a name")
            continue
        entry = dict(row)
        bad = [each for each, kind in KINDS.items() if not isinstance(entry.get(each), kind | None)]
        bad += [each for each in ("disks", "arguments", "shares") if not _are_texts(entry.get(each))]
        settings = entry.get("settings")
        if isinstance(settings, dict) and not _are_texts(list(settings.values())):
            bad.append("settings")
        if not all(map(_is_image, entry["images"] if isinstance(entry.get("images"), list) else ())):
            bad.append("images")
        if entry.get("parent") == name:
            bad.append("parent")
        if moment(str(entry.get("time"))) and len(entry["time"]) < len(stamp(0)):  # an old one has no zone
            entry["time"] = stamp(moment(entry["time"]))
        nothing = [each for each in KINDS if entry.get(each) is None and each not in ("parent", "frozen")]
        for each in (*bad, *nothing):
            entry.pop(each, None)
        wrong += [f"{each} of {name}" for each in bad]
        entries[name] = entry
    head = document.get("head") or ""
    if not isinstance(head, str):
        return entries, "", [*wrong, "head"]
    return entries, head, wrong


def _are_texts(values: object) -> bool:
    return not isinstance(values, list) or all(isinstance(each, str) for each in values)


def _is_image(row: object) -> bool:
    """What an entry knows of its snapshot on one disk."""
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        return False
    base = row.get("base") or {"file": "", "size_bytes": 0, "mtime_ns": 0}
    return (
        isinstance(base, dict)
        and isinstance(base.get("file"), str)
        and all(isinstance(row.get(each), int) for each in ("date_s", "vmstate_bytes"))
        and all(isinstance(base.get(each), int) for each in ("size_bytes", "mtime_ns"))
    )


def entry(
    store: Store,
    name: str,
    *,
    message: str,
    parent: str,
    has_memory: bool,
    qemu: str,
    machine: str,
    arguments: list[str],
) -> dict[str, Any]:
    """The object of a snapshot that is about to be taken; `completed` adds what the images then say."""
    vm = store.vm
    settings = vm.settings
    return {
        "name": name,
        "time": stamp(time.time()),
        "disks": [each.path for each in store.volumes],
        "message": message,
        "parent": parent or None,
        "memory": has_memory,
        "vmstate_bytes": 0,
        "frozen": None,
        "qemu": qemu,
        "machine": machine,
        "arguments": arguments,
        "settings": {each: settings.text(each) for each in HARDWARE if each in settings},
        "shares": [],
        "images": [],
        "host_keys": _host_keys(vm),
    }


def _host_keys(vm: BaseMachine) -> str:
    """The guest's ssh host keys that are pinned, "" where none is."""
    try:
        return host_files.read(vm.files.known_hosts).text
    except OSError:
        return ""


def completed(store: Store, given: dict[str, Any], tag: str | None = None) -> dict[str, Any]:
    """The object with what the images say: id, date and memory of the snapshot on each disk."""
    rows = []
    tag = tag or given["name"]
    for each in store.volumes:
        found = store.tags(each).get(tag)
        if found is None:
            continue
        rows.append(
            {
                "id": each.id,
                "file": each.path,
                "date_s": found.date_s,
                "vmstate_bytes": found.vmstate_bytes,
                "base": _base(each),
            }
        )
    memory = max((int(str(row["vmstate_bytes"])) for row in rows), default=0)
    return given | {"images": rows, "vmstate_bytes": memory}


def _base(disk: Volume) -> dict[str, Any] | None:
    """The base of an image as it is now; None if it has none, or if that is missing."""
    from qvmsh.machine.storage import chain

    base = chain.base_of(disk.path, disk.format)
    try:
        return {"file": base, **chain.print_of(base)} if base else None
    except OSError:
        return None
