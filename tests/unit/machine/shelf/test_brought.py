"""What the settings of a package bring: which of them want `qvm allow`."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvmsh.config import files, layers, trust
from qvmsh.machine.shelf import brought
from tests.support.world import bare_environ, write_vmrc


def found(folder: Path, **values: str) -> dict[str, str]:
    write_vmrc(folder / "demo", **values)
    (folder / "demo/.qvm").mkdir(exist_ok=True)
    (folder / "demo" / files.MARK).touch()
    settings = layers.load(str(folder / "demo"), bare_environ(folder))
    return {each.name: each.what for each in brought.find(settings)}


HARMLESS = {
    "VM_MACHINE_CPUS": ["4"],
    "VM_QEMU_MACHINE": ["q35", "pc-i440fx-7.2"],
    "VM_QEMU_CPU": ["host", "max,+avx2"],
    "VM_QEMU_BIN": ["qemu-system-x86_64"],
    "VM_QEMU_EXTRA": [
        "-global virtio-net-pci.romfile=", "-device virtio-rng-pci", "-device usb-tablet,id=t -nodefaults",
        "-fw_cfg name=opt/qvm/authorized_keys,file=.qvm/id_ed25519.pub -fw_cfg name=x,string=/etc/passwd",
        "-drive file=data.raw,format=raw,if=virtio", "-snapshot",
    ],
    "VM_DISKS": ["data.qcow2", "disks/data.raw:raw:ro"],
    "VM_CDROM": ["seed.iso", "./seed.iso"],
    "VM_READY": ["none", "console:login: $"],
    "VM_HOSTFWD": ["8080:80", "127.0.0.1:8080:80"],
    "VM_NET_MAC": ["auto", "52:54:00:01:02:03"],
    "VM_ARCHIVE": ["archives"],
    "VM_APPEND": ["init=/bin/sh"],
}  # fmt: skip
HARMFUL = {
    "VM_PRE_START": ["./prepare.sh"],
    "VM_POST_STOP": ["touch /tmp/x"],
    "VM_QEMU_BIN": ["./qemu-system-x86_64", "/usr/bin/qemu-system-x86_64", "sh"],
    "VM_QEMU_IMG": ["./qemu-img"],
    "VM_QEMU_MACHINE": ["pc,dumpdtb=/tmp/x"],
    "VM_QEMU_ARGS": ["-drive file=/etc/passwd,format=raw", "-hda data.raw"],
    "VM_QEMU_EXTRA": [
        "-drive file=/etc/passwd,format=raw", "-drive file=../x,format=raw", "-drive file=nbd://host/x",
        "-drive file.filename=/etc/passwd", "-chardev file,id=x,path=/tmp/x", "-device vfio-pci,host=01:00.0",
        "-device usb-host,hostbus=1", "-fw_cfg name=x,file=/etc/passwd", "-fw_cfg name=x,file=../../x",
        "-fsdev local,path=/,id=x,security_model=none", "-monitor tcp::4444,server", "-bios /tmp/x",
        "-netdev tap,id=x,script=/tmp/x", "-incoming exec:touch", "-readconfig x", "--chardev pipe,path=x",
        "-nodefaults -serial file:/tmp/x", "-global driver.filename=/etc/passwd", "-smbios file=/etc/passwd",
        "/etc/passwd", "-device loader,file=/etc/passwd", "-k -rtc nbd:unix:/tmp/x", "-m -nodefaults",
        "-nodefaults -machine", "-snapshot -S /etc/passwd",
    ],
    "VM_QEMU_SANDBOX": ["off"],
    "VM_QEMU_VNC": [":1"],
    "VM_SHARE": ["/:x", "data:x:ro"],
    "VM_READY": ["console:(a+)+$"],
    "VM_DISKS": ["/dev/sda", "../other/data.qcow2", "data.qcow2\n/etc/passwd:raw", "~/data.raw"],
    "VM_CDROM": ["/srv/x.iso", "../x.iso", "~/x.iso"],
    "VM_KERNEL": ["/boot/vmlinuz"],
    "VM_SSH_IDENTITY": ["~/.ssh/id_rsa"],
    "VM_SSH_OPTIONS": ["-o ProxyCommand=x"],
    "VM_LOG": ["x.log"],
    "VM_NET_PORT": ["7777"],
    "VM_HOSTFWD": ["0.0.0.0:8080:80", "8080:80\n192.0.2.1:22:22"],
    "VM_NET_LISTEN": ["0.0.0.0"],
    "VM_ARCHIVE": ["ssh://host/x", "/srv/archives"],
    "VM_INCLUDE": ["/etc/passwd", "../x", "~/x"],
    "LD_PRELOAD": ["./x.so"],
    "PATH": ["."],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, row in HARMLESS.items() for value in row]
)
def test_value_that_opens_nothing_is_let_through(tmp_path: Path, name: str, value: str) -> None:
    assert found(tmp_path, **{name: value}) == {}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, row in HARMFUL.items() for value in row])
def test_value_that_runs_or_opens_something_is_found(tmp_path: Path, name: str, value: str) -> None:
    assert list(found(tmp_path, **{name: value})) == [name]


UNSURE = {
    "VM_PRE_START": "VM_PRE_START=${OLDPWD:+./run.sh}\n",
    "VM_CDROM": 'VM_CDROM="${OLDPWD:+/etc/shadow}"\n',
    "VM_INCLUDE": "VM_INCLUDE=${OLDPWD:+/tmp/x}\n",
    "VM_POST_STOP": "X=${OLDPWD:+./run.sh}\nY=a$X\nVM_POST_STOP=${Y#}\n".replace("#", ""),
    "VM_QEMU_EXTRA": "VM_LABELS=${OLDPWD:+${VM_QEMU_EXTRA:=-hda /etc/shadow}}\n",
    "VM_QEMU_BIN": "VM_QEMU_BIN=$QEMU\n",
    "VM_QEMU_SANDBOX": "VM_QEMU_SANDBOX=${X-auto}\nX=1\n",
    "VM_DISKS": "VM_DISKS=~/data.raw\n",
    "VM_ARCHIVE": "VM_ARCHIVE=$VM_MACHINE_MEM/a\nVM_ARCHIVE=$HOSTNAME\n",
}


@pytest.mark.parametrize("name", UNSURE)
def test_value_that_another_environment_may_change_is_found(tmp_path: Path, name: str) -> None:
    found(tmp_path)
    with (tmp_path / "demo/.vmrc").open("a") as file:
        file.write(UNSURE[name])
    settings = layers.load(str(tmp_path / "demo"), bare_environ(tmp_path))
    brings = {each.name: each.what for each in brought.find(settings)}
    assert brings.pop(name).startswith("depends on the environment: ")
    assert brings.keys() <= {"X", "Y"}
    (tmp_path / "demo" / files.MARK).write_text(f"{name}\n")
    settings = layers.load(str(tmp_path / "demo"), bare_environ(tmp_path, OLDPWD="/", QEMU="./x"))
    assert not settings.is_set(name) or settings.origin(name).layer == "environment"
    assert settings.held == {name}


def test_value_made_of_the_packages_own_is_not_unsure(tmp_path: Path) -> None:
    found(tmp_path)
    with (tmp_path / "demo/.vmrc").open("a") as file:
        file.write('VM_DISKS="$VM_MACHINE_NAME-data.qcow2"\nVM_LABELS=$USER\n')
    settings = layers.load(str(tmp_path / "demo"), bare_environ(tmp_path))
    assert brought.find(settings) == []


def test_settings_of_the_user_are_not_the_packages(tmp_path: Path) -> None:
    write_vmrc(tmp_path / "demo")
    environ = bare_environ(tmp_path, VM_PRE_START="mine", VM_QEMU_BIN="/opt/qemu-system-x86_64")
    assert brought.find(layers.load(str(tmp_path / "demo"), environ)) == []


def test_variables_named_by_the_mark_have_no_effect(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    (tmp_path / "secret").write_text("VM_MACHINE_CPUS=7\n")
    write_vmrc(folder, VM_PRE_START="./x", VM_DISKS="/dev/sda", VM_INCLUDE="../secret")
    (folder / ".qvm").mkdir()
    (folder / files.MARK).write_text("VM_PRE_START\nVM_DISKS\n")
    settings = layers.load(str(folder), bare_environ(tmp_path))
    assert (settings["VM_PRE_START"], settings["VM_DISKS"], settings.integer("VM_MACHINE_CPUS")) == (
        "",
        "",
        2,
    )
    assert settings.held == {"VM_PRE_START", "VM_DISKS", "VM_INCLUDE"}
    assert not settings.is_accepted
    assert trust.refusal(settings) is not None
    assert all("until `qvm allow`" in str(each) for each in settings.warnings)
    (folder / files.MARK).unlink()
    settings = layers.load(str(folder), bare_environ(tmp_path))
    assert (settings["VM_PRE_START"], settings.integer("VM_MACHINE_CPUS")) == ("./x", 7)
    assert trust.refusal(settings) is None
