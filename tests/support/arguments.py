"""QEMU's argument list, and what is in it."""

from __future__ import annotations

from itertools import pairwise

from qvmsh.qemu.commandline import Disk, Endpoint, Hardware, Network

BASE = Hardware(
    binary="qemu-system-x86_64",
    name="demo",
    uuid="00000000-0000-0000-0000-000000000000",
    machine="pc",
    accelerator="tcg",
    cpu="max",
    vcpus=2,
    memory_mib=256,
    disks=(Disk("demo-backing.qcow2", "qcow2"),),
    network=Network("virtio-net-pci", "DE:AD:BE:EF:33:11", 2222),
    endpoints={
        name: Endpoint(path=f"/run/{name}")
        for name in ("qmp", "session", "events", "watch", "monitor", "serial", "qga")
    },
    pid_file=".qvm/qemu.pid",
    serial_log=".qvm/log/serial.log",
)


def option_value(argv: list[str], option: str, containing: str = "") -> str:
    """The value after `option` (the one that contains a text)."""
    return next(b for a, b in pairwise(argv) if a == option and containing in b)


def option_fields(text: str) -> dict[str, str]:
    """QEMU's own reading of `key=value,...`: a doubled comma is a comma. Source: util/qemu-option.c."""
    parts = text.replace(",,", "\0").split(",")
    return {k: v.replace("\0", ",") for k, _, v in (part.partition("=") for part in parts)}
