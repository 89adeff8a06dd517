"""Shares in QEMU's arguments."""

from __future__ import annotations

import json
from dataclasses import replace

from qvmsh.qemu import platforms, shares
from qvmsh.qemu.commandline import arguments
from qvmsh.qemu.shares import Share
from tests.support.arguments import BASE

P9 = Share("share-a", "a", "/s,x=y", "9p", is_read_only=True)
FS = Share("share-b", "b", "/b", "virtiofs", "fd=7")


def test_devices_are_the_last_words_and_memory_is_shared() -> None:
    argv = arguments(replace(BASE, shares=(P9, FS), extra=("-device", "virtio-balloon-pci")))
    at = argv.index("virtio-balloon-pci")
    assert argv[at + 1 :: 2] == ["-fsdev", "-device", "-chardev", "-device"]
    assert argv[at + 2] == (
        "local,id=share-a-fs,path=/s,,x=y,security_model=passthrough,multidevs=remap,readonly=on"
    )
    assert json.loads(argv[-1]) == {
        "driver": "vhost-user-fs-pci", "chardev": "share-b-fs", "tag": "b", "id": "share-b",
    }  # fmt: skip
    memory = argv[argv.index("-object") + 1]
    assert memory == f"memory-backend-memfd,id=pc.ram,size={BASE.memory_mib}M,share=on"
    assert argv[argv.index("-machine") + 1].endswith(",memory-backend=pc.ram")


def test_9p_alone_and_memory_of_the_user_leave_the_memory() -> None:
    assert "-object" not in arguments(replace(BASE, shares=(P9,)))
    own = ("-object", "memory-backend-memfd,id=m,size=64M,share=on")
    assert arguments(replace(BASE, shares=(FS,), extra=own)).count("-object") == 1
    machine = arguments(replace(BASE, shares=(FS,), extra=own))
    assert "memory-backend=" not in machine[machine.index("-machine") + 1]


def test_q35_has_a_port_for_each_also_of_one_that_comes_later() -> None:
    argv = shares.words([P9, replace(FS, is_attached=False)], platforms.Q35)
    devices = [
        json.loads(word) for flag, word in zip(argv[::2], argv[1::2], strict=True) if flag == "-device"
    ]
    assert [each["driver"] for each in devices] == ["pcie-root-port", "virtio-9p-pci", "pcie-root-port"]
    assert devices[1]["bus"] == devices[0]["id"] == "share-a-port"


def test_9p_without_its_device_keeps_its_directory() -> None:
    argv = shares.words([replace(P9, is_attached=False, is_passing=False)], platforms.PC)
    assert argv[0] == "-fsdev"
    assert "security_model=none" in argv[1]
    assert len(argv) == 2
