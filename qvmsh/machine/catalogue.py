"""What qvm knows of a machine's snapshots beyond what the images hold: `.qvm/snapshots.json`.

May import: `host.files`, `machine.files`.

    catalogue = Catalogue.read(vm)
    catalogue.entries["ready"]["message"]      # "before the upgrade"

One JSON object a snapshot. The images are what counts: an entry without a snapshot in them is stale,
a snapshot without an entry was made by another tool. A file that cannot be read is no reason to refuse
anything: it is kept aside as `snapshots.json.unreadable`.
"""

from __future__ import annotations

import json
import os
import time

from qvmsh.host import files as host_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import Machine
    from qvmsh.machine.snapshot_store import Store

VERSION = 1

HARDWARE = (
    "VM_MACHINE_ARCH", "VM_QEMU_MACHINE", "VM_QEMU_CPU", "VM_MACHINE_CPUS", "VM_MACHINE_MEM", "VM_DISK_BUS",
    "VM_DISKS", "VM_NET_MODEL", "VM_FIRMWARE", "VM_TPM", "VM_SERIAL", "VM_GUEST_AGENT",
    "VM_GUEST_AGENT_METHOD", "VM_VIRTIO_RNG", "VM_CDROM", "VM_QEMU_EXTRA", "VM_QEMU_ARGS",
)  # fmt: skip
"""The settings that a saved memory depends on."""


class Catalogue:
    """The entries by name, and the snapshot that the present state descends from ("" = none)."""

    def __init__(self, vm: Machine, entries: dict[str, dict[str, Any]], head: str) -> None:
        self.vm = vm
        self.entries = entries
        self.head = head

    @classmethod
    def read(cls, vm: Machine) -> Catalogue:
        """What the file says; nothing where there is none, or none that can be read."""
        try:
            with open(vm.files.snapshots, encoding="utf-8") as file:
                document = json.load(file)
            entries = {str(each["name"]): dict(each) for each in document["snapshots"]}
            return cls(vm, entries, str(document.get("head") or ""))
        except FileNotFoundError:
            return cls(vm, {}, "")
        except (OSError, ValueError, KeyError, TypeError) as error:
            aside = vm.files.snapshots + ".unreadable"
            vm.io.warn(f"{vm.name}: .qvm/snapshots.json cannot be read ({error}); kept as {aside}")
            try:
                os.replace(vm.files.snapshots, aside)
            except OSError:
                pass
            return cls(vm, {}, "")

    def write(self) -> None:
        """Replace the file, in one step."""
        rows = sorted(self.entries.values(), key=lambda each: str(each.get("time", "")))
        document = {"version": VERSION, "head": self.head or None, "snapshots": rows}
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        self.vm.state_folder()
        host_files.write_atomic(self.vm.files.snapshots, text)

    def add(self, entry: dict[str, Any]) -> None:
        """A snapshot was taken: the present state descends from it."""
        self.entries[entry["name"]] = entry
        self.head = entry["name"]
        self.write()

    def remove(self, name: str) -> None:
        """A snapshot is gone: what came from it comes from its parent now."""
        gone = self.entries.pop(name, None)
        parent = (gone or {}).get("parent") or ""
        for each in self.entries.values():
            if each.get("parent") == name:
                each["parent"] = parent or None
        if self.head == name:
            self.head = parent
        self.write()

    def moved_to(self, name: str) -> None:
        """The machine went back to a snapshot."""
        if self.head != name:
            self.head = name
            self.write()


def entry(
    store: Store,
    name: str,
    *,
    message: str,
    parent: str,
    has_memory: bool,
    is_frozen: bool | None,
    qemu: str,
    machine: str,
    arguments: list[str],
) -> dict[str, Any]:
    """The object of a snapshot that is about to be taken; `completed` adds what the images then say."""
    vm = store.vm
    settings = vm.settings
    return {
        "name": name,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "disks": [each.path for each in store.volumes],
        "message": message,
        "parent": parent or None,
        "memory": has_memory,
        "vmstate_bytes": 0,
        "frozen": is_frozen,
        "qemu": qemu,
        "machine": machine,
        "arguments": arguments,
        "settings": {each: settings.text(each) for each in HARDWARE if each in settings},
        "images": [],
    }


def completed(store: Store, given: dict[str, Any], tag: str | None = None) -> dict[str, Any]:
    """The object with what the images say: id, date and memory of the snapshot on each disk."""
    from qvmsh.machine import chain

    rows = []
    tag = tag or given["name"]
    for each in store.volumes:
        found = store.tags(each).get(tag)
        if found is None:
            continue
        base = chain.base_of(each.path)
        rows.append(
            {
                "id": each.id,
                "file": each.path,
                "date_s": found.date_s,
                "vmstate_bytes": found.vmstate_bytes,
                "base": base and {"file": base, **chain.print_of(base)},
            }
        )
    memory = max((int(str(row["vmstate_bytes"])) for row in rows), default=0)
    return given | {"images": rows, "vmstate_bytes": memory}


def differences(vm: Machine, given: dict[str, Any]) -> list[str]:
    """What of the hardware is not as it was when the snapshot was taken, a line each."""
    settings = vm.settings
    found = []
    for name, then in (given.get("settings") or {}).items():
        now = settings.text(name) if name in settings else ""
        if now != then:
            found.append(f"{name} was {then or 'not set'!s}, and is {now or 'not set'!s}")
    return found
