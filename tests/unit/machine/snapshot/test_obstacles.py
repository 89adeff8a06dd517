"""What QEMU says of state that it cannot save, put into words with a remedy; and what cannot be saved at all.

Most of these cannot be had on every host (no 9p in the built-in guest's kernel, no device to pass through, no
hvf or whpx on Linux), so QEMU's own words are replayed. Source: QEMU 7.2 and 9.0, the blockers' `error_setg`.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from qvmsh.errors import QmpError, StateError
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.snapshot import obstacles as blockers
from qvmsh.machine.storage.volumes import Volume

REASONS = {
    "Migration is disabled when VirtFS export path '/srv/x' is mounted in the guest using mount_tag 'sh'": (
        "the guest has mounted the 9p share sh", "unmount",
    ),
    "non-migratable device: 0000:00:04.0/vhost-user-fs": ("a virtiofs share is attached", "start without it"),
    "Migration disabled: vhost-user-fs lacks support": ("a virtiofs share is attached", "start without it"),
    "non-migratable device: 0000:00:05.0/vfio-pci": ("a device of the host is passed through", "device_del"),
    "VFIO device doesn't support migration": ("a device of the host is passed through", "device_del"),
    "0000:00:05.0: VFIO migration is not supported in kernel": ("a device of the host", "device_del"),
    "non-migratable device: 0000:00:01.2/1/usb-host": ("a device of the host is passed", "device_del"),
    "non-migratable device: 0000:00:04.0/nvme": ("QEMU cannot save the state of nvme disks", "virtio"),
    "State blocked by non-migratable CPU device (invtsc flag)": ("QEMU cannot save it: State", "--disk-only"),
    "NVMM does not support migration": ("the accelerator cannot save the state", "--disk-only"),
    "The whpx accelerator does not support migration": ("the accelerator cannot save", "--disk-only"),
}  # fmt: skip


class Qemu:
    """Answers `query-migrate` as QEMU does."""

    def __init__(self, *reasons: str, is_old: bool = False) -> None:
        self.reasons = reasons
        self.is_old = is_old

    def ask(self, command: str, *_: object, **__: object) -> Any:
        if command == "qom-list":
            return [{"name": "net0"}]
        assert command == "query-migrate"
        if self.is_old:
            raise QmpError("query-migrate: not here")
        return {"blocked-reasons": list(self.reasons)} if self.reasons else {}


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_of_qemu_is_named_with_a_remedy(reason: str) -> None:
    (found,) = blockers.of_devices(Qemu(reason))  # type: ignore[arg-type]
    what, remedy = REASONS[reason]
    assert found.what.startswith(what)
    assert remedy in found.remedy


def test_reasons_are_reported_once_and_none_is_none() -> None:
    both = blockers.of_devices(Qemu(*REASONS, *REASONS))  # type: ignore[arg-type]
    assert len(both) == len({each.what + each.remedy for each in both})
    assert blockers.of_devices(Qemu()) == []  # type: ignore[arg-type]
    assert blockers.of_devices(Qemu(is_old=True)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["hvf", "nvmm", "whpx"])
def test_accelerators_that_cannot_save_in_each_spelling(kind: str) -> None:
    for words in (["-accel", kind], ["-accel", f"{kind},x=y"], ["-machine", f"q35,accel={kind}"],
                  ["-M", f"accel={kind}:tcg"]):  # fmt: skip
        (found,) = blockers.of_accelerator(["qemu", *words, "-m", "64"])
        assert found.what == f"the accelerator {kind} cannot save the processor state"
        assert "--disk-only" in found.remedy


@pytest.mark.parametrize(
    "words", [["-accel", "tcg"], ["-accel", "kvm"], ["-M", "accel=tcg:hvf"], ["-accel"], []]
)
def test_accelerators_that_can_are_not_an_obstacle(words: list[str]) -> None:
    assert blockers.of_accelerator(["qemu", *words]) == []


def test_disks_that_hold_no_snapshots() -> None:
    disks = [
        Volume("disk0", "/vm/a.qcow2", "qcow2"),
        Volume("disk1", "/vm/b c.raw", "raw"),
        Volume("disk2", "/vm/d.vmdk", "vmdk", is_read_only=True),
        Volume("vars", "/vm/vars.fd", "raw", is_flash=True),
    ]
    raw, variables = blockers.of_disks(disks, os.getcwd())
    assert str(raw) == (
        "the disk b c.raw is raw, which cannot hold snapshots: `qemu-img convert -f raw -O qcow2 "
        "'/vm/b c.raw' '/vm/b c.qcow2'` and use the result, or make it read-only"
    )
    assert variables.what == "the UEFI variables vars.fd are raw, which cannot hold snapshots"
    assert "VM_FIRMWARE=uefi" in variables.remedy


def test_all_of_them_are_named_at_once(tmp_path: Any) -> None:
    disks = [Volume(f"disk{at}", str(tmp_path / f"{at}.raw"), "raw") for at in range(2)]
    with pytest.raises(StateError) as caught:
        blockers.require(
            BaseMachine(tmp_path), disks, "save a snapshot",
            exchange=Qemu("non-migratable device: 0000:00:04.0/nvme"), pid=1, has_memory=True,  # type: ignore[arg-type]
        )  # fmt: skip
    assert "(and 2 more)" in caught.value.what
    assert [line.partition(": ")[0] for line in caught.value.details] == [
        "the disk 0.raw is raw, which cannot hold snapshots",
        "the disk 1.raw is raw, which cannot hold snapshots",
        "QEMU cannot save the state of nvme disks",
    ]


def test_nothing_to_write_to_is_a_blocker(tmp_path: Any) -> None:
    disks = [Volume("disk0", str(tmp_path / "0.qcow2"), "qcow2", is_read_only=True)]
    with pytest.raises(StateError, match="the machine has no writable disk"):
        blockers.require(BaseMachine(tmp_path), disks, "save a snapshot")


def test_too_little_space_reports_how_much_is_needed_and_where(tmp_path: Any) -> None:
    disk = Volume("disk0", str(tmp_path / "a.qcow2"), "qcow2")
    assert blockers.of_room(disk, 1) == []
    (found,) = blockers.of_room(disk, 1 << 60)
    assert found.what.startswith("a.qcow2 would grow by up to 1048576.0 TiB, but only ")
    assert str(tmp_path) in found.remedy


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


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        (
            "Migration is disabled when VirtFS export path '/s' is mounted in the guest using mount_tag 'sh'",
            "the guest has mounted the 9p share sh: unmount it in the guest",
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


def test_too_little_space_names_both_numbers(tmp_path: object) -> None:
    disk = Volume("disk0", f"{tmp_path}/a.qcow2", "qcow2")
    assert not blockers.of_room(disk, 1)
    found = blockers.of_room(disk, 1 << 60)
    assert "a.qcow2 would grow by up to 1048576.0 TiB, but only " in found[0].what
