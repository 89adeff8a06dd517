"""Real QEMU takes each kind of hardware that a `.vmrc` can ask for; what is wrong is reported by its name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.support import errors
from tests.support.monitor import monitor, qom
from tests.support.programs import file_hash
from tests.support.world import DEADLINE_S, Blank, Vm

require_error = partial(errors.require_error, who="demo: ")

ODD = "a,b=c:d 'ä\".qcow2"


def image(vm: Vm, name: str, kind: str = "qcow2", size: str = "16M") -> Path:
    path = vm.directory / name
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, path, size], check=True)
    return path


def swtpm_of(vm: Vm) -> list[int]:
    return [pid for pid, line in vm.world.processes().items() if "swtpm" in line.split()[0]]


# VM_DISKS, VM_CDROM, VM_BOOT


@pytest.mark.parametrize(
    ("machine", "buses"),
    [
        ("pc", "virtio ide sata scsi nvme"),
        ("q35", "ide sata"),  # these have other controllers there
        pytest.param("q35", "virtio scsi nvme", marks=pytest.mark.long),
    ],
)
def test_start_two_additional_disks_and_a_cd_on_each_bus(blank: Blank, machine: str, buses: str) -> None:
    disks = f"{ODD}\nraw.img:raw:writethrough"
    vm = blank(VM_QEMU_MACHINE=machine, VM_CDROM="cd,1.iso")
    image(vm, ODD)
    image(vm, "raw.img", "raw")
    image(vm, "cd,1.iso", "raw")
    with (vm.directory / ".vmrc").open("a") as file:
        file.write("VM_DISKS=" + "'" + disks.replace("'", "'\\''") + "'\n")
    for bus in buses.split():
        vm.ok("--set", f"VM_DISK_BUS={bus}", "start", "--no-wait")
        told_by_qemu = monitor(vm, "info block").replace("\r", "")
        for node, name in (("disk1", ODD), ("disk2", "raw.img"), ("cdrom0", "cd,1.iso")):
            assert f"{node}: ./{name} (" in told_by_qemu, bus
        assert "disk2: ./raw.img (raw)" in told_by_qemu, bus
        assert "cdrom0: ./cd,1.iso (raw, read-only)" in told_by_qemu, bus
        for name, at in (("disk0", 1), ("cdrom0", 2), ("disk1", -1)):
            assert qom(vm, f"/machine/peripheral/{name}-device", "bootindex") == at, (bus, name)
        if bus != "nvme":
            assert qom(vm, "/machine/peripheral/disk1-device", "serial") == "disk1", bus
        vm.ok("kill")


def test_start_seven_sata_disks_get_a_second_controller(blank: Blank) -> None:
    names = [f"{at}.img" for at in range(6)]
    vm = blank(VM_DISK_BUS="sata", VM_DISKS="\n".join(names))
    for name in names:
        image(vm, name, "raw", "1M")
    vm.ok("start", "--no-wait")
    assert "sata1" in vm.ok("cmd", "info qtree").out


CACHES = {
    "none": "writeback, direct",
    "writeback": "writeback",
    "writethrough": "writethrough",
    "directsync": "writethrough, direct",
    "unsafe": "writeback, ignore flushes",
}


def test_start_cache_of_a_disk_is_what_qemu_says(blank: Blank) -> None:
    disks = "\n".join(f"{cache}.img:raw:{cache}" for cache in CACHES)
    vm = blank(VM_DISKS=disks, VM_QEMU_EXTRA="-S")  # before a driver chooses another
    for cache in CACHES:
        image(vm, f"{cache}.img", "raw")
    vm.ok("start", "--no-wait")
    told_by_qemu = vm.ok("cmd", "info block").out
    for cache, mode in CACHES.items():
        block = told_by_qemu.partition(f": ./{cache}.img ")[2].partition("\n\n")[0]
        assert f"Cache mode:       {mode}" in block.splitlines()[2], block


def test_start_boot_order_and_menu(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.img", VM_CDROM="cd.iso", VM_BOOT="disk1 network,cdrom menu")
    image(vm, "data.img", "raw")
    image(vm, "cd.iso", "raw")
    vm.ok("start", "--no-wait")
    order = {
        name: qom(vm, f"/machine/peripheral/{name}", "bootindex")
        for name in ("disk0-device", "disk1-device", "nic0", "cdrom0-device")
    }
    assert order == {"disk0-device": -1, "disk1-device": 1, "nic0": 2, "cdrom0-device": 3}
    assert "-boot menu=on" in vm.ok("dryrun").out


def test_start_read_only_disk_does_not_prevent_saving(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.img:raw:ro")
    image(vm, "data.img", "raw")
    vm.ok("start", "--no-wait")
    assert "data.img (raw, read-only)" in vm.ok("cmd", "info block").out
    vm.ok("stop", "--savevm", "x", "--no-suspend")


def test_start_missing_additional_disk_is_named(blank: Blank) -> None:
    vm = blank(VM_DISKS="sub/gone.qcow2\n")
    require_error(vm.qvm("start"), 1, "sub/gone.qcow2 is missing", "qemu-img create -f qcow2 sub/gone.qcow2")
    elsewhere = vm.world.run("start", "demo")
    require_error(elsewhere, 1, "sub/gone.qcow2 is missing", "qemu-img create -f qcow2 demo/sub/gone.qcow2")
    require_error(
        vm.qvm("--set", "VM_DISKS=gone.img:qcow3", "start"),
        1,
        "gone.img:qcow3 is missing",
        "'qcow3' is none",
    )


def test_start_hint_for_an_odd_name_can_be_typed(blank: Blank) -> None:
    vm = blank(VM_DISKS="a:b c/d,e.qcow2")
    hint = vm.qvm("start").err.partition("hint: `")[2].partition("`")[0]
    (vm.directory / "a:b c").mkdir()
    subprocess.run(["sh", "-c", hint], cwd=vm.directory, check=True, stdout=subprocess.DEVNULL)
    vm.ok("start", "--no-wait")


def test_start_truncated_or_orphaned_disk_is_called_so(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.qcow2")
    (vm.directory / "data.qcow2").write_bytes(b"QFI\xfb short")
    require_error(vm.qvm("start"), 1, "data.qcow2 is corrupt", "archive")
    (vm.directory / "data.qcow2").unlink()
    base = image(vm, "below.qcow2")
    words = ["-b", "below.qcow2", "-F", "qcow2", "data.qcow2"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words], cwd=vm.directory, check=True)
    base.unlink()
    require_error(vm.qvm("start"), 1, "data.qcow2 is orphaned: its base below.qcow2", "put that file back")


def test_start_format_is_never_guessed_from_the_content(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.img")
    image(vm, "data.img", "qcow2")
    require_error(vm.qvm("start"), 1, "data.img looks like qcow2", "data.img:qcow2 in VM_DISKS")
    vm.ok("--set", "VM_DISKS=data.img:raw", "start", "--no-wait")
    assert "data.img (raw)" in vm.ok("cmd", "info block").out
    vm.ok("kill")
    vm.ok("--set", "VM_DISKS=data.img:qcow2", "start", "--no-wait")
    vm.ok("kill")
    image(vm, "raw.qcow2", "raw")
    require_error(
        vm.qvm("--set", "VM_DISKS=raw.qcow2", "start"), 1, "raw.qcow2 is in format raw", "raw.qcow2:raw"
    )


def test_start_locked_additional_disk_names_file_and_process(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.qcow2")
    image(vm, "data.qcow2")
    other = blank("other", VM_DISKS=str(vm.directory / "data.qcow2"))
    other.ok("start", "--no-wait")
    require_error(
        vm.qvm("start"),
        1,
        f"data.qcow2 is in use by machine other, pid {other.pid}, since ",
        "end that process",
    )
    assert vm.qvm("status").out == "demo: stopped\n"


def test_start_missing_file_names_its_variable(blank: Blank) -> None:
    vm = blank()
    for name in ("VM_CDROM", "VM_KERNEL"):
        missing = vm.qvm("--set", f"{name}=gone", "start")
        require_error(missing, 1, f"{name}: cannot read gone", f"correct {name}")


def test_doctor_looks_at_every_disk(blank: Blank) -> None:
    vm = blank(VM_DISKS="good.qcow2\ngone.qcow2\nbad.qcow2", VM_FIRMWARE="uefi", VM_TPM="yes")
    image(vm, "good.qcow2")
    (vm.directory / "bad.qcow2").write_bytes(b"QFI\xfb short")
    result = vm.qvm("doctor")
    assert result.status == 1
    lines = [line.split(None, 2) for line in result.out.splitlines()]
    assert ["ok", "good.qcow2", "qemu-img check finds no errors"] in lines
    assert ["error", "gone.qcow2", "gone.qcow2 is missing"] in lines
    assert any(line[:2] == ["error", "bad.qcow2"] for line in lines)
    assert any(line[:2] == ["ok", "firmware"] for line in lines)
    assert any(line[:2] == ["ok", "swtpm"] for line in lines)


# --disposable


def test_start_disposable_covers_all_disks_and_uefi_variables(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.qcow2\nraw.img", VM_FIRMWARE="uefi")
    files = [image(vm, "data.qcow2"), image(vm, "raw.img", "raw"), vm.directory / "demo-uefi.qcow2"]
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    files.append(vm.directory / "demo-backing.qcow2")
    before = [file_hash(path) for path in files]
    vm.ok("start", "--no-wait", "--disposable")
    nodes = [f"/machine/peripheral/disk{at}-device/virtio-backend" for at in range(3)]
    monitor(vm, "stop", *(f'qemu-io -d {node} "write -P 7 0 512"' for node in nodes))
    assert not list((vm.directory / ".qvm").glob("disposable-*"))  # unlinked: nothing can be left of them
    assert vm.qvm("stop", "-s", "x", "--no-suspend").status == 3
    vm.ok("kill")
    assert (vm.directory / ".qvm/log/qemu.stdout").read_text().count("wrote 512/512") == 3
    assert [file_hash(path) for path in files] == before


# Firmware


@pytest.mark.parametrize(
    ("firmware", "machine"),
    [("uefi", "pc"), pytest.param("uefi", "q35", marks=pytest.mark.long), ("uefi-secure", "q35")],
)
def test_start_uefi_has_code_and_variables_of_its_own(blank: Blank, firmware: str, machine: str) -> None:
    vm = blank(VM_FIRMWARE=firmware, VM_QEMU_MACHINE=machine)
    vm.ok("start", "--no-wait")
    block = vm.ok("cmd", "info block").out
    assert f"uefi-variables: ./demo-{firmware}.qcow2 (qcow2)" in block
    assert "uefi-code: " in block
    assert qom(vm, "/machine/system.flash1", "secure") is (firmware == "uefi-secure")
    assert (vm.directory / f"demo-{firmware}.qcow2").exists()
    vm.ok("kill")
    vm.ok("start", "--no-wait")  # with the variables that are there


def test_start_uefi_secure_alone_means_q35(blank: Blank) -> None:
    assert "-machine q35,pflash0=uefi-code,pflash1=uefi-variables,smm=on" in blank(
        VM_FIRMWARE="uefi-secure"
    ).ok("dryrun").out.replace("'", "")


def test_start_uefi_variables_of_another_firmware_are_refused(blank: Blank) -> None:
    vm = blank(VM_FIRMWARE="uefi")
    image(vm, "demo-uefi.qcow2", size="1M")
    require_error(vm.qvm("start"), 1, "demo-uefi.qcow2 does not fit the firmware", "move it away")


def test_start_uefi_for_a_machine_type_without_it_is_refused(blank: Blank) -> None:
    require_error(
        blank(VM_FIRMWARE="uefi", VM_QEMU_MACHINE="microvm").qvm("start"), 1, "no UEFI firmware", "ovmf"
    )


# TPM


def test_start_tpm_lives_and_dies_with_qemu(blank: Blank) -> None:
    vm = blank(VM_TPM="yes")
    for end in ("kill", "crash"):
        vm.ok("start", "--no-wait")
        assert "model=tpm-tis" in vm.ok("cmd", "info tpm").out
        (pid,) = swtpm_of(vm)
        assert (vm.directory / ".qvm/tpm").stat().st_mode & 0o077 == 0
        if end == "kill":
            vm.ok("kill")
        else:
            os.kill(vm.pid, signal.SIGKILL)
        deadline = time.monotonic() + DEADLINE_S
        while pid in swtpm_of(vm):
            assert time.monotonic() < deadline, "swtpm outlives QEMU"
            time.sleep(0.05)
    vm.ok("start", "--no-wait")  # the same state, at once
    assert (vm.directory / ".qvm/tpm/tpm2-00.permall").exists()


def test_start_that_fails_leaves_no_tpm(blank: Blank) -> None:
    vm = blank(VM_TPM="yes", VM_QEMU_EXTRA="-device no-such-device")
    assert vm.qvm("start").status == 1
    assert vm.qvm("status").out == "demo: stopped\n"  # the fixture finds what is left of swtpm


def test_start_tpm_saved_state_comes_back(blank: Blank) -> None:
    vm = blank(VM_TPM="yes")
    vm.ok("start", "--no-wait")
    vm.ok("stop", "--savevm", "x", "--no-suspend")
    vm.ok("start", "--no-wait", "--loadvm", "x")
    assert vm.ok("cmd", "info status").out == "VM status: running\n"


def test_dryrun_with_uefi_and_tpm_runs_as_it_is_printed(blank: Blank) -> None:
    vm = blank(VM_TPM="yes", VM_FIRMWARE="uefi", VM_DISKS="a b,c.img")
    image(vm, "a b,c.img", "raw")
    done = subprocess.run(
        ["sh", "-ec", vm.ok("dryrun").out.rstrip() + " -qmp stdio"],
        cwd=vm.directory,
        env=vm.world.environ,
        input='{"execute": "qmp_capabilities"} {"execute": "query-tpm"} {"execute": "quit"}',
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    assert '"model": "tpm-tis"' in done.stdout
    for path in vm.world.runtime.rglob("*"):
        if path.is_socket():
            path.unlink()


def test_start_disposable_tpm_keeps_its_state(blank: Blank) -> None:
    vm = blank(VM_TPM="yes")
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    state = vm.directory / ".qvm/tpm/tpm2-00.permall"
    before = file_hash(state)
    vm.ok("start", "--no-wait", "--disposable")
    vm.ok("kill")
    assert file_hash(state) == before
    assert not list((vm.directory / ".qvm").glob("disposable-*"))


def test_start_tpm_where_there_can_be_none_is_refused(blank: Blank) -> None:
    vm = blank(VM_TPM="yes", VM_QEMU_MACHINE="microvm")
    require_error(vm.qvm("start"), 2, "machine type microvm does not support a TPM", "remove VM_TPM")
    assert vm.qvm("status").out == "demo: stopped\n"


def test_start_tpm_without_its_program_is_refused(blank: Blank, tmp_path: Path) -> None:
    vm = blank(VM_TPM="yes")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("qemu-system-x86_64", "qemu-img", "ssh"):
        (programs / name).symlink_to(shutil.which(name) or "")
    require_error(
        vm.qvm("start", env={"PATH": str(programs)}), 1, "swtpm is not installed, and VM_TPM=yes", "swtpm"
    )


# Other devices


def test_start_devices_can_be_left_out(blank: Blank) -> None:
    vm = blank(VM_SERIAL="no", VM_GUEST_AGENT="no", VM_VIRTIO_RNG="no", VM_RTC_BASE="2030-01-31T12:00:00")
    vm.ok("start", "--no-wait")
    tree = vm.ok("cmd", "info qtree").out
    for device in ("isa-serial", "virtserialport", "virtio-rng", "virtio-serial"):
        assert device not in tree
    assert qom(vm, "/machine", "rtc-time")["tm_year"] == 130
    names = {path.name for path in vm.world.runtime.rglob("*") if path.is_socket()}
    assert not names & {"serial", "qga"}
    assert "powered off" in vm.ok("stop", "--force", "--timeout", "1").out  # every rung copes with it


def test_start_agent_on_a_second_uart(blank: Blank) -> None:
    vm = blank(VM_GUEST_AGENT_METHOD="isa-serial", VM_SERIAL="no")
    vm.ok("start", "--no-wait")
    assert qom(vm, "/machine/peripheral/qga0", "iobase") == 0x2F8  # COM2, though there is no COM1
    assert "virtserialport" not in vm.ok("cmd", "info qtree").out


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"VM_MACHINE_ARCH": "aarch64"}, marks=pytest.mark.long),
        {"VM_QEMU_BIN": "qemu-system-aarch64"},
    ],
)
def test_start_another_architecture_answers(blank: Blank, how: dict[str, str]) -> None:
    vm = blank(**how, VM_DISKS="data.qcow2", VM_CDROM="cd.iso", VM_FIRMWARE="uefi", VM_TPM="yes")
    image(vm, "data.qcow2")
    image(vm, "cd.iso", "raw")
    vm.ok("start", "--no-wait")
    assert vm.ok("cmd", "info status").out == "VM status: running\n"
    assert "virtio-gpu-pci" in vm.ok("cmd", "info qtree").out
    vm.ok("stop", "--savevm", "x", "--no-suspend")
    vm.ok("start", "--no-wait", "--loadvm", "x")


def test_start_microvm_has_virtio_without_pci(blank: Blank) -> None:
    vm = blank(VM_QEMU_MACHINE="microvm", VM_DISKS="data.img")
    image(vm, "data.img", "raw")
    vm.ok("start", "--no-wait")
    assert "virtio-blk-device" in vm.ok("cmd", "info qtree").out


# VM_QEMU_ARGS

BY_HAND = "-M pc -accel tcg -m 64 -hda demo.qcow2 -device virtio-serial -device virtserialport,chardev=qga"


def test_start_hardware_by_hand_is_all_there_is(blank: Blank) -> None:
    vm = blank(has_images=False, VM_QEMU_ARGS=BY_HAND)
    image(vm, "demo.qcow2")
    vm.ok("start", "--no-wait")
    assert vm.ok("cmd", "info name").out == "demo\n"
    assert vm.ok("cmd", "info uuid").out == (vm.directory / ".qvm/uuid").read_text()
    tree = vm.ok("cmd", "info qtree").out
    assert "virtio-blk" not in tree
    assert "virtio-rng" not in tree
    assert "ide-hd" in tree
    assert "virtserialport" in tree
    assert vm.ok("cmd", "info vnc").out == "None\n"  # without -display, QEMU opens one
    vm.ok("stop", "--savevm", "x", "--no-suspend")
    vm.ok("start", "--no-wait", "--loadvm", "x")
    vm.ok("kill")
    assert vm.qvm("status").out == "demo: stopped\n"


def test_start_hardware_by_hand_disposable_writes_nothing(blank: Blank) -> None:
    vm = blank(has_images=False, VM_QEMU_ARGS=BY_HAND)
    path = image(vm, "demo.qcow2")
    before = file_hash(path)
    vm.ok("start", "--no-wait", "--disposable")
    vm.ok("cmd", 'qemu-io ide0-hd0 "write -P 7 0 512"')
    vm.ok("kill")
    assert "wrote 512/512" in (vm.directory / ".qvm/log/qemu.stdout").read_text()
    assert file_hash(path) == before
    require_error(
        vm.qvm("start", "--base-only"), 2, "--base-only needs disks that qvm manages", "VM_QEMU_ARGS"
    )
    more = BY_HAND + " -blockdev null-co,node-name=x"
    require_error(
        vm.qvm("--set", f"VM_QEMU_ARGS={more}", "start", "--disposable"),
        2,
        "does not cover -blockdev",
        "-drive",
    )


def test_start_hardware_by_hand_in_conflict_is_refused(blank: Blank) -> None:
    vm = blank(has_images=False)
    for words in ("-name x", "-uuid 1", "-pidfile p", "-daemonize", "-mon chardev=qmp"):
        vm.set(VM_QEMU_ARGS=f"-m 64 {words}")
        require_error(vm.qvm("start"), 2, "only qvm sets that", "config")


# Saved state of several disks


def test_savevm_that_fails_on_the_third_disk_changes_nothing(blank: Blank) -> None:
    """The third disk's file fails (blkdebug) when a snapshot's table would be written."""
    vm = blank(VM_DISKS="data.qcow2", VM_FIRMWARE="uefi")
    image(vm, "data.qcow2")
    image(vm, "third.qcow2")
    third = {
        "driver": "qcow2",
        "node-name": "third",
        "file": {
            "driver": "blkdebug",
            "image": {"driver": "file", "filename": "third.qcow2"},
            "inject-error": [{"event": "cluster_alloc", "errno": 28, "once": True}],
        },
    }
    blockdev = json.dumps(third).replace('"', '\\"')
    with (vm.directory / ".vmrc").open("a") as file:
        file.write(f"VM_QEMU_EXTRA=\"-blockdev '{blockdev}' -device virtio-blk-pci,drive=third\"\n")
    vm.ok("start", "--no-wait")
    result = vm.qvm("stop", "--savevm", "x", "--no-suspend")
    assert result.status == 1, str(result)
    assert "no snapshot was changed" in result.err
    assert vm.ok("cmd", "info status").out == "VM status: running\n"
    for name in ("demo-backing.qcow2", "data.qcow2", "third.qcow2", "demo-uefi.qcow2"):
        shown = subprocess.run(
            ["qemu-img", "snapshot", "-U", "-l", name], cwd=vm.directory, capture_output=True, text=True
        )
        assert shown.returncode == 0, shown.stderr
        assert not shown.stdout.strip(), name
    vm.ok("stop", "--savevm", "x", "--no-suspend")  # the fault was for once


def test_savevm_loadvm_brings_every_disk_and_the_variables_back(blank: Blank) -> None:
    """No guest: what is in the disks is written and read by QEMU itself."""
    vm = blank(VM_DISKS="data.qcow2", VM_FIRMWARE="uefi")
    image(vm, "data.qcow2")
    nodes = [f"-d /machine/peripheral/disk{at}-device/virtio-backend" for at in (0, 1)]

    def qemu_io(command: str) -> None:
        monitor(vm, *(f'qemu-io {node} "{command}"' for node in nodes))

    vm.ok("start", "--no-wait")
    qemu_io("write -P 1 0 512")
    vm.ok("stop", "--savevm", "x", "--no-suspend")
    for name, has_memory in (("demo-backing", True), ("data", False), ("demo-uefi", False)):
        shown = subprocess.run(
            ["qemu-img", "info", "--output=json", f"{name}.qcow2"],
            cwd=vm.directory, capture_output=True, check=True,
        )  # fmt: skip
        (snapshot,) = json.loads(shown.stdout)["snapshots"]
        assert snapshot["name"] == "x"
        assert bool(snapshot["vm-state-size"]) is has_memory  # the memory is on the machine's own disk
    vm.ok("start", "--no-wait")
    qemu_io("write -P 2 0 512")
    vm.ok("kill")
    vm.ok("start", "--no-wait", "--loadvm", "x")
    qemu_io("read -P 1 0 512")
    vm.ok("kill")
    told_by_qemu = (vm.directory / ".qvm/log/qemu.stdout").read_text()
    assert told_by_qemu.count("read 512/512") == 2
    assert "Pattern verification failed" not in told_by_qemu


def test_savevm_with_a_raw_additional_disk_names_it(blank: Blank) -> None:
    vm = blank(VM_DISKS="one.qcow2\ndata.img")
    image(vm, "one.qcow2")
    image(vm, "data.img", "raw")
    vm.ok("start", "--no-wait")
    require_error(
        vm.qvm("stop", "--savevm", "x"), 3, "data.img is raw, which cannot hold snapshots", "read-only"
    )
    assert vm.ok("cmd", "info status").out == "VM status: running\n"


def test_loadvm_missing_on_the_second_disk_reverts_nothing(blank: Blank) -> None:
    vm = blank(VM_DISKS="data.qcow2")
    path = image(vm, "data.qcow2")
    vm.ok("start", "--no-wait")
    vm.ok("stop", "--savevm", "x", "--no-suspend")
    subprocess.run(["qemu-img", "snapshot", "-d", "x", path], check=True)
    require_error(vm.qvm("start", "--no-wait", "--loadvm", "x"), 3, "there is no snapshot x on disk1", "x")
    assert vm.qvm("status").out == "demo: stopped\n"


def test_savevm_delay_is_ignored_with_one_warning(blank: Blank) -> None:
    vm = blank(VM_SAVE_DELAY="5")
    assert "VM_SAVE_DELAY" not in vm.ok("start", "--no-wait").err
    assert vm.ok("stop", "-s", "x", "-n").err.count("VM_SAVE_DELAY is ignored") == 1
    assert "VM_SAVE_DELAY" not in vm.qvm("status").err
