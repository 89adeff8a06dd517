"""What a built-in guest is made from: archive, partition table, owners, modules, libraries, packages."""

from __future__ import annotations

import lzma
import os
import stat
import struct
from pathlib import Path

import pytest

from qvmsh.images import elf, filesystem, kernel, packages, tiny
from qvmsh.images.packages import Package


def entries(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Mode, content and device of each member of a newc archive."""
    found = {}
    at = 0
    while at < len(archive):
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, uid, gid, size, device, length = (
            fields[1],
            fields[2],
            fields[3],
            fields[6],
            fields[9:11],
            fields[11],
        )
        assert (uid, gid) == (0, 0)
        name = archive[at + 110 : at + 110 + length - 1].decode()
        at += (110 + length + 3) & ~3
        found[name] = (mode, archive[at : at + size], (device[0], device[1]))
        at += (size + 3) & ~3
    return found


def test_cpio_folder_holds_every_kind_of_file_and_a_console(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tool").write_bytes(b"\x7fELF\n")
    (tmp_path / "bin/tool").chmod(0o755)
    (tmp_path / "link").symlink_to("bin/tool")
    found = entries(filesystem.cpio(str(tmp_path)))
    assert list(found) == ["bin", "bin/tool", "link", "dev/console", "TRAILER!!!"]
    assert stat.S_ISDIR(found["bin"][0])
    assert found["bin/tool"][:2] == (stat.S_IFREG | 0o755, b"\x7fELF\n")
    assert stat.S_ISLNK(found["link"][0])
    assert found["link"][1] == b"bin/tool"
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))


def test_mbr_two_partitions_have_their_places_and_types() -> None:
    block = filesystem.mbr(b"\xfa" * 500, [(2048, 4096, 0x0E, True), (6144, 100, 0x83, False)])
    assert len(block) == 512
    assert block[:440] == b"\xfa" * 440
    assert block[510:] == b"\x55\xaa"
    first, second, third = (struct.unpack_from("<B3xB3xII", block, 446 + 16 * i) for i in range(3))
    assert first == (0x80, 0x0E, 2048, 4096)
    assert second == (0, 0x83, 6144, 100)
    assert third == (0, 0, 0, 0)


def test_mbr_five_partitions_are_refused() -> None:
    with pytest.raises(ValueError, match="holds 4 partitions, not 5"):
        filesystem.mbr(b"", [(2048, 1, 0x83, False)] * 5)


def test_own_commands_give_all_to_root_but_the_named_folder(tmp_path: Path) -> None:
    (tmp_path / "home/qvm/.ssh").mkdir(parents=True)
    (tmp_path / "home/qvmother").mkdir()
    commands = filesystem.own_commands(str(tmp_path), {"home/qvm": 1000})
    owners = {line.split('"')[1]: line.split()[-1] for line in commands if " uid " in line}
    assert owners == {
        "/": "0",
        "/home": "0",
        "/home/qvm": "1000",
        "/home/qvm/.ssh": "1000",
        "/home/qvmother": "0",
    }
    assert len(commands) == 2 * len(owners)
    assert 'set_inode_field "/home/qvm" gid 1000' in commands


def module(path: Path, depends: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"\x7fELF...\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"
    path.write_bytes(lzma.compress(data) if path.suffix == ".xz" else data)


def test_order_modules_come_after_what_they_depend_on_and_once(tmp_path: Path) -> None:
    module(tmp_path / "kernel/virtio_blk.ko", "virtio,virtio_ring")
    module(tmp_path / "kernel/virtio.ko.xz", "")
    module(tmp_path / "kernel/virtio_ring.ko", "virtio")
    module(tmp_path / "kernel/char/virtio-rng.ko", "virtio")
    found = kernel.order(str(tmp_path), ["virtio_blk", "virtio_rng", "ext4", "virtio-blk"])
    assert [kernel.file_name(path) for path in found] == [
        "virtio.ko",
        "virtio_ring.ko",
        "virtio_blk.ko",
        "virtio-rng.ko",
    ]


def test_content_compressed_module_is_unpacked(tmp_path: Path) -> None:
    module(tmp_path / "a.ko.xz", "b")
    assert kernel.depends(kernel.content(str(tmp_path / "a.ko.xz"))) == ["b"]


def elf_file(path: Path, libraries: list[str], interpreter: str) -> None:
    """A file with just the headers, the dynamic section and the strings of a program."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in libraries)
    base, headers = 0x400000, 64 + 3 * 56
    dynamic = headers
    offsets = [1 + sum(len(name) + 1 for name in libraries[:i]) for i in range(len(libraries))]
    tags = [(1, offset) for offset in offsets]
    strings_at = dynamic + 16 * (len(tags) + 2)
    interp_at = strings_at + len(strings)
    tags += [(5, base + strings_at), (0, 0)]
    body = b"".join(struct.pack("<qQ", *tag) for tag in tags) + strings + interpreter.encode() + b"\0"
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    segments = [
        (1, 0, headers + len(body)),
        (2, dynamic, 16 * len(tags)),
        (3, interp_at, len(interpreter) + 1),
    ]
    table = b"".join(struct.pack("<IIQQQQQQ", k, 4, at, base + at, 0, n, n, 8) for k, at, n in segments)
    path.write_bytes(head + table + body)


def test_needed_program_names_its_libraries_and_its_loader(tmp_path: Path) -> None:
    elf_file(tmp_path / "prog", ["libz.so.1", "libc.so.6"], "/lib64/ld-linux-x86-64.so.2")
    assert elf.needed(str(tmp_path / "prog")) == ["libz.so.1", "libc.so.6"]
    assert elf.interpreter(str(tmp_path / "prog")) == "/lib64/ld-linux-x86-64.so.2"


def test_needed_real_program_of_this_host_names_the_c_library() -> None:
    program = "/usr/bin/env"
    if os.uname().machine != "x86_64" or not os.path.exists(program):
        pytest.skip(f"no {program} for x86_64 here")
    assert any(name.startswith(("libc.", "libc-", "libstdbuf", "ld-musl")) for name in elf.needed(program))


def test_needed_script_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prog").write_text("#!/bin/sh\n")
    with pytest.raises(ValueError, match="not a 64-bit little-endian ELF file"):
        elf.needed(str(tmp_path / "prog"))


SHOWN = """\
Package: dropbear-bin
Version: 2022.83-1+deb12u3
Pre-Depends: init-system-helpers (>= 1.54~)
Depends: libc6 (>= 2.34), libcrypt1:any (>= 1:4.1.0) | libxcrypt1,
Size: 155520
SHA256: 00ff
Description: lightweight
 SSH2 server
Size-Of-Nothing: 3

Package: broken
Version: 1
"""


def test_parse_package_has_version_size_and_first_alternatives() -> None:
    assert packages.parse(SHOWN) == [
        Package(
            name="dropbear-bin",
            version="2022.83-1+deb12u3",
            depends=("init-system-helpers", "libc6", "libcrypt1"),
            sha256="00ff",
            size_bytes=155520,
        )
    ]


def test_complaints_of_apt_are_each_printed_once() -> None:
    words = "Get:1 x\nErr:2 y\nW: old\nE: gone\nE: gone\nReading lists\n"
    assert packages.complaints(words) == ("Err:2 y", "W: old", "E: gone")


def test_tiny_files_hold_no_key_and_no_password() -> None:
    top = Path(tiny.FILES)
    assert (top / "root/etc/shadow").read_text() == "root::19000:0:::::\nqvm::19000:0:::::\n"
    assert not [path for path in top.rglob("*") if "key" in path.name and path.stat().st_size]
    assert not [path for path in top.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
