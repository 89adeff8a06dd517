"""What the settings of a package would run, or open outside its directory: it wants `qvm allow` first.

    find(settings)       # [Brought("VM_PRE_START", "runs ./prepare.sh"), ...]

Nothing is looked at but the settings. Only what is known to be harmless is let through.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from qvmsh.config import devices, forwards, trust
from qvmsh.config.grammar import parse
from qvmsh.config.syntax import Expansion, Tilde
from qvmsh.config.variables import VARIABLES
from qvmsh.machine.storage.path_settings import HOME
from qvmsh.qemu.drives import pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from qvmsh.config.settings import Settings
    from qvmsh.config.syntax import Part


@dataclass(frozen=True)
class Brought:
    """A variable (or a file), and what it would do."""

    name: str
    what: str


_HARMLESS_KINDS = frozenset((
    "file name", "id", "account", "user", "memory", "integer", "number", "choice", "boolean", "model",
    "boot order", "clock", "mac",
))  # fmt: skip
_HARMLESS = frozenset((
    "VM_LABELS", "VM_REQUIRES", "VM_APPEND", "VM_DATEFMT", "VM_SAVE_DELAY", "VM_NETWORK",
    "VM_NET_GUEST", "VM_SSH_PORT",
))  # fmt: skip
"""Texts that only the guest, or nobody, reads as more than a text."""
_PLAIN = {
    "VM_QEMU_MACHINE": r"[\w.-]*",
    "VM_QEMU_CPU": r"[\w.,+=-]*",
    "VM_QEMU_ACCEL": r"[\w,.=:-]*",
    "VM_QEMU_SANDBOX": r"auto|on",
    "VM_QEMU_DISPLAY": r"[\w-]*",
    "VM_QEMU_BIN": r"qemu-system-\w+|qemu-kvm",
    "VM_QEMU_IMG": r"qemu-img",
    "VM_READY": r"|ssh|agent|none|console:[\w .:$#>-]*",
}
"""Values that are harmless; other patterns of VM_READY may take for ever to search."""
_PATHS = ("VM_CDROM", "VM_KERNEL", "VM_INITRD", "VM_SSH_IDENTITY")
_MONITOR = ("VM_NET_LISTEN", "VM_NET_PORT", "VM_NET_HOST")
_RUN = ("VM_PRE_START", "VM_POST_STOP")
_FLAGS = frozenset((
    "enable-kvm", "no-acpi", "no-hpet", "no-reboot", "no-shutdown", "nodefaults", "nographic", "S",
    "snapshot", "usb",
))  # fmt: skip
_VALUES = {
    "cpu": r"[\w.,+=-]+",
    "device": r"(virtio-(balloon|gpu|keyboard|mouse|net|rng|scsi|serial|tablet|vga)(-pci|-device)?|VGA|"
    r"qxl(-vga)?|usb-(ehci|kbd|mouse|tablet)|e1000e?|rtl8139|ne2k_pci|intel-hda|hda-(duplex|micro|output)|AC97|"
    r"(qemu|nec-usb)-xhci|i6300esb|pvpanic|pcie-root-port)(,(id|bus|addr|multifunction|chassis)=[\w.]+)*",
    "global": r"[\w-]+\.(?!\w*file=.)[\w-]+=[\w.-]*",
    "k": r"[\w-]+",
    "m": r"[\w,=.]+",
    "machine": r"[\w.-]+",
    "name": r"[\w.-]+",
    "rtc": r"[\w,=:-]+",
    "smp": r"[\w,=]+",
    "vga": r"\w+",
}
"""QEMU's options that open nothing with such a value."""
_DRIVE_KEYS = frozenset((
    "aio", "bus", "cache", "discard", "file", "format", "id", "if", "index", "media", "readonly", "serial",
    "snapshot", "unit",
))  # fmt: skip


def find(settings: Settings) -> list[Brought]:
    """What would run or open something, in the order of the settings; nothing of other layers."""
    own, unsure = {each.path for each in settings.sources}, _unsure(settings)
    found = []
    for name in dict.fromkeys([*settings, *unsure]):
        if name in unsure:
            what = "" if _is_harmless_text(name) else f"depends on the environment: {_short(unsure[name])}"
        elif settings.is_set(name) and settings[name] and settings.origin(name).file in own:
            what = _harm(settings, name)
        else:
            what = ""
        if what:
            found.append(Brought(name, what.replace(settings.directory, f"${HOME}")))
    if "VM_INCLUDE" in settings.held and not any(each.name == "VM_INCLUDE" for each in found):
        found.append(Brought("VM_INCLUDE", "reads a file outside the machine's directory"))
    return found


