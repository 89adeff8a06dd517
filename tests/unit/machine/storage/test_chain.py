"""The one rule about which files an image may name: headers by qemu-img, and some that it would not write."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qvmsh.errors import ImageError
from qvmsh.machine.storage import chain
from qvmsh.qemu import image
from tests.support.programs import qemu_img


def overlay(folder: Path, backing: str, kind: str = "raw", name: str = "a.qcow2") -> Path:
    qemu_img(folder, "create", "-q", "-u", "-f", "qcow2", "-F", kind, "-b", backing, name, "1M")
    return folder / name


def forget_format(path: Path) -> None:
    """Make the header extension with the backing format an unknown one, as if it had never been written."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\xe2\x79\x2a\xca", b"\x12\x34\x56\x78", 1))


def layers(path: Path, kind: str = "qcow2") -> list[tuple[str, str]]:
    found = chain.layers(str(path), kind, "demo", str(path.parent))
    return [(os.path.basename(each.path), each.format) for each in found]


@pytest.mark.parametrize(
    "backing",
    [
        "nbd:localhost:1",
        "nbd://localhost:1/x",
        "nbd+unix:///x?socket=/tmp/s",
        "ssh://localhost/etc/passwd",
        "http://localhost:1/x",
        "fat:/etc",
        "file:secret",
        "host_device:/dev/sda",
        "blkdebug::secret",
        'json:{"driver":"nbd","host":"localhost","port":"1"}',
        'json:{"driver":"raw","file":{"driver":"nbd","host":"localhost","port":"1"}}',
        'json:{"driver":"raw","file":{"driver":"file","filename":"secret"}}',
        'json:{"driver":"qcow2","file":{"driver":"file","filename":"/a"},"backing":{"driver":"file",'
        '"filename":"/b"}}',
        'json:{"driver":"qcow2","file":{"driver":"file","filename":"/a"},"data-file":{"driver":"file",'
        '"filename":"/b"}}',
        'json:{"driver":"raw","file":{"driver":"file","filename":"/a"},"file.filename":"/b"}',
        'json:{"file":{"driver":"file"}}',
        "json:{",
        "json:[]",
    ],
)
def test_backing_name_that_is_not_a_file_here_is_refused(tmp_path: Path, backing: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(512))
    with pytest.raises(ImageError, match="as its backing file, but it must be a file of this host"):
        layers(overlay(tmp_path, backing))


@pytest.mark.parametrize("kind", ["nbd", "vvfat", "blkdebug", "luks"])
def test_backing_format_that_is_unknown_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(512))
    path = overlay(tmp_path, "secret", "qcow2")
    path.write_bytes(path.read_bytes().replace(b"qcow2\0\0\0", kind.encode().ljust(8, b"\0"), 1))
    data = bytearray(path.read_bytes())
    at = data.index(b"\xe2\x79\x2a\xca") + 4
    data[at : at + 4] = struct.pack(">I", len(kind))
    path.write_bytes(data)
    assert image.header(str(path)).backing_format == kind
    with pytest.raises(ImageError, match="must be a file of this host"):
        layers(path)


@pytest.mark.parametrize(
    "form",
    ["{}", "file:{}", 'json:{{"driver":"raw","file":{{"driver":"file","filename":"{}"}}}}',
     "json:{{'driver':'raw','file.driver':'file','file.filename':'{}'}}"],
)  # fmt: skip
def test_backing_name_that_is_one_is_taken_in_each_form(tmp_path: Path, form: str) -> None:
    base = tmp_path / "base:x.img"
    base.write_bytes(bytes(512))
    assert layers(overlay(tmp_path, form.format(base))) == [("a.qcow2", "qcow2"), ("base:x.img", "raw")]


@pytest.mark.parametrize("name", ["guest", "guest.raw", "guest.img", "guest.vmdk"])
def test_format_that_is_not_recorded_is_not_guessed(tmp_path: Path, name: str) -> None:
    """A guest has written another header into its raw disk."""
    (tmp_path / "secret").write_bytes(bytes(512))
    overlay(tmp_path, str(tmp_path / "secret"), name=name)
    path = overlay(tmp_path, name)
    forget_format(path)
    assert image.header(str(path)).backing_format == ""
    with pytest.raises(ImageError, match="does not record the format of its backing file") as caught:
        layers(path)
    hint = caught.value.hint or ""
    command = hint.split("`")[1].split()
    assert command[:5] == ["qemu-img", "rebase", "-u", "-f", "qcow2"], hint
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)  # that is what it takes
    if name != "guest.vmdk":
        assert layers(path) == [("a.qcow2", "qcow2"), (name, "raw")]


@pytest.mark.parametrize(
    ("name", "kind"), [("base.qcow2", "qcow2"), ("base.img", "raw"), ("base.qed", "qed")]
)
def test_format_by_name_and_content_need_not_be_recorded(tmp_path: Path, name: str, kind: str) -> None:
    qemu_img(tmp_path, "create", "-q", "-f", kind, name, "1M")
    path = overlay(tmp_path, name, kind)
    forget_format(path)
    assert layers(path) == [("a.qcow2", "qcow2"), (name, kind)]


