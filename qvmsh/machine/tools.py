"""The programs of a machine: VM_QEMU_BIN, VM_QEMU_IMG as its configuration names them.

May import: `qemu.programs`.
"""

from __future__ import annotations

from qvmsh.qemu import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import Machine


def qemu(vm: Machine) -> str:
    """Path of the machine's QEMU; a relative name with a slash stands in its directory.

    Raises:
        MissingProgramError: it is not installed.
    """
    return _find(vm, "VM_QEMU_BIN")


def qemu_img(vm: Machine) -> str:
    """Path of the machine's qemu-img; as `qemu`."""
    return _find(vm, "VM_QEMU_IMG")


def _find(vm: Machine, variable: str) -> str:
    return programs.find(vm.settings.text(variable), environ=vm.environ, directory=vm.directory)
