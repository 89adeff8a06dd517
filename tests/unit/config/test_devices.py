"""What the variables of the hardware say: VM_DISKS, VM_BOOT, VM_QEMU_ARGS, and what goes together."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvmsh.config import devices, layers
from qvmsh.config.settings import Settings
from qvmsh.config.variables import VARIABLES

WHOLE = f"VM_MACHINE_NAME=demo\nVM_MACHINE_ID=33\nVM_MACHINE_OWNER={pwd.getpwuid(os.geteuid()).pw_name}\n"


def load(directory: Path, text: str) -> Settings:
    (directory / ".vmrc").write_text(WHOLE + text)
    return layers.load(str(directory), {"HOME": "/nowhere", "VM_GLOBAL_CONFIG": "/dev/null"})


@pytest.mark.parametrize(
    ("line", "path", "driver", "cache", "is_read_only"),
    [
        ("data.img", "data.img", "raw", "", False),
        ("data.qcow2", "data.qcow2", "qcow2", "", False),
        ("data.VMDK", "data.VMDK", "vmdk", "", False),
        ("data", "data", "raw", "", False),
        ("data:qcow2", "data", "qcow2", "", False),
        ("  /a b/c,d=e.img:raw:none ", "/a b/c,d=e.img", "raw", "none", False),
        ("a:b:c.img", "a:b:c.img", "raw", "", False),
        ("a:b:qcow2:unsafe", "a:b", "qcow2", "unsafe", False),
        ("a.qcow2::writethrough", "a.qcow2", "qcow2", "writethrough", False),
        ("a.img:none", "a.img:none", "raw", "", False),  # a cache alone is not a cache
        ("a:raw:raw", "a:raw", "raw", "", False),
        ("data.img:ro", "data.img", "raw", "", True),
        ("data.img:qcow2:none:ro", "data.img", "qcow2", "none", True),
        ("nbd:x", "nbd:x", "raw", "", False),
        ("ro", "ro", "raw", "", False),
        ("ä:ö.img", "ä:ö.img", "raw", "", False),
    ],
)
def test_disk_line_is_read_from_its_end(
    line: str, path: str, driver: str, cache: str, is_read_only: bool
) -> None:
    found = devices.disk(line)
    assert (found.path, found.driver, found.cache, found.is_read_only) == (path, driver, cache, is_read_only)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.text(
        st.characters(exclude_characters="\0\n", exclude_categories=["Cs", "Zs", "Cc"]),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(devices.FORMATS),
    st.sampled_from(("", *devices.CACHES)),
)
def test_disk_line_with_a_format_takes_any_path(path: str, kind: str, cache: str) -> None:
    found = devices.disk(f"{path}:{kind}" + (f":{cache}" if cache else ""))
    assert (found.path, found.format, found.cache) == (path, kind, cache)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "VM_DISKS",
            "a.img\n:qcow2",
            "is 'a.img\\n:qcow2', but must be one path[:format[:cache]][:ro] per line (the file is",
        ),
        ("VM_DISKS", "a.img\n./a.img:raw", "./a.img is listed twice"),
        ("VM_BOOT", "disk usb", "'usb' is not a boot device"),
        ("VM_BOOT", "cdrom,cdrom", "cdrom is listed twice"),
        ("VM_BOOT", "diskX", "'diskX' is not a boot device"),
        ("VM_RTC_BASE", "yesterday", "must be utc, localtime, or a date"),
        ("VM_QEMU_ARGS", "-m 64 -name x", "must be without `-name`: only qvm sets that"),
        ("VM_QEMU_ARGS", "--uuid 1", "must be without `--uuid`"),
        ("VM_QEMU_ARGS", "-pidfile x", "must be without `-pidfile`"),
        ("VM_QEMU_ARGS", "-daemonize", "must be without `-daemonize`"),
        ("VM_QEMU_ARGS", "-chardev null,id=qga", "must be without `-chardev null,id=qga`"),
        ("VM_QEMU_ARGS", '-chardev \'{"id": "qmp"}\'', "only qvm sets that"),
        ("VM_QEMU_ARGS", "-qmp chardev:session", "must be without `-qmp chardev:session`"),
        ("VM_QEMU_ARGS", "-mon chardev=monitor,mode=readline", "only qvm sets that"),
        ("VM_QEMU_ARGS", "-m '64", "words, split as a shell would"),
        ("VM_MACHINE_ARCH", "z80", "must be one of x86_64"),
        ("VM_FIRMWARE", "efi", "must be one of bios, uefi, uefi-secure"),
        ("VM_GUEST_AGENT_METHOD", "isa", "must be one of virtio-serial, isa-serial"),
    ],
)
def test_check_wrong_value_says_what_is_wrong(name: str, value: str, said: str) -> None:
    wrong = VARIABLES[name].check(value)
    assert wrong is not None
    assert said in wrong[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VM_DISKS", "\n a.img \n\n b:c.qcow2:qcow2:none\n"),
        ("VM_BOOT", "cdrom, disk,menu"),
        ("VM_BOOT", "dc"),
        ("VM_BOOT", "disk2 disk network"),
        ("VM_RTC_BASE", "2030-01-31T12:00:00"),
        ("VM_RTC_BASE", "2030-01-31"),
        (
            "VM_QEMU_ARGS",
            "-M pc -monitor unix:mon,server=on,wait=off -serial chardev:serial -hda 'a b.qcow2'",
        ),
        ("VM_QEMU_ARGS", "-chardev null,id=mine -mon chardev=mine"),
        ("VM_MACHINE_ARCH", "aarch64"),
    ],
)
def test_check_right_value_is_taken(name: str, value: str) -> None:
    assert VARIABLES[name].check(value) is None


def test_boot_letters_of_qemu_mean_words() -> None:
    assert devices.boot("dcn") == ["cdrom", "disk", "network"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("VM_INITRD=i\n", ".vmrc:4:1: VM_INITRD is set, but VM_KERNEL is not"),
        ("VM_APPEND=quiet\n", "VM_APPEND is set, but VM_KERNEL is not"),
        (
            "VM_FIRMWARE=uefi-secure\nVM_QEMU_MACHINE=pc\n",
            "uefi-secure, which machine type pc does not support",
        ),
        ("VM_FIRMWARE=bios\nVM_MACHINE_ARCH=aarch64\n", "VM_FIRMWARE is bios, which aarch64 does not have"),
        (
            "VM_MACHINE_ARCH=arm\nVM_QEMU_BIN=qemu-system-x86_64\n",
            "is arm, but VM_QEMU_BIN is QEMU for x86_64",
        ),
        ("VM_GUEST_AGENT_METHOD=isa-serial\nVM_QEMU_BIN=/opt/qemu-system-aarch64\n", "aarch64 does not"),
        (
            "VM_DISK_BUS=ide\nVM_DISKS='a\nb\nc'\nVM_CDROM=x\n",
            "is ide, which takes 4 devices, but there are 5",
        ),
        ("VM_BOOT=cdrom\n", "VM_BOOT names cdrom, but VM_CDROM is not set"),
        ("VM_BOOT=disk2\nVM_DISKS=a.img\n", "VM_BOOT names disk2, but VM_DISKS has 1 lines"),
        ("VM_BOOT=network\nVM_NET_MODEL=none\n", "VM_BOOT names network, but VM_NET_MODEL is none"),
    ],
)
def test_load_incompatible_values_is_a_problem_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = load(tmp_path, text).problems
    assert said in str(problem).replace(f"{tmp_path}/", "")
    assert problem.hint


def test_load_hardware_by_hand_warns_of_what_it_replaces(tmp_path: Path) -> None:
    found = load(tmp_path, "VM_QEMU_ARGS='-m 64'\nVM_TPM=yes\nVM_DISKS=a\nVM_SERIAL=no\n")
    assert found.problems == []
    assert [warning.name for warning in found.warnings] == ["VM_DISKS", "VM_TPM"]


@pytest.mark.parametrize(
    ("text", "binary", "machine", "arch"),
    [
        ("", "qemu-system-x86_64", "pc", "x86_64"),
        ("VM_MACHINE_ARCH=aarch64\n", "qemu-system-aarch64", "virt", "aarch64"),
        ("VM_QEMU_BIN=/opt/bin/qemu-system-riscv64\n", "/opt/bin/qemu-system-riscv64", "virt", "riscv64"),
        ("VM_FIRMWARE=uefi-secure\n", "qemu-system-x86_64", "q35", "x86_64"),
        ("VM_FIRMWARE=uefi\n", "qemu-system-x86_64", "pc", "x86_64"),
    ],
)
def test_load_architecture_chooses_program_and_machine_type(
    tmp_path: Path, text: str, binary: str, machine: str, arch: str
) -> None:
    found = load(tmp_path, text)
    assert found.problems == []
    assert (found.text("VM_QEMU_BIN"), found.text("VM_QEMU_MACHINE"), found.architecture) == (
        binary,
        machine,
        arch,
    )
