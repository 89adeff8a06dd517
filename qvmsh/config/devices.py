"""The variables of the hardware: disks, boot order, clock, architecture, VM_QEMU_ARGS.

    disk("data.img:raw:none").cache           # "none"
    boot("cdrom disk menu")                   # ["cdrom", "disk", "menu"]
    architecture({"VM_MACHINE_ARCH": "aarch64"})

A line of VM_DISKS is `path[:format[:cache]][:ro]`. It is read from its end, and a word counts as
format, cache or `ro` only if QEMU knows it; so a `:` in a path works. A path that ends
in such a word is written with the format after it (`odd:raw:raw` is the file `odd:raw`).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FORMATS = ("qcow2", "raw", "qcow", "qed", "vdi", "vhdx", "vmdk", "vpc")
CACHES = ("none", "writeback", "writethrough", "directsync", "unsafe")
READ_ONLY = "ro"

BY_SUFFIX = {
    **{f".{name}": name for name in FORMATS},
    ".vhd": "vpc",
    **dict.fromkeys((".img", ".bin", ".dd", ".iso"), "raw"),
}
"""The format by a file's name. Never by its content: a guest may write anything there."""

MACHINES = {
    "x86_64": "pc",
    "i386": "pc",
    "aarch64": "virt",
    "arm": "virt",
    "riscv64": "virt",
    "loongarch64": "virt",
    "ppc64": "pseries",
    "s390x": "s390-ccw-virtio",
}
"""The default of VM_QEMU_MACHINE for each architecture of VM_MACHINE_ARCH."""

OTHERS = (
    "alpha", "avr", "cris", "hppa", "m68k", "microblaze", "microblazeel", "mips", "mips64", "mips64el",
    "mipsel", "nios2", "or1k", "ppc", "riscv32", "rx", "sh4", "sh4eb", "sparc", "sparc64", "tricore",
    "xtensa", "xtensaeb",
)  # fmt: skip
"""Architectures of QEMU without a machine type for the devices that qvm uses. Source: QEMU 7.2."""

PC = ("x86_64", "i386")

SOCKETS = ("qmp", "session", "events", "monitor", "serial", "qga", "tpm-control")
"""Ids of qvm's own character devices."""

RESERVED = ("name", "uuid", "pidfile", "daemonize")
"""Options that only qvm sets: it identifies the machine by them."""

REPLACED = (
    "VM_DISKS", "VM_CDROM", "VM_BOOT", "VM_KERNEL", "VM_INITRD", "VM_APPEND", "VM_FIRMWARE", "VM_TPM",
    "VM_SERIAL", "VM_GUEST_AGENT", "VM_GUEST_AGENT_METHOD", "VM_VIRTIO_RNG", "VM_RTC_BASE", "VM_SHARE",
)  # fmt: skip
"""Variables without effect if VM_QEMU_ARGS is set (in a .vmrc; a global file may set some for all)."""


class DiskLine:
    """One line of VM_DISKS.

    Args:
        path: as written.
        format: "" if the line has none.
        cache: "" if the line has none.
        is_read_only: the guest cannot write to it.
    """

    __slots__ = ("cache", "format", "is_read_only", "path")

    def __init__(self, path: str, kind: str = "", cache: str = "", *, is_read_only: bool = False) -> None:
        self.path = path
        self.format = kind
        self.cache = cache
        self.is_read_only = is_read_only

    @property
    def driver(self) -> str:
        """The format: from the line, else from the file's name, else raw."""
        return self.format or BY_SUFFIX.get(os.path.splitext(self.path)[1].lower(), "raw")


def disk(line: str) -> DiskLine:
    """Parse one line of VM_DISKS.

    Raises:
        ValueError: it names no file.
    """
    parts = line.strip().split(":")
    is_read_only = len(parts) > 1 and parts[-1] == READ_ONLY
    if is_read_only:
        parts.pop()
    cache = kind = ""
    if len(parts) > 2 and parts[-1] in CACHES and parts[-2] in (*FORMATS, ""):
        cache = parts.pop()
    if len(parts) > 1 and (parts[-1] in FORMATS or (cache and not parts[-1])):
        kind = parts.pop()
    path = ":".join(parts)
    if not path:
        raise ValueError("the file is missing")
    return DiskLine(path, kind, cache, is_read_only=is_read_only)


