"""UEFI firmware on this host: by QEMU's own descriptors, else where distributions put it.

    find("x86_64", "q35", is_secure=False, environ=os.environ).code     # /usr/share/OVMF/OVMF_CODE_4M.fd

Source: QEMU docs/interop/firmware.json: descriptors are looked for in three folders; a file of the same
name in a later folder replaces an earlier one, an empty one hides it; the name's number
orders them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase

from qvmsh.errors import MissingProgramError
from qvmsh.qemu.qmp import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

FOLDERS = ("/usr/share/qemu/firmware", "/usr/local/share/qemu/firmware", "/etc/qemu/firmware")

_ALIASES = {"pc": "pc-i440fx-", "q35": "pc-q35-", "virt": "virt-"}
"""What the names without a version stand for."""

_PLACES: dict[tuple[str, bool], tuple[tuple[str, str], ...]] = {
    ("x86_64", False): (
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
        ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
        ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
        ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
        ("/usr/share/edk2-ovmf/OVMF_CODE.fd", "/usr/share/edk2-ovmf/OVMF_VARS.fd"),
        ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
        ("/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
        ("/usr/local/share/qemu/edk2-x86_64-code.fd", "/usr/local/share/qemu/edk2-i386-vars.fd"),
        ("/opt/homebrew/share/qemu/edk2-x86_64-code.fd", "/opt/homebrew/share/qemu/edk2-i386-vars.fd"),
        ("/usr/pkg/share/qemu/edk2-x86_64-code.fd", "/usr/pkg/share/qemu/edk2-i386-vars.fd"),
    ),
    ("x86_64", True): (
        ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
        ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
        ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
        ("/usr/share/qemu/ovmf-x86_64-smm-ms-code.bin", "/usr/share/qemu/ovmf-x86_64-smm-ms-vars.bin"),
    ),
    ("aarch64", False): (
        ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
        ("/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
        ("/usr/share/edk2/aarch64/QEMU_CODE.fd", "/usr/share/edk2/aarch64/QEMU_VARS.fd"),
        ("/usr/share/qemu/aavmf-aarch64-code.bin", "/usr/share/qemu/aavmf-aarch64-vars.bin"),
        ("/usr/share/qemu/edk2-aarch64-code.fd", "/usr/share/qemu/edk2-arm-vars.fd"),
        ("/usr/local/share/qemu/edk2-aarch64-code.fd", "/usr/local/share/qemu/edk2-arm-vars.fd"),
        ("/opt/homebrew/share/qemu/edk2-aarch64-code.fd", "/opt/homebrew/share/qemu/edk2-arm-vars.fd"),
    ),
    ("aarch64", True): (("/usr/share/AAVMF/AAVMF_CODE.ms.fd", "/usr/share/AAVMF/AAVMF_VARS.ms.fd"),),
}
"""Code and pristine variables, raw, for hosts with firmware but no descriptors."""

_HINTS = {
    "x86_64": "install the package ovmf (Debian, Alpine), edk2-ovmf (Fedora, Arch), qemu-ovmf-x86_64 (SUSE)",
    "aarch64": "install the package qemu-efi-aarch64 (Debian), edk2-aarch64 (Fedora, Arch), aavmf (Alpine)",
}


@dataclass(frozen=True)
class Firmware:
    """One UEFI firmware.

    Args:
        code: the file that the processor runs, read-only.
        template: pristine variables, to be copied for each machine.
        needs_smm: it is written for System Management Mode (q35 has it, `pc` has not).
    """

    code: str
    code_format: str
    template: str
    template_format: str
    needs_smm: bool = False


def find(architecture: str, machine: str, *, is_secure: bool, environ: Mapping[str, str]) -> Firmware:
    """The firmware for a machine type.

    Args:
        machine: VM_QEMU_MACHINE, properties and all.
        is_secure: with Secure Boot and its keys.

    Raises:
        MissingProgramError: there is none on this host.
    """
    kind = machine.partition(",")[0]
    for descriptor in _descriptors(environ):
        if _fits(descriptor, architecture, kind, is_secure):
            found = _firmware(descriptor)
            if found and os.path.isfile(found.code) and os.path.isfile(found.template):
                return found
    is_pc = architecture == "x86_64"
    if not is_pc or kind != "microvm":
        for code, template in _PLACES.get((architecture, is_secure), ()):
            if os.path.isfile(code) and os.path.isfile(template):
                return Firmware(code, "raw", template, "raw", needs_smm=is_secure and is_pc)
    what = "UEFI firmware with Secure Boot" if is_secure else "UEFI firmware"
    hint = _HINTS.get(architecture, "remove VM_FIRMWARE, or add a descriptor to /etc/qemu/firmware")
    raise MissingProgramError(f"this host has no {what} for {architecture}, machine type {kind}", hint=hint)


def _descriptors(environ: Mapping[str, str]) -> Iterator[Any]:
    """All descriptors in the order of their preference."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "/nonexistent"), ".config")
    by_name: dict[str, str] = {}
    for folder in (*FOLDERS, os.path.join(home, "qemu", "firmware")):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        by_name.update((name, os.path.join(folder, name)) for name in names if name.endswith(".json"))
    for name in sorted(by_name):
        try:
            with open(by_name[name], encoding="utf-8") as file:
                text = file.read()
            if text.strip():
                yield loads(text)
        except (OSError, ValueError, StopIteration):  # a broken file; QEMU's own tools skip it
            continue


def _fits(descriptor: Any, architecture: str, kind: str, is_secure: bool) -> bool:
    """True if the descriptor is for such a machine, with Secure Boot or without."""
    try:
        features = descriptor["features"]
        is_uefi = "uefi" in descriptor["interface-types"] and descriptor["mapping"]["device"] == "flash"
        has_keys = "secure-boot" in features and "enrolled-keys" in features
        is_wanted = has_keys if is_secure else not (has_keys or "requires-smm" in features)
        return (
            is_uefi
            and is_wanted
            and any(
                target["architecture"] == architecture
                and any(_is_of(kind, glob) for glob in target["machines"])
                for target in descriptor["targets"]
            )
        )
    except (KeyError, TypeError):
        return False


def _is_of(kind: str, glob: str) -> bool:
    """True if a machine type is one of a descriptor's (`pc-q35-*`); `q35` is the newest of them."""
    return fnmatchcase(kind, glob) or (kind in _ALIASES and fnmatchcase(_ALIASES[kind] + "0", glob))


def _firmware(descriptor: Any) -> Firmware | None:
    """What the descriptor maps; None for firmware without a file of variables."""
    mapping = descriptor["mapping"]
    try:
        if mapping.get("mode", "split") != "split":
            return None
        code, variables = mapping["executable"], mapping["nvram-template"]
        return Firmware(
            code["filename"],
            code["format"],
            variables["filename"],
            variables["format"],
            needs_smm="requires-smm" in descriptor["features"],
        )
    except (KeyError, TypeError, AttributeError):
        return None
