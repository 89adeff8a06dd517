"""The `debian` test guest: a minimal Debian with systemd on a disk that a BIOS boots.

systemd, networkd (DHCP), logind, dbus, OpenSSH, the guest agent (virtio port, or a second UART), sudo;
rsync, and Python for Ansible;
an initramfs of busybox and a dozen lines finds the disk (virtio or IDE). Account `qvm` (as in tiny) and
root log in by a throw-away key that is beside the image, on the console without a password::

    guest = build(Path("~/.cache/qvm/test-guests").expanduser())    # made now, or found
    guest.image, guest.key, guest.user

    sudo python tests/support/guests/debian.py                              # by hand: prints both paths

Made by mmdebstrap, which runs unpacked, not installed; it needs root, since it runs the packages' own
scripts in a chroot. It takes the Debian repositories that the host's apt has. A finished image is used
for as long as this recipe stays the same: remove its folder for newer packages.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qvmsh.errors import QvmError
from qvmsh.host import files
from qvmsh.images import filesystem, kernel, tiny
from qvmsh.images.packages import Apt
from qvmsh.images.workbench import PACKAGES as HOST_PROGRAMS
from qvmsh.images.workbench import Workbench
from qvmsh.io import QUIET, Io

USER = "qvm"
IMAGE = "debian.qcow2"

_PACKAGES = """
    systemd-sysv dbus udev kmod iproute2 openssh-server sudo qemu-guest-agent busybox-static
    linux-image-cloud-amd64 rsync python3
"""
_TOOLS = ["mmdebstrap", "mtools", "syslinux", "syslinux-common"]
_NEEDED = HOST_PROGRAMS | {"perl": "perl", "ssh-keygen": "openssh-client", "unshare": "util-linux"}
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_MIB = 1500  # the root file system; the image holds only what is used
_KEPT = 2  # finished images: the current one, and that of another checkout
_UNUSED = ("man", "locale", "doc", "info")  # below /usr/share

# The cloud kernel has virtio as modules, ext4 and NVMe built in, and no AHCI, e1000, 9p, DRM.
_FIRST = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"]
_LATE = ["sd_mod", "ata_piix", "ahci", "virtio_scsi"]  # only if no virtio disk shows up

# What saves time under TCG. random.trust_cpu: nothing waits for entropy; clocksource: as in `images.tiny`.
_COMMAND_LINE = (
    "root=LABEL=debian rw systemd.show_status=0 console=tty0 console=ttyS0 quiet panic=5 mitigations=off "
    "nokaslr tsc=reliable clocksource=acpi_pm no_timer_check cryptomgr.notests random.trust_cpu=on"
)
_SYSLINUX = f"""\
DEFAULT debian
PROMPT 0
TIMEOUT 0
LABEL debian
  LINUX /vmlinuz
  INITRD /initrd.img
  APPEND {_COMMAND_LINE}
"""

# Units that cost time at each boot and give a test nothing.
_MASKED = """
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
    systemd-tmpfiles-clean.timer e2scrub_reap.service systemd-pstore.service systemd-binfmt.service
    systemd-networkd-wait-online.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount
    sys-kernel-tracing.mount sys-fs-fuse-connections.mount kmod-static-nodes.service
    modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service
    modprobe@fuse.service modprobe@loop.service systemd-udev-settle.service systemd-update-utmp.service
    systemd-update-utmp-runlevel.service systemd-machine-id-commit.service systemd-rfkill.service
    systemd-rfkill.socket systemd-boot-system-token.service systemd-firstboot.service
    systemd-journal-flush.service systemd-sysusers.service systemd-modules-load.service
    systemd-random-seed.service systemd-network-generator.service systemd-remount-fs.service
    proc-sys-fs-binfmt_misc.automount
