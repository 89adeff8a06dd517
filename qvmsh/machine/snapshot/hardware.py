"""The hardware of a snapshot and that of the machine now, compared as QEMU gets it.

    differences(vm, entry)              # ["VM_MACHINE_MEM was 256, and is 512"]
    machine_type(vm.settings, entry)    # "pc-i440fx-6.2", where VM_QEMU_MACHINE=pc means a newer type now
    remedy(vm, entry)                   # ["--set VM_MACHINE_MEM=256"]

`256` and `256M` are the same memory, and an unset value is the default. An alias (`pc`, `q35`, `virt`) means
the newest type of its kind in a QEMU, so a state from an older QEMU is loaded on the type that it was saved
with, as libvirt does.
"""

from __future__ import annotations

import os
import re

from qvmsh.config import devices
from qvmsh.config.settings import Settings
from qvmsh.config.words import quote
from qvmsh.errors import ConfigError, QmpError
from qvmsh.machine.snapshot.catalogue import HARDWARE
from qvmsh.qemu import platforms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.qmp import Exchange

    Entry = Mapping[str, Any]

FAMILIES = {"pc": "pc-i440fx-", "q35": "pc-q35-"}
"""Prefixes of the versioned types of an alias, if not the alias itself."""
BY_HAND = ("VM_MACHINE_ARCH", "VM_QEMU_ARGS", "VM_QEMU_EXTRA")
"""What is compared with hardware by hand."""


def machine_type(settings: Settings, entry: Entry) -> str:
    """VM_QEMU_MACHINE as a state is loaded with it: an alias is the type that it meant when it was saved."""
    now = settings.text("VM_QEMU_MACHINE")
    kind, mark, properties = now.partition(",")
    then = str(entry.get("machine") or "")
    if not re.fullmatch(r"[\w.-]+", then):  # the metadata may come from anywhere: no properties
        return now
    alias = (entry.get("settings") or {}).get("VM_QEMU_MACHINE", "").partition(",")[0]
    is_alias = then.startswith(FAMILIES.get(kind, f"{kind}-")) or (then and kind == alias)
    return f"{then}{mark}{properties}" if is_alias else now


def versions(exchange: Exchange) -> dict[str, str]:
    """QEMU's version, and the version of the machine type that the guest sees."""
    answer = exchange.ask("query-version")
    version = ".".join(str(answer["qemu"][part]) for part in ("major", "minor", "micro"))
    try:
        machine = exchange.ask("qom-get", {"path": "/machine", "property": "type"})
    except QmpError:
        machine = ""
    return {"qemu": version, "machine": str(machine).removesuffix("-machine")}


def differences(vm: BaseMachine, one: Entry, two: Entry | None = None) -> list[str]:
    """What of the hardware changed since a snapshot was taken, until another or (None) now; a line each."""
    verb = "is" if two is None else "then"
    return [
        f"{name} was {_on_a_line(then)}, and {verb} {_on_a_line(now)}"
        for name, (then, now) in _changed(vm, one, two).items()
    ]


def remedy(vm: BaseMachine, entry: Entry) -> list[str]:
    """The options that give the machine the hardware of a snapshot; none if it is the same."""
    settings = entry.get("settings") or {}
    return [f"--set {quote(f'{name}={settings[name]}')}" for name in _changed(vm, entry, None)]


def _changed(vm: BaseMachine, one: Entry, two: Entry | None) -> dict[str, tuple[str, str]]:
    """The settings that differ: what they were, and are."""
    before, after = _Hardware(vm, one, two or one), _Hardware(vm, two, one)
    names = BY_HAND if before.is_by_hand and after.is_by_hand else HARDWARE
    found = {}
    for name in names:
        if name in (one.get("settings") or {}) and before.value(name) != after.value(name):
            is_same_word = before.text(name) == after.text(name)  # an alias, or a default
            found[name] = before.shown(name, is_same_word), after.shown(name, is_same_word)
    return found


class _Hardware:
    """One side of the comparison: the hardware of a snapshot, or the current one.

    Args:
        entry: what is known of the snapshot; None = now.
        other: the snapshot that it is compared with.
    """

    def __init__(self, vm: BaseMachine, entry: Entry | None, other: Entry) -> None:
        self._is_now = entry is None
        self._argv: list[str] = (other if entry is None else entry).get("arguments") or []
        values = {"VM_QEMU_BIN": self._argv[0] if self._argv else "", **((entry or {}).get("settings") or {})}
        self._settings = vm.settings
        if entry is not None:
            self._settings = Settings(vm.directory, values, {}, [], [], [], vm.environ, [])
        own = (entry or {}).get("machine")
        self._machine = own or machine_type(self._settings, other).partition(",")[0]

    @property
    def is_by_hand(self) -> bool:
        return bool(self._settings.text("VM_QEMU_ARGS"))

    def text(self, name: str) -> str:
        return self._settings.text(name)

    def shown(self, name: str, is_resolved: bool) -> str:
        """The value as it was written, or what it means."""
        if name == "VM_QEMU_MACHINE" and is_resolved:
            return self._machine
        return self.text(name) or str(self.value(name) or "")

    def value(self, name: str) -> object:
        """The value as QEMU gets it."""
        settings = self._settings
        text = settings.text(name)
        try:
            if name == "VM_MACHINE_ARCH":
                return settings.architecture
            if name == "VM_QEMU_MACHINE":
                return self._machine, sorted(filter(None, text.split(",")[1:]))
            if name == "VM_QEMU_CPU":
                return text or self._cpu()
            if name == "VM_FIRMWARE":
                return text or "bios"
            if name == "VM_NET_MODEL" and text == "virtio":
                return platforms.of(settings.architecture, self._machine).virtio("net")
            if name == "VM_GUEST_AGENT_METHOD" and not settings.boolean("VM_GUEST_AGENT"):
                return ""
            if name == "VM_CDROM":
                return os.path.normpath(settings.path(name)) if text else ""
            if name == "VM_DISKS":
                lines = map(devices.disk, settings.lines(name))
                located = [(settings.located(each.path), each.driver, each.is_read_only) for each in lines]
                return [(os.path.normpath(path), *rest) for path, *rest in located]
            return settings.value(name)
        except (ConfigError, ValueError):  # the snapshot's entry was edited
            return text

    def _cpu(self) -> str:
        """The processor that QEMU was, or would be, given where none is set."""
        if not self._is_now and "-cpu" in self._argv[:-1]:
            return self._argv[self._argv.index("-cpu") + 1]
        accelerator = self._settings.text("VM_QEMU_ACCEL")
        if not self._is_now or accelerator.partition(",")[0] == "auto":
            at = self._argv.index("-accel") + 1 if "-accel" in self._argv[:-1] else 0
            accelerator = self._argv[at] if at else "tcg"
        return platforms.default_cpu(accelerator, self._settings.architecture) or ""


def _on_a_line(value: str) -> str:
    """A setting's value in a sentence; that of VM_DISKS has lines."""
    return ", ".join(line.strip() for line in value.splitlines() if line.strip()) or "not set"
