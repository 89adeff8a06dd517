"""File systems and disks, written to plain files: cpio, FAT, ext4, a partitioned disk.

No root, no mounts, no loop devices: `mke2fs -d` fills an ext4 file system from a folder, mtools
fill a FAT one, the partition table is 66 bytes. Who owns the files *in* a guest is written into
the file system afterwards by debugfs, so it does not matter who builds (no fakeroot, no user
namespace, which some systems forbid)::

    make_ext4(bench, "root", "root.img", mib=1000, label="tiny", owners={"home/qvm": 1000})
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from qvmsh.errors import CommandError
from qvmsh.images.workbench import Workbench

MIB = 1 << 20
SECTOR = 512
_ALIGN = 2048  # sectors: partitions begin at whole MiB
_CPIO_MAGIC = b"070701"


def cpio(tree: str) -> bytes:
    """The folder as a newc cpio archive with owner root: what the kernel takes as initramfs.

    Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    parts: list[bytes] = []

    def entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        words = name.encode() + b"\0"
        fields = (len(parts) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(words), 0)
        head = _CPIO_MAGIC + b"".join(b"%08x" % value for value in fields) + words
        parts.append(_padded(head) + _padded(data))

    for path in sorted(_below(tree)):
        name, mode = os.path.relpath(path, tree), os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            entry(name, mode, os.readlink(path).encode())
        elif stat.S_ISREG(mode):
            with open(path, "rb") as file:
                entry(name, mode, file.read())
        else:
            entry(name, mode)
    entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))  # init's own stdin, before devtmpfs
    entry("TRAILER!!!", 0)
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _below(tree: str) -> list[str]:
    """Every file, link and folder below `tree`."""
    return [os.path.join(at, name) for at, folders, files in os.walk(tree) for name in folders + files]


def make_fat(bench: Workbench, image: str, files: list[str]) -> None:
    """Make a FAT16 file system that syslinux boots, with `files` in its root.

    It is meant to begin one MiB into the disk. Needs mtools and syslinux on the bench's PATH.
    """
    content = sum(os.path.getsize(bench.path(file)) for file in files)
    mib = max(24, -(-content // MIB) + 4)
    with open(bench.path(image), "wb") as file:
        file.truncate(mib * MIB)
    # 64 heads of 32 sectors: a cylinder is one MiB
    geometry = ("-h", "64", "-s", "32", "-t", str(mib), "-H", str(_ALIGN))
    bench.run("mformat", "-i", image, *geometry, "-v", "BOOT", "::")
    bench.run("mcopy", "-i", image, *files, "::")
    bench.run("syslinux", "--install", image)


def make_ext4(
    bench: Workbench, tree: str, image: str, *, mib: int, label: str, owners: dict[str, int]
) -> None:
    """Make an ext4 file system from the folder `tree`; its files belong to root.

    Args:
        owners: folders, relative to `tree`, that belong with all that they hold to another
            user and group of this number.
    """
    with open(bench.path(image), "wb") as file:
        file.truncate(mib * MIB)
    now = "lazy_itable_init=0,lazy_journal_init=0"  # else the kernel writes them after the first boot
    bench.run(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-m", "0", "-J", "size=4", "-E", now),
        *("-d", tree, image),
    )
    commands = own_commands(bench.path(tree), owners)
    with open(bench.path("owners.debugfs"), "w", encoding="utf-8") as file:
        file.writelines(f"{command}\n" for command in commands)
    bench.run("debugfs", "-w", "-f", "owners.debugfs", image)
    _check_owners(bench, image, owners)
    os.unlink(bench.path("owners.debugfs"))


def own_commands(tree: str, owners: dict[str, int]) -> list[str]:
    """The debugfs commands that give every file of `tree` its owner in the file system."""
    commands = []
    for path in [".", *(os.path.relpath(path, tree) for path in sorted(_below(tree)))]:
        owner = next((uid for top, uid in owners.items() if f"{path}/".startswith(f"{top}/")), 0)
        name = os.path.normpath(f"/{path}")
        commands += [f'set_inode_field "{name}" {field} {owner}' for field in ("uid", "gid")]
    return commands


def _check_owners(bench: Workbench, image: str, owners: dict[str, int]) -> None:
    """debugfs ends with status 0 whatever its commands did: look at what they were to do."""
    for path, owner in {"": 0, "etc": 0, **owners}.items():
        words = bench.run("debugfs", "-R", f'stat "/{path}"', image).split()
        if words[words.index("User:") + 1] != str(owner):
            raise CommandError(f"debugfs did not make {owner} the owner of /{path}", argv=("debugfs",))


def make_disk(bench: Workbench, disk: str, boot_code: bytes, parts: list[tuple[str, int, bool]]) -> None:
    """Write the partitions `[(image, type, active)]` one after another behind an MBR."""
    layout = []
    start = _ALIGN
    with open(bench.path(disk), "wb") as target:
        for image, kind, active in parts:
            with open(bench.path(image), "rb") as source:
                sectors = -(-os.fstat(source.fileno()).st_size // SECTOR)
                _copy_data(source.fileno(), target.fileno(), start * SECTOR)
            layout.append((start, sectors, kind, active))
            start += -(-sectors // _ALIGN) * _ALIGN
        os.ftruncate(target.fileno(), start * SECTOR)
        os.pwrite(target.fileno(), mbr(boot_code, layout), 0)


def mbr(boot_code: bytes, parts: list[tuple[int, int, int, bool]]) -> bytes:
    """A master boot record for up to four partitions `(first sector, sectors, type, active)`."""
    if len(parts) > 4:
        raise ValueError(f"an MBR holds 4 partitions, not {len(parts)}")
    far = b"\xfe\xff\xff"  # cylinder, head and sector where only the LBA numbers count
    table = b"".join(
        struct.pack("<B3sB3sII", 0x80 if active else 0, far, kind, far, start, sectors)
        for start, sectors, kind, active in parts
    )
    return boot_code[:440].ljust(440, b"\0") + b"qvmG\0\0" + table.ljust(64, b"\0") + b"\x55\xaa"


def _copy_data(source: int, target: int, at: int) -> None:
    """Copy what holds data to offset `at`; zeros stay a hole."""
    size, begin = os.fstat(source).st_size, 0
    while begin < size:
        try:
            begin = os.lseek(source, begin, os.SEEK_DATA)
            end = os.lseek(source, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            end = size  # the file system knows no holes
        while begin < end:
            block = os.pread(source, min(MIB, end - begin), begin)
            if block.strip(b"\0"):
                os.pwrite(target, block, at + begin)
            begin += len(block)