"""

_FILES = {
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 debian\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",  # no work of a first boot
    "etc/fstab": "# the initramfs mounts / for writing; an entry would only cost a wait for its device\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/sudoers.d/qvm": f"{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n",
    "etc/ssh/sshd_config.d/test.conf": (
        "UseDNS no\nPasswordAuthentication no\nKexAlgorithms curve25519-sha256\n"
        "HostKey /etc/ssh/ssh_host_ed25519_key\n"
    ),
    "etc/systemd/network/80-dhcp.network": (
        "[Match]\nType=ether\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        "[DHCPv4]\nClientIdentifier=mac\n"
    ),
    "etc/systemd/journald.conf.d/test.conf": "[Journal]\nStorage=volatile\n",
    # sshd as early as its needs allow: not behind network.target, no `sshd -t` first
    "etc/systemd/system/ssh.service": (
        "[Unit]\nDescription=OpenBSD Secure Shell server\n"
        "[Service]\nType=notify\nKillMode=process\nExecStart=/usr/sbin/sshd -D\n"
        "ExecReload=/bin/kill -HUP $MAINPID\nRestart=on-failure\n"
        "RuntimeDirectory=sshd\nRuntimeDirectoryMode=0755\n"
        "[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n"
    ),
    # the agent over a second UART where QEMU gives no virtio port (-device isa-serial)
    "etc/systemd/system/qemu-ga-isa.service": (
        "[Unit]\nDescription=QEMU guest agent over ttyS1\n"
        "[Service]\nExecCondition=/bin/sh -c \"grep -q '^1: uart:16' /proc/tty/driver/serial && "
        '! grep -qs guest_agent /sys/class/virtio-ports/*/name"\n'
        "ExecStart=/usr/sbin/qemu-ga -m isa-serial -p /dev/ttyS1\n"
        "[Install]\nWantedBy=multi-user.target\n"
    ),
}


@dataclass(frozen=True)
class DebianImage:
    """A finished image, the key that its accounts accept, and the account that may use sudo."""

    image: Path
    key: Path
    user: str = USER


def found(cache: Path) -> DebianImage | None:
    """The finished image of the recipe as it is now; None if it has not been built."""
    guest = DebianImage(_folder(cache) / IMAGE, cache / "id_ed25519")
    return guest if guest.image.exists() and guest.key.exists() else None


def obstacle() -> str | None:
    """Why the image cannot be built on this host; None if nothing is known to be in the way."""
    missing = [name for name in _NEEDED if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
    if platform.machine() != "x86_64":
        return "the debian guest is built on x86_64 only"
    if missing:
        return f"the debian guest is built from Debian packages: {', '.join(missing)} not installed"
    if os.geteuid() != 0:
        return "only root can build the debian guest, and it is not in the cache"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        return "the debian guest is built in a chroot with mounts of its own, which are not allowed here"
    return None


def build(cache: Path, io: Io = QUIET) -> DebianImage:
    """Build the image below `cache` unless it is there; processes that want it at once build it once.

    Raises:
        QvmError: apt, mmdebstrap or another tool failed, with its words; no image is left.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if guest := found(cache):
        return guest
    with _locked(cache / ".debian.lock") as lock_fd:
        if guest := found(cache):
            return guest
        work = cache / ".debian.part"
        # nothing is mounted there: mounts of a build that was killed went with their name space
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        path = f"{work}/tools/usr/bin:{os.environ['PATH']}"
        # INITRD=No: Debian's kernel package makes no initramfs; ours boots in a fraction of the time
        bench = Workbench(str(work), io, {**os.environ, "PATH": path, "INITRD": "No"})
        bench.lock_fd = lock_fd
        try:
            _key(bench, cache)
            _make(bench, cache)
            _publish(work, _folder(cache))
        finally:
            shutil.rmtree(work, ignore_errors=True)
    guest = found(cache)
    assert guest is not None
    return guest


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _folder(cache: Path) -> Path:
    """Where the image is: named by a hash of all that decides what is in it."""
    init = Path(tiny.FILES, "initramfs/init")
    hashed = hashlib.sha256()
    for source in (Path(__file__), Path(filesystem.__file__), Path(kernel.__file__), init):
        hashed.update(source.read_bytes())
    public = cache / "id_ed25519.pub"
    hashed.update(public.read_bytes() if public.exists() else b"")
    return cache / f"debian-{hashed.hexdigest()[:12]}"


def _key(bench: Workbench, cache: Path) -> None:
    """One throw-away key pair for each cache; for tests only."""
    names = ("id_ed25519.pub", "id_ed25519")  # the public half first: `found` looks for the other
    if not all((cache / name).exists() for name in names):
        bench.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "qvm test guest", "-f", "id_ed25519")
        for name in names:
            os.rename(bench.path(name), cache / name)


def _make(bench: Workbench, cache: Path) -> None:
    """Make IMAGE in the bench's folder."""
    apt = Apt(bench, str(cache))
    with bench.io.stage("getting mmdebstrap and the tools of the boot disk"):
        try:
            tools = apt.resolve([], alone=_TOOLS)
        except QvmError:  # `apt-get update` was never run here
            apt.update()
            tools = apt.resolve([], alone=_TOOLS)
        apt.unpack(tools, "tools")
    suite, sources = _sources(bench, apt)
    apt.close()
    with bench.io.stage(f"installing Debian {suite}"):
        _bootstrap(bench, suite, sources)
        _set_up(bench, cache)
    with bench.io.stage("making the disk"):
        _make_boot(bench)
        _make_disk(bench)


def _sources(bench: Workbench, apt: Apt) -> tuple[str, list[str]]:
    """The release to install and its repositories in the form of sources.list: those of the host's apt.

    Raises:
        QvmError: it has none of Debian.
    """
    form = "$(ORIGIN)|$(CODENAME)|$(REPO_URI) $(RELEASE) $(COMPONENT)"
    lists = f"Dir::State::lists={apt.lists}"
    words = bench.run("apt-get", "-o", lists, "indextargets", "--format", form, "Identifier: Packages")
    targets = [line.split("|", 2) for line in words.splitlines() if line.startswith("Debian|")]
    releases = sorted({codename.partition("-")[0] for _, codename, _ in targets})
    if not releases:
        raise QvmError("apt has no repository of Debian to build the debian guest from")
    own = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    suite = own if own in releases else releases[0]
    signed = f"[signed-by={_KEYRING}] " if os.path.exists(_KEYRING) else ""
    of_suite = {where for _, codename, where in targets if codename.partition("-")[0] == suite}
    return suite, [f"deb {signed}{where}" for where in sorted(of_suite)]


