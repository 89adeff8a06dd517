"""The kinds of machine, as far as their argument lists differ, and their disk controllers: pure.

    of("x86_64", "q35").cdrom             # "ide-cd"
    of("aarch64", "virt").display         # ("virtio-gpu-pci", "virtio-keyboard-pci", "virtio-tablet-pci")

Source: QEMU docs/system: i386/pc, i386/microvm, arm/virt, riscv/virt, ppc/pseries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from qvmsh.qemu.qmp import dumps

SATA_PORTS = 6
HAVE_MAX = ("x86_64", "i386", "aarch64", "arm", "s390x")
"""Architectures that have a CPU `max` since QEMU 7.2; others got it later, or have none."""


@dataclass(frozen=True)
class Platform:
    """How a machine type takes the devices that qvm gives it.

    Args:
        transport: end of the names of virtio devices: `pci`, or `device` where there is no PCI.
        vga: value of `-vga`; None if the machine type has no VGA.
        display: devices instead of VGA, keyboard and mouse of a PC.
        cdrom: device of a CD drive; `scsi-cd` needs a controller.
        tpm: device of a TPM; None if there is none.
        ide_units: how many devices each of the machine's own IDE buses takes.
        ram: QEMU's name of the guest's memory, which snapshots know it by.
        has_ports: its PCI bus takes no device at run time, but a `pcie-root-port` does.
    """

    transport: str = "pci"
    vga: str | None = None
    display: tuple[str, ...] = ()
    cdrom: str = "scsi-cd"
    tpm: str | None = None
    ide_units: int = 2
    ram: str = "ram0"
    has_ports: bool = False

    def virtio(self, kind: str) -> str:
        """Name of a virtio device: `virtio-blk-pci`."""
        return f"virtio-{kind}-{self.transport}"


PC = Platform(vga="std", cdrom="ide-cd", tpm="tpm-tis", ram="pc.ram")
Q35 = replace(PC, ide_units=1, has_ports=True)
VIRT = Platform(
    display=("virtio-gpu-pci", "virtio-keyboard-pci", "virtio-tablet-pci"), tpm="tpm-tis-device",
    ram="mach-virt.ram", has_ports=True,
)  # fmt: skip
PSERIES = Platform(vga="std", tpm="tpm-spapr", ram="ppc_spapr.ram")
OTHER = Platform()


def of(architecture: str, machine: str) -> Platform:
    """The platform of a machine type (`VM_QEMU_MACHINE`, properties and all)."""
    kind, _, properties = machine.partition(",")
    if architecture in ("x86_64", "i386"):
        if kind != "microvm":
            return Q35 if "q35" in kind else PC
        has_pci = "pcie=on" in properties.split(",")
        return Platform(transport="pci" if has_pci else "device", ram="microvm.ram")
    if kind == "virt" or kind.startswith("virt-"):
        if architecture in ("aarch64", "arm"):
            return VIRT
        ram = {"riscv64": "riscv_virt_board.ram", "loongarch64": "loongarch.ram"}.get(architecture, "ram0")
        return Platform(display=VIRT.display, ram=ram, has_ports=True)
    return PSERIES if kind.startswith("pseries") else OTHER


def default_cpu(accelerator: str, architecture: str) -> str | None:
    """The CPU with the most features under the accelerator; None if QEMU has no name for it."""
    kind = accelerator.partition(",")[0]
    if kind == "tcg":
        return "max" if architecture in HAVE_MAX else None
    return {"kvm": "host", "hvf": "host"}.get(kind)


class Controllers:
    """The controllers that disks need, each made for the first disk that needs it."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self._has_scsi = False
        self._sata_ports = 0
        self._ide_devices = 0

    def ide(self) -> dict[str, object]:
        """The next free place on the machine's own IDE buses (QEMU's own choice fails)."""
        bus, unit = divmod(self._ide_devices, self.platform.ide_units)
        self._ide_devices += 1
        return {"bus": f"ide.{bus}", "unit": unit}

    def scsi(self) -> tuple[list[str], str]:
        """Arguments that make the controller if there is none yet, and the name of its bus."""
        argv = [] if self._has_scsi else ["-device", device(self.platform.virtio("scsi"), "scsi0")]
        self._has_scsi = True
        return argv, "scsi0.0"

    def sata(self) -> tuple[list[str], str]:
        """As `scsi`, for the next free port."""
        number, port = divmod(self._sata_ports, SATA_PORTS)
        self._sata_ports += 1
        argv = [] if port else ["-device", device("ich9-ahci", f"sata{number}")]
        return argv, f"sata{number}.{port}"


def device(driver: str, name: str) -> str:
    return dumps({"driver": driver, "id": name})
