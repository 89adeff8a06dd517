"""The tar files of packages: what other programs read of ours, and what we read of theirs."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from qvmsh.errors import ImageError
from qvmsh.host import scan, tar_format, tar_reader
from qvmsh.host.tar_reader import Reader
from qvmsh.host.tar_writer import Writer

KIB = 1024
LONG = "folder/" + "x" * 200 + "/ünïcode.raw"


def idle(*_: object) -> None:
    pass


def write_sparse(path: Path, size: int, *places: int) -> bytes:
    """A file with a block of data at each place."""
    with path.open("wb") as file:
        file.truncate(size)
        for at in places:
            file.seek(at)
            file.write(os.urandom(4 * KIB))
    return path.read_bytes()


def packed(*files: tuple[str, Path]) -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream.write)
    for name, path in files:
        with path.open("rb") as file:
            found = scan.look(file.fileno())
            pieces = (data for _, data in scan.slices(file.fileno(), found, idle, idle))
            writer.file(name, found, pieces, mode=0o600)
    writer.end()
    return stream.getvalue()


def read_all(data: bytes) -> dict[str, bytes]:
    found = {}
    for member in Reader(io.BytesIO(data).read, "x.tar"):
        content = bytearray(member.size_bytes)
        for at, piece in member.data():
            content[at : at + len(piece)] = piece
        found[member.name] = bytes(content)
    return found


@pytest.fixture
def disks(tmp_path: Path) -> dict[str, tuple[Path, bytes]]:
    """Files with holes at their beginning, in the middle, at their end; one without data; small ones."""
    made = {
        "begin.raw": (1 << 20, (1 << 19,)),
        "end.raw": (1 << 20, (0,)),
        "many.raw": (40 << 20, tuple(range(0, 40 << 20, 1 << 20))),
        "empty.raw": (3 << 20, ()),
        "odd.raw": ((1 << 20) + 77, (1 << 20,)),
        "small": (100, (0,)),
        "nothing": (0, ()),
        LONG: (1 << 20, (1 << 18,)),
    }
    found = {}
    for name, (size, places) in made.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        found[name] = (path, write_sparse(path, size, *places))
    return found


def test_package_is_unpacked_by_gnu_tar_with_its_holes(
    disks: dict[str, tuple[Path, bytes]], tmp_path: Path
) -> None:
    data = packed(*((name, path) for name, (path, _) in disks.items()))
    assert len(data) < 4 << 20
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-x", "-C", out], input=data, check=True)
    for name, (_, content) in disks.items():
        assert (out / name).read_bytes() == content, name
    assert os.stat(out / "empty.raw").st_blocks == 0


def test_package_is_read_by_pythons_tarfile(disks: dict[str, tuple[Path, bytes]]) -> None:
    data = packed(*((name, path) for name, (path, _) in disks.items()))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for name, (_, content) in disks.items():
            file = tar.extractfile(name)
            assert file is not None
            assert file.read() == content, name


def test_package_is_read_back(disks: dict[str, tuple[Path, bytes]]) -> None:
    data = packed(*((name, path) for name, (path, _) in disks.items()))
    assert read_all(data) == {name: content for name, (_, content) in disks.items()}


@pytest.mark.parametrize(
    "words",
    [
        ["--format=gnu"], ["--format=oldgnu"], ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"], ["--format=posix", "--sparse-version=1.0"],
    ],
    ids=lambda words: "-".join(words).replace("--", ""),
)  # fmt: skip
def test_sparse_files_of_gnu_tar_are_read(
    disks: dict[str, tuple[Path, bytes]], tmp_path: Path, words: list[str]
) -> None:
    argv = ["tar", "-c", "-S", *words, "-C", str(tmp_path / "in"), *disks]
    data = subprocess.run(argv, capture_output=True, check=True).stdout
    assert read_all(data) == {name: content for name, (_, content) in disks.items()}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_of_other_formats_are_read(form: int) -> None:
    stream = io.BytesIO()
    name = "a" * 90 + "/" + "b" * 60
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        row = tarfile.TarInfo(name)
        row.size = 3
        tar.addfile(row, io.BytesIO(b"abc"))
    assert read_all(stream.getvalue()) == {name: b"abc"}


def test_size_of_more_than_eight_gib_is_kept() -> None:
    block = tar_format.header("big", 9 << 30, mode=0o600)
    assert tar_format.number(block[124:136]) == 9 << 30
    assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == 9 << 30


def test_package_that_is_cut_off_anywhere_is_refused(disks: dict[str, tuple[Path, bytes]]) -> None:
    data = packed(*((name, path) for name, (path, _) in disks.items()))
    for at in [*range(0, len(data), len(data) // 97), len(data) - 1, len(data) - 512, len(data) - 1024]:
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            read_all(data[:at])


def test_package_with_any_byte_of_a_header_changed_is_refused(
    disks: dict[str, tuple[Path, bytes]],
) -> None:
    data = packed(("end.raw", disks["end.raw"][0]))
    for at in {*range(tar_format.BLOCK)} - {*range(148, 156)}:  # the checksum itself has blanks
        broken = bytearray(data)
        broken[at] ^= 0x20 if data[at] else 0x31
        with pytest.raises(ImageError):
            read_all(bytes(broken))


def sparse_member(table: str, data: bytes, size: str = "65536") -> bytes:
    records = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": size,
    }  # fmt: skip
    text = table.encode() + bytes(tar_format.padding(len(table)))
    head = tar_format.pax(records) + tar_format.header("x", len(text + data), mode=0o600)
    return head + text + data + bytes(tar_format.padding(len(data)) + 1024)


@pytest.mark.parametrize(
    ("table", "size"),
    [
        ("1\n0\n1024\n", "512"),  # behind the end
        ("2\n512\n512\n0\n512\n", "65536"),  # out of order
        ("2\n0\n768\n512\n256\n", "65536"),  # overlapping
        ("1\n0\n512\n", "65536"),  # less than is stored
        ("1\n0\n2048\n", "65536"),  # more
        ("99999999999\n", "65536"),
        ("-1\n", "65536"),
        ("x\n", "65536"),
        ("1\n0\n", "65536"),  # cut off
        ("1\n0\n1024\n", "9" * 30),
        ("1\n" + "0" * 600 + "\n1024\n", "65536"),
    ],
)
def test_map_of_holes_that_is_not_valid_is_refused(table: str, size: str) -> None:
    with pytest.raises(ImageError, match=r"damaged|truncated"):
        read_all(sparse_member(table, bytes(1024), size))


def test_package_with_a_million_members_is_refused_early() -> None:
    block = tar_format.header("x", 0, mode=0o600)
    served = 0

    def read(count: int) -> bytes:
        nonlocal served
        served += 1
        return block[:count]

    with pytest.raises(ImageError, match="more than 10000 files"):
        for _ in Reader(read, "x.tar"):
            pass
    assert served <= tar_reader.MOST_MEMBERS + 2


def test_package_of_endless_headers_is_refused() -> None:
    stream = tar_format.pax({"comment": "x"})
    stream += tar_format.header("x", 0, mode=0o600, kind=tar_format.PAX_GLOBAL)
    with pytest.raises(ImageError):
        read_all(stream * 50_000)


@pytest.mark.parametrize("kind", [tar_format.PAX, tar_format.LONG_NAME, tar_format.PAX_GLOBAL])
def test_header_that_is_huge_is_refused(kind: bytes) -> None:
    with pytest.raises(ImageError, match="a header of"):
        read_all(tar_format.header("x", 1 << 40, mode=0o600, kind=kind))


def test_zeros_without_an_end_are_refused() -> None:
    with pytest.raises(ImageError, match="does not end"):
        for _ in Reader(bytes, "x.tar"):
            pass
