"""Hardware that the guest must see: additional disks, CD, kernel, firmware, TPM, agent, clock."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.guest_writer import file_system
from tests.support.programs import output_of, qemu_img
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


TURNS = pytest.mark.parametrize("turns", [1, pytest.param(3, marks=pytest.mark.long)])


def check_turns(vm: Vm, count: int, data: str = "") -> None:
    """Suspend, save, quit, load, ssh, so many times; memory, disks and clock are right."""
    uptime = "cut -d. -f1 /proc/uptime"
    for turn in range(count):
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
    turns = "".join(f"{turn}\n" for turn in range(count))
    assert vm.ok("ssh", "cat turns").out == turns
    if data:
        assert vm.ok("ssh", f"cat {data}/turns").out == turns


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
    assert "demo: powered off by guest agent in " in guest.patiently("stop").out
    assert (guest.directory / "data.img").read_bytes().startswith(b"written\n")


@TURNS
def test_hardware_by_hand_starts_saves_loads_and_stops(guest: Vm, tiny: str, turns: int) -> None:
    """The hardware of the old `vm`: IDE disk, QEMU's default devices, a port of the user's own.

    The kernel is given: the BIOS takes half a minute to read it from an IDE disk under tcg.
    """
    folder = Path(tiny).parent
    append = (folder / "cmdline").read_text().strip()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    guest.set(
        VM_SSH_PORT=str(port),
        VM_QEMU_ARGS="-M pc -accel tcg -cpu max -m 256 -hda demo-backing.qcow2 -serial chardev:serial "
        f"-device virtio-net-pci,netdev=n -netdev user,id=n,hostfwd=tcp:127.0.0.1:{port}-:22 "
        "-device virtio-serial -device virtserialport,chardev=qga,name=org.qemu.guest_agent.0 "
        f'-kernel {folder}/vmlinuz -initrd {folder}/initrd.img -append "{append}"',
    )
    guest.start()
    assert "demo-backing" in guest.ok("cmd", "info block ide0-hd0").out
    check_turns(guest, turns)
    assert "demo: powered off by guest agent in " in guest.patiently("stop").out
    assert (guest.directory / ".qvm/log/serial.log").stat().st_size


@pytest.mark.parametrize(
    ("machine", "turns"),
    [("q35", 1), *(pytest.param(each, 3, marks=pytest.mark.long) for each in ("pc", "q35"))],
)
def test_savevm_with_uefi_and_a_second_disk(guest: Vm, tiny: str, machine: str, turns: int) -> None:
    boot_by_kernel(guest, tiny)
    name = "./data,=:x.qcow2"
    qemu_img(guest, "create", "-q", "-f", "qcow2", name, "64M")
    guest.set(VM_FIRMWARE="uefi", VM_QEMU_MACHINE=machine, VM_DISKS="data,=:x.qcow2")
    guest.start()
    assert guest.ok("ssh", "ls -d /sys/firmware/efi").out == "/sys/firmware/efi\n"
    guest.ok("ssh", "sudo -n sh -c 'mke2fs -q /dev/vdb && mount /dev/vdb /mnt && chmod 777 /mnt'")
    check_turns(guest, turns, data="/mnt")
    guest.end_in_guest("qemu-ga")
    assert "powered off" in guest.ok("stop").out
    (row,) = (line for line in qemu_img(guest, "snapshot", "-l", name).splitlines() if "ready" in line)
    assert " 0 B " in row  # the memory is on the main disk
    assert "ready" in qemu_img(guest, "snapshot", "-l", "demo-uefi.qcow2")
    with file_system(guest, name) as raw:  # and what was written is there
        found = output_of(guest, "debugfs", "-R", "cat turns", raw)
    assert found == "".join(f"{turn}\n" for turn in range(turns))
