"""Boots of the built-in guest in which QEMU loads the kernel, and not the BIOS.

On a busy host the BIOS takes more than half of the CPU time of a boot under tcg. That the guest boots from
its disk alone is held by the fixtures `saved` and `guest`.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.world import Vm, World


def kernel_of(image: str) -> dict[str, str]:
    """The variables that name the kernel of an image, its initramfs and its command line."""
    folder = Path(image).parent
    return {
        "VM_KERNEL": str(folder / "vmlinuz"),
        "VM_INITRD": str(folder / "initrd.img"),
        "VM_APPEND": (folder / "cmdline").read_text().strip(),
    }


def boot_directly(one: Vm | World, image: str) -> None:
    """Have a machine, or all machines of an environment, boot like that."""
    path = one.directory / ".vmrc" if isinstance(one, Vm) else one.home / "global-vmrc"
    with path.open("a") as file:
        file.writelines(f"{name}='{value}'\n" for name, value in kernel_of(image).items())