def disks(text: str) -> list[DiskLine]:
    """All lines of VM_DISKS.

    Raises:
        ValueError: one of them names no file, or a file that an earlier one names.
    """
    found = [disk(line) for line in text.split("\n") if line.strip()]
    paths = [os.path.normpath(each.path) for each in found]
    for at, path in enumerate(paths):
        if path in paths[:at]:
            raise ValueError(f"{found[at].path} is listed twice")
    return found


def boot(text: str) -> list[str]:
    """The words of VM_BOOT; QEMU's letters (`-boot order=dc`) become words.

    Raises:
        ValueError: a word is unknown or listed twice.
    """
    letters = {"c": "disk", "d": "cdrom", "n": "network"}
    found = text.replace(",", " ").split()
    if len(found) == 1 and set(found[0]) <= set("abcdnop") and (floppy := set(found[0]) & {"a", "b"}):
        raise ValueError(f"{min(floppy)} is a floppy drive, which qvm does not support")
    if len(found) == 1 and all(letter in letters for letter in found[0]):
        found = [letters[letter] for letter in found[0]]
    for at, word in enumerate(found):
        number = word.removeprefix("disk")
        is_disk = word.startswith("disk") and (not number or (number.isascii() and number.isdigit()))
        if not is_disk and word not in ("cdrom", "network", "menu"):
            raise ValueError(f"{word!r} is not a boot device")
        if word in found[:at]:
            raise ValueError(f"{word} is listed twice")
    return found


def is_clock(text: str) -> bool:
    """True if VM_RTC_BASE can be `text`: utc, localtime, or a date with or without a time."""
    if text in ("utc", "localtime"):
        return True
    from time import strptime

    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d"):
        try:
            strptime(text, form)
        except ValueError:
            continue
        return True
    return False


def collision(arguments: Sequence[str]) -> str:
    """The part of VM_QEMU_ARGS that only qvm may set; "" if there is none."""
    for at, word in enumerate(arguments):
        option = word[1:].removeprefix("-") if word.startswith("-") else ""
        if option in RESERVED:
            return word
        value = arguments[at + 1] if option and at + 1 < len(arguments) else ""
        fields = value.split(",")
        if option in ("chardev", "mon") and _id(value, fields) in SOCKETS:
            return f"{word} {value}"
        if option in ("qmp", "qmp-pretty", "monitor") and fields[0].removeprefix("chardev:") in SOCKETS:
            return f"{word} {value}"
        if option == "mon" and any(field.removeprefix("chardev=") in SOCKETS for field in fields):
            return f"{word} {value}"
    return ""


def _id(value: str, fields: Sequence[str]) -> str:
    """The `id=` among the fields of an option, or in its JSON."""
    if value.lstrip().startswith("{"):
        squeezed = value.replace(" ", "")
        return next((name for name in SOCKETS if f'"id":"{name}"' in squeezed), "")
    return next((field.removeprefix("id=") for field in fields if field.startswith("id=")), "")


def target(binary: str) -> str:
    """The architecture in the name of a QEMU; "" if there is none (qemu-kvm, a wrapper)."""
    name = os.path.basename(binary)
    if not name.startswith("qemu-system-"):
        return ""
    found = name.removeprefix("qemu-system-").partition("-")[0]  # Debian: qemu-system-x86_64-microvm
    return "ppc64" if found == "ppc64le" else found


def architecture(values: Mapping[str, str]) -> str:
    """The guest's architecture as QEMU calls it: VM_MACHINE_ARCH, else that of VM_QEMU_BIN."""
    binary = values.get("VM_QEMU_BIN") or "qemu-system-x86_64"
    here = os.uname().machine.lower()
    return (
        values.get("VM_MACHINE_ARCH")
        or target(binary)
        or {"amd64": "x86_64", "arm64": "aarch64"}.get(here, here)
    )


def machine_default(values: Mapping[str, str]) -> str:
    """The default of VM_QEMU_MACHINE."""
    arch = architecture(values)
    if arch in PC and values.get("VM_FIRMWARE") == "uefi-secure":
        return "q35"  # Secure Boot is effective only with System Management Mode, which `pc` lacks
    if values.get("VM_QEMU_BIN", "").endswith("-microvm"):
        return "microvm"
    return MACHINES.get(arch, "virt")


def is_q35(machine: str) -> bool:
    """True if a machine type (with its properties) is a q35."""
    kind = machine.partition(",")[0]
    return kind == "q35" or kind.startswith("pc-q35")


