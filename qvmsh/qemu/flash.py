"""UEFI firmware in two flash chips, in QEMU's arguments: pure.

words(Flash("/usr/share/OVMF/OVMF_CODE.fd", "raw", "demo-uefi-vars.qcow2"))
"""

from __future__ import annotations

from dataclasses import dataclass

from qvmsh.qemu.qmp import dumps

UEFI_CODE, UEFI_VARIABLES = "uefi-code", "uefi-variables"
"""Node names of the firmware's two halves."""


@dataclass(frozen=True)
class Flash:
    """UEFI firmware in two flash chips: its code, and its variables.

    Args:
        variables: image (qcow2) that takes the guest's variables.
        needs_smm: the firmware keeps its variables from the guest by System Management Mode.
    """

    code: str
    code_format: str
    variables: str
    needs_smm: bool = False


def machine(flash: Flash | None) -> str:
    """What the firmware adds to the value of `-machine`."""
    if flash is None:
        return ""
    smm = ",smm=on" if flash.needs_smm else ""
    return f",pflash0={UEFI_CODE},pflash1={UEFI_VARIABLES}{smm}"


def words(flash: Flash | None) -> list[str]:
    """The arguments of both chips."""
    if flash is None:
        return []
    code: dict[str, object] = {"driver": "file", "filename": flash.code, "read-only": True}
    halves: tuple[dict[str, object], ...] = (
        {"node-name": UEFI_CODE, "driver": flash.code_format, "read-only": True, "file": code},
        {
            "node-name": UEFI_VARIABLES,
            "driver": "qcow2",
            "file": {"driver": "file", "filename": flash.variables},
        },
    )
    argv = [word for half in halves for word in ("-blockdev", dumps(half))]
    if flash.needs_smm:
        argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    return argv
