"""The recipe of `tiny`: Debian's cloud kernel, busybox, dropbear, sftp-server, qemu-ga.

A guest that answers ssh about three seconds after QEMU's start, without KVM. Nothing in the image
is secret or shared: the host key is made at the first boot of each disk, and QEMU passes the
authorized keys at each boot::

    -fw_cfg name=opt/qvm/authorized_keys,file=id_ed25519.pub -fw_cfg name=opt/qvm/hostname,string=demo

A copy of a disk keeps its host key, until QEMU says that it is another machine's
(`-fw_cfg name=opt/qvm/instance,string=UUID`).

The guest's own files are beside this one, below `tiny_files/`: `root/` is laid over its root file
system (a file that begins with `#!` becomes executable), `initramfs/` holds the first program.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from qvmsh.errors import QvmError
from qvmsh.images import elf, filesystem, kernel
from qvmsh.images.packages import Apt, Package
from qvmsh.images.workbench import Workbench

USER = "qvm"
FILES = os.path.join(os.path.dirname(__file__), "tiny_files")

_KERNEL = "linux-image-cloud-amd64"
_PACKAGES = ["busybox-static", "dropbear-bin", "qemu-guest-agent"]
# openssh-* depend on far more than the two small programs that are taken from them need
_ALONE = ["openssh-client", "openssh-sftp-server"]
_TOOLS = ["mtools", "syslinux", "syslinux-common"]

_PROGRAMS = [
    "usr/bin/dropbearkey",
    "usr/bin/scp",  # for clients whose scp does not speak sftp (before OpenSSH 9)
    "usr/lib/openssh/sftp-server",
    "usr/sbin/dropbear",
    "usr/sbin/qemu-ga",
]
_LIBRARIES = "lib/x86_64-linux-gnu"
_FOLDERS = """
    bin sbin dev proc sys run tmp mnt root/.ssh home/qvm/.ssh lib64 usr/bin usr/lib usr/sbin usr/share
    etc/dropbear var/log
"""
_LINKS = {
    "sbin/init": "../bin/busybox",  # init, modprobe, hwclock: where the kernel and qemu-ga look
    "sbin/modprobe": "../bin/busybox",
    "sbin/hwclock": "../bin/busybox",
    "bin/loginctl": "systemctl",
    "usr/lib/sftp-server": "openssh/sftp-server",  # where Debian's dropbear looks
    "var/run": "../run",
}
_MODES = {
    "bin/busybox": 0o4755,  # set-uid for `su`
    "etc/shadow": 0o600,
    "home/qvm/.ssh": 0o700,
    "home/qvm/.ssh/authorized_keys": 0o600,
    "root": 0o700,
    "root/.ssh": 0o700,
    "root/.ssh/authorized_keys": 0o600,
    "tmp": 0o1777,
}
_MIB = 1000  # the root file system; the image holds only what is used

# The cloud kernel has virtio as modules, ext4 and NVMe built in, and no AHCI, e1000, 9p, DRM.
_FIRST = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"]
_LATE = ["sd_mod", "ata_piix", "ahci", "virtio_scsi"]  # only if no virtio disk shows up
_MODULES = """
    virtio_net virtio_console virtio-rng virtio_balloon virtio_scsi virtiofs vmw_vsock_virtio_transport
    qemu_fw_cfg button evdev psmouse sd_mod sr_mod ata_piix ahci isofs vfat nls_ascii nls_cp437
"""

# What saves time under TCG. trust_cpu: no wait for entropy. acpi_pm: a busy host makes a wrong TSC frequency.
_COMMAND_LINE = (
    "root=LABEL=tiny rw console=tty0 console=ttyS0 quiet panic=5 mitigations=off nokaslr tsc=reliable "
    "clocksource=acpi_pm no_timer_check cryptomgr.notests random.trust_cpu=on"
)
_SYSLINUX = f"""\
DEFAULT tiny
PROMPT 0
TIMEOUT 0
LABEL tiny
  LINUX /vmlinuz
  INITRD /initrd.img
  APPEND {_COMMAND_LINE}
"""


def packages(apt: Apt) -> tuple[list[Package], list[Package]]:
    """What the guest is made of, and what makes it (tools that run here, unpacked, not installed)."""
    apt.look_up([_KERNEL, *_PACKAGES, *_ALONE, *_TOOLS])
    meta = apt.package(_KERNEL)
    image = next((name for name in meta.depends if name.startswith("linux-image-")), None)
    if image is None:
        raise QvmError(f"{_KERNEL} {meta.version} depends on no kernel")
    return apt.resolve(_PACKAGES, alone=[*_ALONE, image]), apt.resolve([], alone=_TOOLS)


def make(bench: Workbench, image: str) -> None:
    """Make the disk `image` from what lies unpacked in the bench's `packages/` and `tools/`."""
    modules = _inside(bench, "lib/modules")
    tree = os.path.join(modules, os.listdir(modules)[0])
    with bench.io.stage("making the root file system"):
        _make_root(bench, tree)
        owners = {"home/qvm": 1000}
        filesystem.make_ext4(bench, "root", "root.img", mib=_MIB, label="tiny", owners=owners)
    with bench.io.stage("making the boot partition and the disk"):
        _make_boot(bench, tree)
        bench.tools = "tools/usr/bin"
        filesystem.make_fat(bench, "boot.img", ["vmlinuz", "initrd.img", "syslinux.cfg"])
        boot_code = Path(bench.path("tools/usr/lib/syslinux/mbr/mbr.bin")).read_bytes()
        parts = [("boot.img", 0x0E, True), ("root.img", 0x83, False)]
        filesystem.make_disk(bench, "disk.img", boot_code, parts)
        bench.run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "disk.img", image)


