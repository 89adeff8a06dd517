"""Archives of real guests with all kinds of hardware: restored into the same machine and into a new one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.archives import make_archive, state_name
from tests.support.disks import read_byte, write_byte
from tests.support.programs import qemu_img
from tests.support.world import Vm

pytestmark = pytest.mark.guest

OPTIONS = "sudo -n sh -c"
FORMATS = {"db.qcow2": "qcow2", "plain.raw": "raw", "../extra.qcow2": "qcow2"}


def device(vm: Vm, serial: str) -> str:
    """What the guest calls a disk: vdb, vdc ..., in the order in which it found them this time."""
    return vm.ok("ssh", f"grep -lx {serial} /sys/block/vd*/serial").out.split("/")[3]


def look(vm: Vm, serial: str) -> str:
    return vm.ok("ssh", f"sudo -n head -c 3 /dev/{device(vm, serial)}").out


def put_off(vm: Vm, disk: str, letter: str) -> None:
    write_byte(vm, ord(letter), "0", disk, FORMATS[disk])


def look_off(vm: Vm) -> str:
    """The first letters on the disks."""
    return "".join(chr(read_byte(vm, "0", disk, form)) for disk, form in FORMATS.items())


def create_with_all(guest: Vm, folder: Path) -> None:
    """UEFI, a TPM, a kernel, an image with settings for the guest, three more disks; `folder` is tiny's."""
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(folder / name, guest.directory)
    seed = guest.world.home / "seed"
    seed.mkdir()
    (seed / "meta-data").write_text("instance-id: one\n")
    subprocess.run(["mke2fs", "-q", "-b", "4096", "-d", seed, guest.directory / "seed.img", "1M"], check=True)
    for name, form in FORMATS.items():
        qemu_img(guest, "create", "-q", "-f", form, name, "8M")
    words = guest.value("VM_QEMU_EXTRA")
    drive = "-drive file=../extra.qcow2,format=qcow2,if=none,id=x -device virtio-blk-pci,drive=x,serial=extra"
    guest.ok(
        "config",
        "VM_FIRMWARE=uefi", "VM_TPM=yes", "VM_KERNEL=vmlinuz", "VM_INITRD=initrd.img",
        f"VM_APPEND={(folder / 'cmdline').read_text().strip()}",
        "VM_DISKS=db.qcow2\nplain.raw\nseed.img:raw:ro", f"VM_QEMU_EXTRA={words} {drive}",
    )  # fmt: skip


def test_uefi_tpm_kernel_seed_and_disks_of_each_kind_come_back(guest: Vm, tiny: str) -> None:
    """Archived twice, and put back; the files that it boots from go along, so a new machine of it boots."""
    create_with_all(guest, Path(tiny).parent)
    for disk in FORMATS:
        put_off(guest, disk, "1")
    first = make_archive(guest)
    assert not [note for note in first["notes"] if "not in the archive" in note], first["notes"]
    put_off(guest, "../extra.qcow2", "2")
    second = make_archive(guest)
    put_off(guest, "db.qcow2", "3")
    guest.ok("restore", "--force", state_name(second))
    assert look_off(guest) == "112"

    report = json.loads(guest.ok("--json", "restore", state_name(first), "../twin").out)
    assert "its TPM holds the same keys as the one of demo" in report["notes"]
    twin = Vm(guest.world, guest.world.home / "twin")
    try:
        twin.start()
        assert twin.ok("ssh", "hostname; ls -d /sys/firmware/efi").out == "twin\n/sys/firmware/efi\n"
        assert twin.ok("ssh", "ls /sys/firmware/acpi/tables/TPM2").out
        assert [look(twin, each) for each in ("disk1", "disk2", "extra")] == ["111"] * 3
        mount = f"mount -t ext4 -o ro /dev/{device(twin, 'disk3')} /mnt"
        assert twin.ok("ssh", f"{OPTIONS} '{mount}; cat /mnt/meta-data'").out == "instance-id: one\n"
        twin.ok("ssh", f"echo 999 | sudo -n dd of=/dev/{device(twin, 'extra')} conv=fsync 2>/dev/null")
        assert "powered off" in twin.ok("stop").out
    finally:
        twin.kill()
    assert look_off(guest) == "112"  # the new one has disks of its own


@pytest.mark.long
def test_machine_without_layers_with_a_saved_state_comes_back(guest: Vm) -> None:
    """VM_USE_SNAPSHOTS=no; the memory too, and a new machine that resumes it keeps the key."""
    qemu_img(guest, "convert", "-O", "qcow2", "demo-backing.qcow2", "demo.qcow2")
    guest.ok("config", "VM_USE_SNAPSHOTS=no")
    guest.start()
    guest.ok("ssh", "echo disk > note; sync; echo memory > /tmp/memory")
    made = make_archive(guest, "--savevm", "live")
    guest.ok("ssh", "echo later > note; echo later > /tmp/memory")
    guest.ok("stop")
    guest.ok("restore", "--force", "latest")
    guest.ok("start", "--loadvm", "live")
    assert guest.ok("ssh", "cat note /tmp/memory").out == "disk\nmemory\n"
    guest.ok("stop")
    report = json.loads(guest.ok("--json", "restore", f"{made['archive']}/{made['stamp']}", "../twin").out)
    assert "the ssh keys are still those of demo, which its snapshots need" in report["notes"]
    twin = Vm(guest.world, guest.world.home / "twin")
    try:
        twin.ok("start", "--loadvm", "live")
        assert twin.ok("ssh", "cat note /tmp/memory").out == "disk\nmemory\n"
        twin.ok("stop")
        twin.start()
        assert twin.ok("ssh", "cat note; hostname").out == "disk\ntwin\n"
    finally:
        twin.kill()
