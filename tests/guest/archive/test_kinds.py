"""Archives of real guests with all kinds of hardware: restored into the same machine and into a new one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.archives import make_archive
from tests.support.programs import qemu_img
from tests.support.world import Vm

pytestmark = pytest.mark.guest

OPTIONS = "sudo -n sh -c"
HOST_KEY = "/etc/dropbear/dropbear_ed25519_host_key"


def device(vm: Vm, serial: str) -> str:
    """What the guest calls a disk: vdb, vdc ..., in the order in which it found them this time."""
    return vm.ok("ssh", f"grep -lx {serial} /sys/block/vd*/serial").out.split("/")[3]


def put(vm: Vm, serial: str, word: str) -> None:
    vm.ok("ssh", f"echo {word} | sudo -n dd of=/dev/{device(vm, serial)} bs=512 conv=sync,fsync 2>/dev/null")


def look(vm: Vm, serial: str) -> str:
    return vm.ok("ssh", f"sudo -n head -c 3 /dev/{device(vm, serial)}").out


def facts(vm: Vm) -> dict[str, str]:
    """What the guest sees of its machine."""
    return {
        "uuid": vm.ok("ssh", "sudo -n cat /sys/class/dmi/id/product_uuid").out.strip().lower(),
        "mac": vm.ok("ssh", "cat /sys/class/net/e*/address").out.strip().lower(),
        "name": vm.ok("ssh", "hostname").out.strip(),
        "keys": vm.ok("ssh", "cat .ssh/authorized_keys").out.strip(),
        "host key": vm.ok("ssh", f"sudo -n dropbearkey -y -f {HOST_KEY}").out.splitlines()[1],
    }


@pytest.mark.timeout(900)
def test_uefi_tpm_kernel_seed_and_disks_of_each_kind_come_back(guest: Vm, tiny: str) -> None:
    """Archived while it works, and again what has changed; the files that it boots from go along."""
    folder = Path(tiny).parent
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(folder / name, guest.directory)
    seed = guest.world.home / "seed"
    seed.mkdir()
    (seed / "meta-data").write_text("instance-id: one\n")
    subprocess.run(["mke2fs", "-q", "-b", "4096", "-d", seed, guest.directory / "seed.img", "1M"], check=True)
    qemu_img(guest, "create", "-q", "-f", "qcow2", "db.qcow2", "8M")
    qemu_img(guest, "create", "-q", "-f", "raw", "plain.raw", "8M")
    qemu_img(guest, "create", "-q", "-f", "qcow2", "../extra.qcow2", "8M")
    words = guest.value("VM_QEMU_EXTRA")
    drive = "-drive file=../extra.qcow2,format=qcow2,if=none,id=x -device virtio-blk-pci,drive=x,serial=extra"
    guest.ok(
        "config",
        "VM_FIRMWARE=uefi", "VM_TPM=yes", "VM_KERNEL=vmlinuz", "VM_INITRD=initrd.img",
        f"VM_APPEND={(folder / 'cmdline').read_text().strip()}",
        "VM_DISKS=db.qcow2\nplain.raw\nseed.img:raw:ro", f"VM_QEMU_EXTRA={words} {drive}",
    )  # fmt: skip
    guest.start()
    db, plain, seed_disk, extra = "disk1", "disk2", "disk3", "extra"
    guest.ok("ssh", "echo before > note; sync")
    put(guest, db, "db1")
    put(guest, plain, "pl1")
    put(guest, extra, "ex1")
    before = facts(guest)
    first = make_archive(guest)
    assert first["consistency"] == "frozen"
    assert not [note for note in first["notes"] if "not in the archive" in note], first["notes"]
    put(guest, extra, "ex2")
    guest.ok("ssh", "echo second > note; sync")
    second = make_archive(guest)
    assert second["incremental"]
    put(guest, db, "db3")
    guest.ok("ssh", "echo third > note; sync")
    guest.ok("stop")
    names = [f"{each['archive']}/{each['stamp']}" for each in (first, second)]

    guest.ok("restore", "--force", names[1])
    guest.start()
    assert facts(guest) == before  # it is the same machine
    assert guest.ok("ssh", "cat note").out == "second\n"
    assert [look(guest, each) for each in (db, plain, extra)] == ["db1", "pl1", "ex2"]
    assert guest.ok("ssh", "ls -d /sys/firmware/efi && ls /sys/firmware/acpi/tables/TPM2").out

    report = json.loads(guest.ok("--json", "restore", names[0], "../twin").out)
    twin = Vm(guest.world, guest.world.home / "twin")
    try:
        twin.start()  # beside the other, which runs
        found = facts(twin)
        assert found["name"] == "twin"
        assert {key for key in before if found[key] == before[key]} == set()
        assert twin.ok("ssh", "cat note").out == "before\n"
        assert [look(twin, each) for each in (db, plain, extra)] == ["db1", "pl1", "ex1"]
        put(twin, extra, "ex9")
        assert look(guest, extra) == "ex2"
        mount = f"mount -t ext4 -o ro /dev/{device(twin, seed_disk)} /mnt"
        assert twin.ok("ssh", f"{OPTIONS} '{mount}; cat /mnt/meta-data'").out
        assert "its TPM holds the same keys as the one of demo" in report["notes"]
        assert "powered off" in twin.ok("stop").out
    finally:
        twin.kill()


@pytest.mark.timeout(900)
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