def _unsure(settings: Settings) -> dict[str, str]:
    """The variables whose values are not only the package's: names, and the lines that set them.

    Such a value may be harmless, or empty, here and now, and another one elsewhere.
    """
    found: dict[str, str] = {}
    for source in settings.sources:
        lines = source.text.splitlines()
        known = {HOME}  # and those of this file: another one may be read later, or not at all
        for row in parse(source.text, source.path).assignments:
            line = lines[row.line - 1].strip() if row.line <= len(lines) else row.name
            inner = list(_expansions(row.parts))
            found |= {
                each.name: line for each in inner if isinstance(each, Expansion) and each.operator == "="
            }
            if any(_is_foreign(each, known, found) for each in inner):
                found[row.name] = line
            known.add(row.name)
    return found


def _is_foreign(part: Expansion | Tilde, known: set[str], unsure: Mapping[str, str]) -> bool:
    return isinstance(part, Tilde) or part.name not in known or part.name in unsure


def _expansions(parts: Iterable[Part]) -> Iterator[Expansion | Tilde]:
    """All expansions in a value, those inside of others too."""
    for part in parts:
        if isinstance(part, Expansion):
            yield part
            yield from _expansions(part.word)
        elif isinstance(part, Tilde):
            yield part


def _is_harmless_text(name: str) -> bool:
    """True for a variable that opens and runs nothing, whatever its value is."""
    variable = VARIABLES.get(name)
    if variable is None:
        return name.startswith("VM_")
    return variable.kind in _HARMLESS_KINDS or name in _HARMLESS


def shell_code(folder: str) -> list[Brought]:
    """The file with code that the machine's shell would load: accepting it is the shell's own question."""
    if os.path.lexists(os.path.join(folder, trust.RC)):
        return [Brought(trust.RC, "is code that `qvm sh` would load")]
    return []


def _harm(settings: Settings, name: str) -> str:
    """What a value would do; "" if that is harmless."""
    value, variable = settings[name], VARIABLES.get(name)
    if _is_harmless_text(name):
        return ""
    if variable is None:
        return f"changes the environment of programs: {_short(value)}"
    if variable.kind == "forwards":
        return _opened_ports(value)
    if name in _PLAIN:
        return "" if re.fullmatch(_PLAIN[name], value) else f"is {_short(value)}"
    if name in _RUN:
        return f"runs {_short(value)}"
    if name in _MONITOR:
        return f"opens a telnet monitor: {_short(value)}"
    if name in ("VM_QEMU_ARGS", "VM_QEMU_EXTRA"):
        words = list(_harmful_words(settings, settings.words(name)))
        return f"passes {_short(' '.join(words))} to QEMU" if words else ""
    if name == "VM_SHARE":
        return f"shares directories of this host with the guest: {_short(value)}"
    if name == "VM_DISKS":
        outside = [each.path for each in devices.disks(value) if not _is_inside(settings, each.path)]
        return f"is outside the machine's directory: {_short(', '.join(outside))}" if outside else ""
    if name in (*_PATHS, "VM_INCLUDE", "VM_ARCHIVE"):
        is_inside = _is_inside(settings, value) and name not in settings.held
        return "" if is_inside else f"is outside the machine's directory: {_short(value)}"
    return f"is {_short(value)}"


def _opened_ports(value: str) -> str:
    """The forwarded ports that other hosts can reach."""
    found = [line for line in value.splitlines() if line.strip() and not _is_of_this_host(line)]
    return f"forwards a port for other hosts: {_short(', '.join(found))}" if found else ""


def _is_of_this_host(line: str) -> bool:
    try:
        return forwards.parse(line).address.startswith("127.")
    except ValueError:  # such settings cannot be used
        return True


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _is_inside(settings: Settings, name: str) -> bool:
    """True for a file in the machine's directory, by its name: there are no links in a package."""
    if "\0" in name or ":" in name.partition("/")[0]:
        return False
    top = os.path.realpath(settings.directory)
    return os.path.realpath(os.path.join(top, settings.located(name))).startswith(f"{top}/")


def _harmful_words(settings: Settings, words: list[str]) -> Iterator[str]:
    """The options that may open or run something, each with its value."""
    left = list(words)
    while left:
        word = left.pop(0)
        option = re.sub("^--?", "", word) if word.startswith("-") else ""
        if option in _FLAGS:
            continue
        value = left.pop(0) if option and left else ""  # QEMU takes the next word, whatever it is
        if value.startswith("-") or not _is_harmless(settings, option, value):
            yield f"{word} {value}".strip()


def _is_harmless(settings: Settings, option: str, value: str) -> bool:
    if option in _VALUES:
        return re.fullmatch(_VALUES[option], value) is not None
    keys = pairs(value)
    if option == "fw_cfg":
        is_known = keys.keys() <= {"name", "file", "string"}
        return is_known and ("file" not in keys or _is_inside(settings, keys["file"]))
    if option == "drive":
        return keys.keys() <= _DRIVE_KEYS and _is_inside(settings, keys.get("file", ""))
    return False