def test_header_in_a_raw_disk_counts_for_nothing(tmp_path: Path) -> None:
    overlay(tmp_path, "/etc/passwd", name="guest.img")
    path = overlay(tmp_path, "guest.img")
    assert layers(tmp_path / "guest.img", "raw") == [("guest.img", "raw")]
    assert layers(path) == [("a.qcow2", "qcow2"), ("guest.img", "raw")]
    assert chain.snapshots_in(str(tmp_path / "guest.img"), "raw") == []
    assert chain.base_of(str(tmp_path / "guest.img"), "raw") == ""


def test_backing_file_of_another_format_than_recorded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(512))
    with pytest.raises(ImageError, match=r"secret is in format raw, but a\.qcow2 says qcow2"):
        layers(overlay(tmp_path, "secret", "qcow2"))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_chain_that_is_not_a_file_ends_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "odd")
    with pytest.raises(ImageError, match=r"odd is a .*, not an image"):
        layers(overlay(tmp_path, "odd"))
    for kind in ("raw", "qcow2", "vmdk"):
        with pytest.raises(ImageError, match=r"odd is a .*, not an image"):
            layers(tmp_path / "odd", kind)


def data_file(folder: Path, name: str) -> Path:
    """An image whose header names that data file, in whatever way."""
    qemu_img(
        folder, "create", "-q", "-f", "qcow2", "-o", "data_file=0123456789,data_file_raw=on", "a.qcow2", "1M"
    )
    path = folder / "a.qcow2"
    (folder / "0123456789").rename(folder / "x.data")
    data = bytearray(path.read_bytes())
    at = data.index(b"DATA")
    assert data[at + 4 : at + 8] == struct.pack(">I", 10)
    rest = bytes(data[at + 24 : 4096])
    field = name.encode() + bytes(-len(name.encode()) % 8)
    head = struct.pack(">II", 0x44415441, len(name.encode())) + field + rest
    data[at:4096] = head.ljust(4096 - at, b"\0")[: 4096 - at]
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["x.data", "./x.data", "{}/x.data"])
def test_data_file_beside_its_image_is_taken(tmp_path: Path, name: str) -> None:
    path = data_file(tmp_path, name.format(tmp_path))
    assert image.header(str(path)).files == (name.format(tmp_path),)
    assert layers(path) == [("a.qcow2", "qcow2")]
    qemu_img(tmp_path, "check", "-f", "qcow2", "a.qcow2")  # qemu-img reads the header likewise


@pytest.mark.parametrize(
    "name", ["link", "../secret", "{}/../secret", "folder/secret", "fifo", "gone", "/dev/zero", "nbd:x:1", ""]
)
def test_data_file_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    (home / "link").symlink_to("../secret")
    (home / "folder").symlink_to("..")
    os.mkfifo(home / "fifo")
    with pytest.raises(ImageError, match="not a plain file beside it"):
        layers(data_file(home, name.format(home)))


VMDK = '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'


@pytest.mark.parametrize("first", ["", "# a comment\n# another\n", "   \n"])
def test_extents_are_found_however_the_descriptor_begins(tmp_path: Path, first: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    home = tmp_path / "home"
    home.mkdir()
    text = VMDK if not first else first + VMDK.split("\n", 1)[1]
    path = home / "a.vmdk"
    path.write_text(f'{text}RW 2048 FLAT "{tmp_path}/secret" 0\n')
    assert image.header(str(path)).format == "vmdk"
    with pytest.raises(ImageError, match="not a plain file beside it"):
        layers(path, "vmdk")
    (home / "own").write_bytes(bytes(1 << 20))
    path.write_text(f'{text}RW 2048 FLAT "own" 0\n')
    assert layers(path, "vmdk") == [("a.vmdk", "vmdk")]
    path.write_text(f'{text}{"#" * 70000}\nRW 2048 FLAT "{tmp_path}/secret" 0\n')
    with pytest.raises(ImageError, match="is not a vmdk image"):
        layers(path, "vmdk")


def test_parent_of_a_vmdk_is_found_inside_its_extent(tmp_path: Path) -> None:
    qemu_img(tmp_path, "create", "-q", "-f", "vmdk", "base.vmdk", "1M")
    qemu_img(tmp_path, "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", "base.vmdk", "a.vmdk")
    assert layers(tmp_path / "a.vmdk", "vmdk") == [("a.vmdk", "vmdk"), ("base.vmdk", "vmdk")]
    (tmp_path / "base.vmdk").write_bytes(bytes(512))
    with pytest.raises(ImageError, match="does not record the format"):
        layers(tmp_path / "a.vmdk", "vmdk")


def test_header_extension_last_of_its_kind_counts_however_far(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(512))
    path = overlay(tmp_path, "secret", "raw")
    data = bytearray(path.read_bytes())
    at = struct.unpack(">I", data[100:104])[0]
    formats = [struct.pack(">II", 0xE2792ACA, 5) + kind.ljust(8, b"\0") for kind in (b"raw", b"qcow2")]
    filler = struct.pack(">II", 0x11111111, 8000) + bytes(8000)
    extensions = formats[0] + filler + formats[1] + bytes(8)
    name_at = at + len(extensions)
    data[at : name_at + 6] = extensions + b"secret"
    data[8:16] = struct.pack(">Q", name_at)
    path.write_bytes(data)
    result = subprocess.run(["qemu-img", "info", path], capture_output=True, text=True, check=True).stdout
    assert "backing file format: qcow2" in result
    assert (image.header(str(path)).backing, image.header(str(path)).backing_format) == ("secret", "qcow2")
