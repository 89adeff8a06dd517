"""The disks that an argument list names, and what stands against a snapshot of them."""

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
        "the disk my data.img is raw, which holds no snapshots: `qemu-img convert -f raw -O qcow2 "
        "'/vm/my data.img' '/vm/my data.qcow2'` and use that, or make it read-only",
        "the UEFI variables vars.fd are raw, which holds no snapshots: `qemu-img convert -f raw -O qcow2 "
        "/vm/vars.fd /vm/vars.qcow2` and use that; VM_FIRMWARE=uefi makes them so by itself",
    ]


@pytest.mark.parametrize(
    ("words", "is_blocked"),
    [
        (["qemu", "-accel", "hvf"], True),
        (["qemu", "-machine", "pc,accel=whpx:tcg"], True),
        (["qemu", "-accel", "nvmm,x=y"], True),
        (["qemu", "-accel", "kvm"], False),
        (["qemu", "-machine", "pc", "-accel", "tcg,thread=single"], False),
        (["qemu", "-enable-kvm"], False),
    ],
)
def test_accelerators_that_cannot_save(words: list[str], is_blocked: bool) -> None:
    assert bool(blockers.of_accelerator(words)) == is_blocked


class Qemu:
    """Answers `query-migrate` with reasons as QEMU 7.2 gives them."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons

    def ask(self, command: str) -> dict[str, object]:
        assert command == "query-migrate"
        return {"blocked-reasons": list(self.reasons)} if self.reasons else {}


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        (
            "Migration is disabled when VirtFS export path '/s' is mounted in the guest using mount_tag 'sh'",
            "the guest has mounted the 9p share sh: umount it in the guest",
        ),
        ("non-migratable device: 0000:00:05.0/vhost-user-fs", "a virtiofs share is attached"),
        ("non-migratable device: 0000:00:06.0/vfio", "a device of the host is passed through"),
        (
            "non-migratable device: 0000:00:08.0/nvme",
            "QEMU cannot save the state of nvme disks: `qvm config VM_DISK_BUS=",
        ),
        ("non-migratable device: nvme", "QEMU cannot save it: non-migratable device: nvme"),
    ],
)
def test_what_qemu_cannot_save_is_put_into_words(reason: str, wanted: str) -> None:
    found = blockers.of_devices(Qemu(reason))  # type: ignore[arg-type]
    assert str(found[0]).startswith(wanted)
    assert not blockers.of_devices(Qemu())  # type: ignore[arg-type]


def test_too_little_room_names_both_numbers(tmp_path: object) -> None:
    disk = Volume("disk0", f"{tmp_path}/a.qcow2", "qcow2")
    assert not blockers.of_room(disk, 1)
    found = blockers.of_room(disk, 1 << 60)
    assert "a.qcow2 would grow by up to 1048576.0 TiB, and there is room for " in found[0].what
