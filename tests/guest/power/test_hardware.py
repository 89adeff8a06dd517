"""Hardware that the guest must see: additional disks, CD, kernel, firmware, TPM, agent, clock."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.programs import qemu_img
from tests.support.world import Vm

pytestmark = pytest.mark.guest


def boot_by_kernel(vm: Vm, tiny: str) -> None:
    """tiny's disk boots by BIOS only; its kernel is beside it."""
    folder = Path(tiny).parent
    vm.set(
        VM_KERNEL=str(folder / "vmlinuz"),
        VM_INITRD=str(folder / "initrd.img"),
        VM_APPEND=(folder / "cmdline").read_text().strip(),
    )


def check_three_turns(vm: Vm, data: str = "") -> None:
    """Suspend, save, quit, load, ssh, three times; memory, disks and clock are right."""
    uptime = "cut -d. -f1 /proc/uptime"
    for turn in range(3):
        vm.ok("ssh", f"echo {turn} >> turns; sync; echo {turn} > /tmp/in-memory")
        if data:
            vm.ok("ssh", f"echo {turn} >> {data}/turns; sync")
        up = int(vm.ok("ssh", uptime).out)
        vm.ok("stop", "--savevm", "ready")
        assert vm.qvm("status").out == "demo: stopped\n"
        vm.ok("start", "--loadvm", "ready")
        assert vm.ok("ssh", "cat /tmp/in-memory").out == f"{turn}\n"  # the memory is the same
        assert int(vm.ok("ssh", uptime).out) >= up  # it did not boot
        assert vm.clock_error_s() < 5
    assert vm.ok("ssh", "cat turns").out == "0\n1\n2\n"
    if data:
        assert vm.ok("ssh", f"cat {data}/turns").out == "0\n1\n2\n"


def test_start_guest_sees_all_that_is_configured(guest: Vm, tiny: str, tmp_path: Path) -> None:
    """Its own kernel, disks, CD, TPM, clock; and the agent on the second UART powers it off."""
    boot_by_kernel(guest, tiny)
    append = (Path(tiny).parent / "cmdline").read_text().strip()
    guest.set(
        VM_APPEND=f"{append} qvm.test=a,b",
        VM_GUEST_AGENT_METHOD="isa-serial",
        VM_CDROM="cd.iso",
        VM_DISKS="data.img:raw:none\nread-only.qcow2:qcow2:writeback:ro",
        VM_TPM="yes",
        VM_RTC_BASE="2030-01-31T12:00:00",
    )
    content = tmp_path / "content"
    content.mkdir()
    (content / "note").write_text("on the CD\n")
    subprocess.run(
        ["mke2fs", "-q", "-b", "4096", "-d", content, guest.directory / "cd.iso", "4M"], check=True
    )
    qemu_img(guest, "create", "-q", "-f", "raw", "data.img", "8M")
    qemu_img(guest, "create", "-q", "-f", "qcow2", "read-only.qcow2", "8M")
    guest.start()
    assert "qvm.test=a,b" in guest.ok("ssh", "cat /proc/cmdline").out
    assert guest.ok("ssh", "date +%Y").out == "2030\n"
    assert guest.ok("ssh", "cat /sys/block/vdb/serial /sys/block/vdc/serial").out == "disk1disk2"
    assert guest.ok("ssh", "cat /sys/block/vdb/ro /sys/block/vdc/ro").out == "0\n1\n"
    assert guest.ok("ssh", "ls /sys/firmware/acpi/tables/TPM2").out
    drive = "modprobe sr_mod; modprobe ata_piix; until [ -b /dev/sr0 ]; do usleep 50000; done"
    mount = f"{drive}; mount -t ext4 -o ro"
    assert guest.ok("ssh", f"sudo -n sh -c '{mount} /dev/sr0 /mnt; cat /mnt/note'").out == "on the CD\n"
    guest.ok("ssh", "echo written | sudo -n dd of=/dev/vdb conv=fsync 2>/dev/null")
    assert "demo: powered off by guest agent in " in guest.ok("stop").out
    assert (guest.directory / "data.img").read_bytes().startswith(b"written\n")
    guest.start("--disposable")
    guest.ok("ssh", "echo changed | sudo -n dd of=/dev/vdb conv=fsync 2>/dev/null")
    guest.ok("stop")
    assert (guest.directory / "data.img").read_bytes().startswith(b"written\n")


def test_hardware_by_hand_starts_saves_loads_and_stops(guest: Vm) -> None:
    """The hardware of the old `vm`: IDE disk, QEMU's default devices, a port of the user's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    guest.set(
        VM_SSH_PORT=str(port),
        VM_QEMU_ARGS="-M pc -accel tcg -cpu max -m 256 -hda demo-backing.qcow2 -serial chardev:serial "
        f"-device virtio-net-pci,netdev=n -netdev user,id=n,hostfwd=tcp:127.0.0.1:{port}-:22 "
        "-device virtio-serial -device virtserialport,chardev=qga,name=org.qemu.guest_agent.0",
    )
    guest.start()
    assert "demo-backing" in guest.ok("cmd", "info block ide0-hd0").out
    check_three_turns(guest)
    assert "demo: powered off by guest agent in " in guest.ok("stop").out
    assert (guest.directory / ".qvm/log/serial.log").stat().st_size


def test_savevm_with_a_second_disk_three_times_in_a_row(guest: Vm) -> None:
    qemu_img(guest, "create", "-q", "-f", "qcow2", "./data,=:x.qcow2", "64M")
    guest.set(VM_DISKS="data,=:x.qcow2")
    guest.start()
    guest.ok("ssh", "sudo -n sh -c 'mke2fs -q /dev/vdb && mount /dev/vdb /mnt && chmod 777 /mnt'")
    check_three_turns(guest, data="/mnt")
    assert "powered off" in guest.ok("stop").out
    (row,) = (
        line for line in qemu_img(guest, "snapshot", "-l", "./data,=:x.qcow2").splitlines() if "ready" in line
    )
    assert " 0 B " in row  # the memory is on the main disk
    guest.start()  # and what was written is there after a boot
    assert guest.ok("ssh", "sudo -n mount /dev/vdb /mnt; cat /mnt/turns").out == "0\n1\n2\n"


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_savevm_with_uefi_three_times_in_a_row(guest: Vm, tiny: str, machine: str) -> None:
    boot_by_kernel(guest, tiny)
    guest.set(VM_FIRMWARE="uefi", VM_QEMU_MACHINE=machine)
    guest.start()
    assert guest.ok("ssh", "ls -d /sys/firmware/efi").out == "/sys/firmware/efi\n"
    check_three_turns(guest)
    guest.end_in_guest("qemu-ga")
    assert "powered off" in guest.ok("stop").out
    assert "ready" in qemu_img(guest, "snapshot", "-l", "demo-uefi.qcow2")
