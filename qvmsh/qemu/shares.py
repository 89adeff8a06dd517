"""Directories of the host in QEMU's arguments: 9p, which QEMU serves, and virtiofs, which virtiofsd serves.

    words([Share("share-src", "src", "/src", "9p")], platform)
    # ["-fsdev", "local,id=share-src-fs,path=/src,...", "-device", '{"driver": "virtio-9p-pci", ...}']

They come last, so that a start without them leaves the places of all other devices on the bus. On q35 and
`virt` each has a port of its own, from which it can be removed.
Source: qemu-system-x86_64(1), `-fsdev`; QEMU docs/tools/virtiofsd.
"""

from __future__ import annotations

from dataclasses import dataclass

from qvmsh.qemu.qmp import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.qemu.platforms import Platform

P9 = "9p"


@dataclass(frozen=True)
class Share:
    """One directory for the guest.

    Args:
        id: QEMU's name of the device.
        tag: what the guest mounts it by.
        path: the directory; QEMU itself opens it for 9p only.
        kind: `9p` or `virtiofs`.
        chardev: how QEMU reaches virtiofsd, `fd=N` or `path=...` with its commas doubled.
        is_read_only: the guest cannot change it; virtiofsd has to see to that for virtiofs.
        is_passing: owners and modes that the guest sets are set here; else owners are not.
        is_attached: the device is there at the start; else it can be added later.
    """

    id: str
    tag: str
    path: str
    kind: str
    chardev: str = ""
    is_read_only: bool = False
    is_passing: bool = True
    is_attached: bool = True


def words(shares: Sequence[Share], platform: Platform) -> list[str]:
    """The arguments of all shares; they are the last ones."""
    argv: list[str] = []
    for number, each in enumerate(shares):
        if platform.has_ports:
            port = {"driver": "pcie-root-port", "id": f"{each.id}-port", "chassis": 100 + number}
            argv += ["-device", dumps(port)]
        if each.kind == P9:
            model = "passthrough" if each.is_passing else "none"
            option = f"local,id={each.id}-fs,path={each.path.replace(',', ',,')},security_model={model}"
            argv += ["-fsdev", f"{option},multidevs=remap" + (",readonly=on" if each.is_read_only else "")]
        elif each.is_attached:
            argv += ["-chardev", f"socket,id={each.id}-fs,{each.chardev}"]
        if each.is_attached:
            argv += ["-device", dumps(device(each, platform))]
    return argv


def device(share: Share, platform: Platform) -> dict[str, Any]:
    """The device, for `-device` and QMP's device_add."""
    bus = {"bus": f"{share.id}-port"} if platform.has_ports else {}
    if share.kind == P9:
        own = {"driver": platform.virtio("9p"), "fsdev": f"{share.id}-fs", "mount_tag": share.tag}
    else:
        driver = f"vhost-user-fs-{platform.transport}"
        own = {"driver": driver, "chardev": f"{share.id}-fs", "tag": share.tag}
    return {**own, "id": share.id, **bus}


def memory(shares: Sequence[Share], platform: Platform, memory_mib: int, own: Sequence[str]) -> list[str]:
    """The guest's memory, where virtiofsd must see it: the arguments, `-machine` not among them.

    Args:
        own: the user's words; nothing is added where they say what the memory is.
    """
    if all(each.kind == P9 for each in shares) or any("memory-backend" in word for word in own):
        return []
    return ["-object", f"memory-backend-memfd,id={platform.ram},size={memory_mib}M,share=on"]