def _make_boot(bench: Workbench, tree: str) -> None:
    """The files of the boot partition: kernel, initramfs, syslinux' configuration."""
    boot = _inside(bench, "boot")
    name = next(name for name in os.listdir(boot) if name.startswith("vmlinuz-"))
    shutil.copyfile(os.path.join(boot, name), bench.path("vmlinuz"))
    top = bench.path("initramfs")
    for folder in ("bin", "dev", "proc", "sys", "newroot", "m"):
        os.makedirs(os.path.join(top, folder))
    shutil.copy(_inside(bench, "bin/busybox"), os.path.join(top, "bin"))
    for group, wanted in (("first", _FIRST), ("late", _LATE)):
        files = kernel.order(tree, wanted)
        for path in files:
            _write(os.path.join(top, "m", kernel.file_name(path)), kernel.content(path))
        _write(os.path.join(top, "m", group), "".join(f"{kernel.file_name(p)}\n" for p in files).encode())
    _lay_over(os.path.join(FILES, "initramfs"), top)
    _write(bench.path("initrd.img"), filesystem.cpio(top))
    _write(bench.path("syslinux.cfg"), _SYSLINUX.encode())
    _write(bench.path("cmdline"), f"{_COMMAND_LINE}\n".encode())


def _make_root(bench: Workbench, tree: str) -> None:
    """The guest's root file system as a folder; owners are set later in the file system."""
    top = bench.path("root")
    for folder in [*_FOLDERS.split(), _LIBRARIES]:
        os.makedirs(os.path.join(top, folder))
    busybox = os.path.join(top, "bin/busybox")
    shutil.copy(_inside(bench, "bin/busybox"), busybox)
    for applet in bench.run(busybox, "--list").split():
        if applet != "busybox":
            os.symlink("busybox", os.path.join(top, "bin", applet))
    _copy_programs(bench, top)
    _lay_over(os.path.join(FILES, "root"), top)
    for home in ("root", f"home/{USER}"):
        _write(os.path.join(top, home, ".ssh/authorized_keys"), b"")
    for path, target in _LINKS.items():
        _unlink(os.path.join(top, path))
        os.symlink(target, os.path.join(top, path))
    version = os.path.basename(tree)
    for path in kernel.order(tree, [*_FIRST, *_LATE, *_MODULES.split()]):
        folder = os.path.join(top, "lib/modules", version, os.path.dirname(os.path.relpath(path, tree)))
        os.makedirs(folder, exist_ok=True)
        _write(os.path.join(folder, kernel.file_name(path)), kernel.content(path))
    bench.run(busybox, "depmod", "-b", "root", version)
    _set_modes(top)


def _set_modes(top: str) -> None:
    """Give everything the mode it is to have in the guest, whatever the umask is here."""
    for at, folders, files in os.walk(top):
        paths = [os.path.join(at, name) for name in folders + files]
        for path in [path for path in paths if not os.path.islink(path)]:
            executable = os.stat(path).st_mode & 0o100
            os.chmod(path, 0o755 if executable else 0o644)
    for name, mode in _MODES.items():
        os.chmod(os.path.join(top, name), mode)


def _copy_programs(bench: Workbench, top: str) -> None:
    """The programs, their loader, and the libraries that they and those need."""
    todo = []
    for name in _PROGRAMS:
        source, target = _inside(bench, name), os.path.join(top, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(source, target)
        todo.append(source)
        loader = elf.interpreter(source)
        if loader:
            shutil.copy(_inside(bench, loader.lstrip("/")), top + loader)
    done = set()
    while todo:
        for name in elf.needed(todo.pop()):
            if name not in done and not name.startswith("ld-linux"):
                done.add(name)
                source = _library(bench, name)
                shutil.copy(source, os.path.join(top, _LIBRARIES, name))
                todo.append(source)


def _library(bench: Workbench, name: str) -> str:
    for folder in ("", "x86_64-linux-gnu"):
        for top in ("lib", "usr/lib"):
            path = bench.path("packages", top, folder, name)
            if os.path.exists(path):
                return path
    raise QvmError(f"none of the packages of the guest holds the library {name}")


def _inside(bench: Workbench, name: str) -> str:
    """A path in the unpacked packages; Debian 13 has all below usr/ ."""
    for top in ("", "usr"):
        path = bench.path("packages", top, name)
        if os.path.exists(path):
            return path
    raise QvmError(f"none of the packages of the guest holds {name}")


def _lay_over(source: str, top: str) -> None:
    """Copy the guest's own files over the tree `top`; what begins with `#!` becomes executable.

    Whether the files are executable here does not count: an installer may have lost that.
    """
    for at, _, files in os.walk(source):
        for name in files:
            text = Path(at, name).read_bytes()
            path = os.path.join(top, os.path.relpath(at, source), name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _unlink(path)  # never write through an applet's link
            _write(path, text)
            os.chmod(path, 0o755 if text.startswith(b"#!") else 0o644)


def _unlink(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)


def _write(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)
