"""The disks that an argument list names."""

from __future__ import annotations

import os

import pytest

from qvmsh.machine.snapshot import obstacles as blockers
from qvmsh.machine.storage.volumes import Volume
from qvmsh.qemu.drives import Drive, drives


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["-drive", "file=a,,b=c.raw,format=raw,if=virtio"], [Drive("drive0", "a,b=c.raw", "raw")]),
        (["-drive", "if=none,id=x,file=a.qcow2,readonly=on"], [Drive("x", "a.qcow2", "", True)]),
        (["-drive", "if=pflash,format=raw,file=v.fd"], [Drive("drive0", "v.fd", "raw", False, True)]),
        (["-drive", "file=cd.iso,media=cdrom", "-cdrom", "x.iso"], []),
        (["-drive", "file=a.raw,snapshot=on"], []),
        (["-hda", "a.img", "-hdb", "b.img"], [Drive("drive0", "a.img"), Drive("drive1", "b.img")]),
        (
            ["-hda", "file:a.img", "-drive", "file=file:b,,c.raw"],
            [Drive("drive0", "a.img"), Drive("drive1", "b,c.raw")],
        ),
        (["-hda", "a.img", "-snapshot"], []),
        (
            ["-snapshot", "-hda", "a.img", "-blockdev", "driver=file,node-name=f,filename=r.img"],
            [Drive("f", "r.img", "raw")],
        ),
        (
            [
                *("-blockdev", '{"driver": "file", "node-name": "f", "filename": "a.qcow2"}'),
                *("-blockdev", "driver=qcow2,node-name=q,file=f"),
            ],
            [Drive("q", "a.qcow2", "qcow2")],
        ),
        (
            ["-blockdev", '{"driver":"raw","node-name":"r","file":{"driver":"file","filename":"r.img"}}'],
            [Drive("r", "r.img", "raw")],
        ),
        (["-blockdev", "driver=file,node-name=f,filename=r.img"], [Drive("f", "r.img", "raw")]),
        (["-blockdev", "{no json", "-blockdev", "[]", "-m", "64", "-drive"], []),
    ],
)
def test_drives_are_found(words: list[str], wanted: list[Drive]) -> None:
    assert drives(words) == wanted


def test_blockers_of_disks_name_the_remedy() -> None:
    disks = [
        Volume("disk0", "/vm/a.qcow2", "qcow2"),
        Volume("disk1", "/vm/my data.img", "raw"),
        Volume("disk2", "/vm/cd.iso", "raw", is_read_only=True),
        Volume("uefi", "/vm/vars.fd", "raw", is_flash=True),
    ]
    found = [str(each) for each in blockers.of_disks(disks, os.getcwd())]
    assert found == [
        "the disk my data.img is raw, which cannot hold snapshots: `qemu-img convert -f raw -O qcow2 "
        "'/vm/my data.img' '/vm/my data.qcow2'` and use the result, or make it read-only",
        "the UEFI variables vars.fd are raw, which cannot hold snapshots: `qemu-img convert -f raw -O qcow2 "
        "/vm/vars.fd /vm/vars.qcow2` and use the result; VM_FIRMWARE=uefi creates them as qcow2",
    ]