def _bootstrap(bench: Workbench, suite: str, sources: list[str]) -> None:
    """Install the packages into the bench's `root/`."""
    with open(bench.path("sources.list"), "w", encoding="utf-8") as file:
        file.writelines(f"{source}\n" for source in sources)
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _UNUSED]
    # unshare: what it mounts in the chroot is not visible outside, and ends with it
    bench.run(
        *("unshare", "--mount", "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", *excluded),
        *("--aptopt=Apt::Install-Recommends false", "--aptopt=Acquire::Retries 10"),  # for some minutes
        "--include=" + ",".join(_PACKAGES.split()),
        *(suite, "root", "sources.list"),
    )


def _set_up(bench: Workbench, cache: Path) -> None:
    """Our files, accounts and units in the installed system."""
    root = Path(bench.path("root"))
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # /etc/resolv.conf may be a link out of the tree
        path.write_text(text)
        path.chmod(0o440 if "sudoers" in name else 0o644)
    bench.run("chroot", "root", "useradd", "-m", "-s", "/bin/bash", "-G", "sudo,adm", USER)
    for user, home in (("root", "root"), (USER, f"home/{USER}")):
        bench.run("chroot", "root", "passwd", "-q", "-d", user)  # console: no password; ssh: key only
        folder = root / home / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(cache / "id_ed25519.pub", folder / "authorized_keys")
        (folder / "authorized_keys").chmod(0o600)
        bench.run("chroot", "root", "chown", "-R", f"{user}:{user}", f"/{home}/.ssh")
    bench.run("chroot", "root", "systemctl", "-q", "enable", "systemd-networkd", "qemu-ga-isa")
    bench.run("chroot", "root", "systemctl", "-q", "mask", *_MASKED.split())
    bench.run("chroot", "root", "systemctl", "-q", "set-default", "multi-user.target")


def _make_boot(bench: Workbench) -> None:
    """The boot partition: kernel, an initramfs that only finds the disk, syslinux."""
    root, top = Path(bench.path("root")), Path(bench.path("initramfs"))
    for folder in ("bin", "dev", "proc", "sys", "newroot", "m"):
        (top / folder).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", top / "bin")
    tree = next((root / "lib/modules").iterdir())
    for group, wanted in (("first", _FIRST), ("late", _LATE)):
        modules = kernel.order(str(tree), wanted)
        for module in modules:
            (top / "m" / kernel.file_name(module)).write_bytes(kernel.content(module))
        (top / "m" / group).write_text("".join(f"{kernel.file_name(module)}\n" for module in modules))
    shutil.copyfile(Path(tiny.FILES, "initramfs/init"), top / "init")
    (top / "init").chmod(0o755)
    Path(bench.path("initrd.img")).write_bytes(filesystem.cpio(str(top)))
    Path(bench.path("syslinux.cfg")).write_text(_SYSLINUX)
    shutil.copyfile(root / "boot" / f"vmlinuz-{tree.name}", bench.path("vmlinuz"))
    filesystem.make_fat(bench, "boot.img", ["vmlinuz", "initrd.img", "syslinux.cfg"])


def _make_disk(bench: Workbench) -> None:
    """The root file system, and the disk of both."""
    with open(bench.path("root.img"), "wb") as file:
        file.truncate(_MIB << 20)
    # unlike the built-in guest's, this tree has its true owners; nothing is left to the first boot
    bench.run(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-L", "debian", "-m", "0", "-J", "size=4"),
        *("-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", "root", "root.img"),
    )
    boot_code = Path(bench.path("tools/usr/lib/syslinux/mbr/mbr.bin")).read_bytes()
    parts = [("boot.img", 0x0E, True), ("root.img", 0x83, False)]
    filesystem.make_disk(bench, "disk.img", boot_code, parts)
    packed = ("-c", "-o", "compression_type=zstd")  # zlib takes ten times as long
    bench.run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", *packed, "disk.img", IMAGE)


def _publish(work: Path, final: Path) -> None:
    """Give the finished image its name, whole and on the disk; remove those it takes the place of."""
    ready = work / "ready"
    ready.mkdir()
    image = ready / IMAGE
    os.rename(work / IMAGE, image)
    image.chmod(0o444)
    with image.open("rb") as file:
        os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)
    os.rename(ready, final)
    files.sync_folder(str(final.parent))
    others = sorted(final.parent.glob("debian-*"), key=lambda path: path.stat().st_mtime)
    for path in [path for path in others if path != final][: 1 - _KEPT]:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    top = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        if not found(Path(top, "qvm/test-guests")) and (reason := obstacle()):
            raise QvmError(reason)
        made = build(Path(top, "qvm/test-guests"), Io(level=2))
    except QvmError as error:
        sys.exit("\n".join([f"error: {error}", *error.details]))
    print(f"{made.image}\n{made.key}")