def conflicts(values: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Conflicts between valid values: variable, what is wrong, what to do."""
    arch = architecture(values)
    is_pc = arch in PC
    for name in ("VM_INITRD", "VM_APPEND"):
        if values.get(name) and not values.get("VM_KERNEL"):
            yield (name, "is set, but VM_KERNEL is not", f"set VM_KERNEL, or remove {name}")
    named = target(values.get("VM_QEMU_BIN", ""))
    if values.get("VM_MACHINE_ARCH") and named not in ("", arch):
        hint = "remove one of the two"
        yield "VM_MACHINE_ARCH", f"is {arch}, but VM_QEMU_BIN is QEMU for {named}", hint
    if named in OTHERS and not (values.get("VM_QEMU_MACHINE") or values.get("VM_QEMU_ARGS")):
        hint = "set VM_QEMU_MACHINE, or all hardware with VM_QEMU_ARGS"
        yield "VM_QEMU_BIN", f"is QEMU for {named}, for which qvm has no machine type", hint
    machine = values.get("VM_QEMU_MACHINE") or machine_default(values)
    firmware = values.get("VM_FIRMWARE", "")
    if firmware == "uefi-secure" and is_pc and not is_q35(machine):
        hint = "write VM_QEMU_MACHINE=q35, or VM_FIRMWARE=uefi"
        yield (
            "VM_FIRMWARE",
            f"is uefi-secure, which machine type {machine.partition(',')[0]} does not support",
            hint,
        )
    if firmware == "bios" and not is_pc:
        yield "VM_FIRMWARE", f"is bios, which {arch} does not have", "write VM_FIRMWARE=uefi"
    if values.get("VM_GUEST_AGENT_METHOD") == "isa-serial" and not is_pc:
        hint = "write VM_GUEST_AGENT_METHOD=virtio-serial"
        yield "VM_GUEST_AGENT_METHOD", f"is isa-serial, which {arch} does not have", hint
    if values.get("VM_DISK_BUS") == "ide" and is_pc:
        places = 6 if is_q35(machine) else 4
        count = 1 + len(disks(values.get("VM_DISKS", ""))) + bool(values.get("VM_CDROM"))
        if count > places:
            what = f"is ide, which takes {places} devices, but there are {count}"
            yield "VM_DISK_BUS", what, "write VM_DISK_BUS=virtio, or sata"
    yield from _ready_conflicts(values)
    yield from _boot_conflicts(values)


def _ready_conflicts(values: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Signs of readiness that the machine cannot have."""
    by_hand = bool(values.get("VM_QEMU_ARGS"))
    has_no_port = by_hand and values.get("VM_SSH_PORT", "auto") in ("", "auto")
    sign = values.get("VM_READY", "").partition(":")[0]
    if sign == "ssh" and (has_no_port or values.get("VM_NET_MODEL") == "none"):
        why = "VM_SSH_PORT is not set to the port in VM_QEMU_ARGS" if has_no_port else "VM_NET_MODEL is none"
        yield "VM_READY", f"is ssh, but the guest's ssh is not reachable: {why}", "write VM_READY=none"
    needed = {"agent": "VM_GUEST_AGENT", "console": "VM_SERIAL"}.get(sign, "")
    if needed and values.get(needed, "").lower() in ("no", "false", "off", "0") and not by_hand:
        yield "VM_READY", f"is {sign}, but {needed} is no", f"write {needed}=yes"


def _boot_conflicts(values: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Devices that VM_BOOT names but the machine does not have."""
    count = 1 + sum(bool(line.strip()) for line in values.get("VM_DISKS", "").split("\n"))
    for word in boot(values.get("VM_BOOT", "")):
        number = word.removeprefix("disk")
        if word == "cdrom" and not values.get("VM_CDROM"):
            yield "VM_BOOT", "names cdrom, but VM_CDROM is not set", "set VM_CDROM"
        elif word == "network" and values.get("VM_NET_MODEL") == "none":
            yield "VM_BOOT", "names network, but VM_NET_MODEL is none", "remove one of the two"
        elif word.startswith("disk") and number and int(number) >= count:
            yield (
                "VM_BOOT",
                f"names {word}, but VM_DISKS has {count - 1} lines",
                "disk1 is the first of VM_DISKS",
            )


def replaced(values: Mapping[str, str]) -> list[str]:
    """Variables that are set but have no effect because of VM_QEMU_ARGS."""
    return (
        [name for name in REPLACED if values.get(name) not in (None, "", "no")]
        if values.get("VM_QEMU_ARGS")
        else []
    )
