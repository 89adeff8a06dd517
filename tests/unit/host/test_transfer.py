"""Copies of files: what cannot be copied whole is reported."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvmsh.errors import QvmError
from qvmsh.host.checksum import OF_DATA
from qvmsh.host.compression import COMPRESSORS
from qvmsh.host.files import SLICE_BYTES, copy
from qvmsh.host.transfer import HOLES_BYTES, digest, fetch, send


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "source", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


@pytest.fixture
def target() -> Iterator[int]:
    fd = os.memfd_create("target")  # of another file system, so that it is not a clone
    yield fd
    os.close(fd)


@pytest.mark.parametrize("is_hole", [False, True])
@pytest.mark.parametrize("kept", [0, 1, SLICE_BYTES, SLICE_BYTES + 1, 2 * SLICE_BYTES])
def test_send_file_that_becomes_shorter_fails_without_zeros(
    source: int, target: int, kept: int, is_hole: bool
) -> None:
    for at in range(3):
        os.pwrite(source, os.urandom(SLICE_BYTES), at * SLICE_BYTES)
    if is_hole:
        os.ftruncate(source, 4 * SLICE_BYTES)
    with pytest.raises(QvmError, match="source became shorter while it was copied"):
        send(source, target, lambda _: os.ftruncate(source, kept), lambda: None)


def test_copy_has_what_the_file_has(source: int, target: int) -> None:
    data = os.urandom(2 * SLICE_BYTES + 5)
    os.pwrite(source, data, 3 * SLICE_BYTES)
    sent = send(source, target, lambda _: None, lambda: None)
    assert sent.stored_bytes == os.fstat(target).st_size == os.fstat(source).st_size
    assert os.pread(target, len(data), 3 * SLICE_BYTES) == data


def test_program_that_fails_is_called_by_its_own_name(source: int, target: int) -> None:
    os.write(source, b"no gzip at all")
    os.lseek(source, 0, os.SEEK_SET)
    with pytest.raises(QvmError, match=r"^gzip cannot decompress it"):
        fetch(source, target, lambda _: None, lambda: None, compression="gzip")
    null = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left"):
            send(source, null, lambda _: None, lambda: None, compression="gzip")
    finally:
        os.close(null)


def held_bytes(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def piped(data: bytes) -> int:
    """A pipe out of which this comes."""
    end, begin = os.pipe()

    def write() -> None:
        with open(begin, "wb") as file:
            file.write(data)

    threading.Thread(target=write).start()
    return end


@pytest.mark.parametrize("tool", ["", *COMPRESSORS])
@pytest.mark.parametrize("tail", [b"", b"\0", b"x"])
def test_what_comes_back_has_holes_where_there_are_only_zeros(tmp_path: Path, tool: str, tail: bytes) -> None:
    if tool and not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    noise = os.urandom(100_000)
    data = bytes(2 * SLICE_BYTES + 77) + noise + bytes(SLICE_BYTES) + tail
    (tmp_path / "source").write_bytes(data)
    source = os.open(tmp_path / "source", os.O_RDONLY)
    packed = os.open(tmp_path / "packed", os.O_RDWR | os.O_CREAT)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    sent = send(source, packed, lambda _: None, lambda: None, compression=tool)
    stored = piped((tmp_path / "packed").read_bytes())
    assert fetch(stored, target, lambda _: None, lambda: None, compression=tool) == sent
    assert (tmp_path / "target").read_bytes() == data
    assert held_bytes(target) <= len(noise) + 4 * (1 << 16)
    for fd in (source, packed, stored, target):
        os.close(fd)


def test_full_disk_is_reported_while_a_program_unpacks(source: int, target: int) -> None:
    os.pwrite(source, os.urandom(SLICE_BYTES), 0)
    send(source, target, lambda _: None, lambda: None, compression="gzip")
    os.lseek(target, 0, os.SEEK_SET)
    full = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(OSError, match="No space left") as output:
        fetch(target, full, lambda _: None, lambda: None, compression="gzip")
    assert output.value.errno == errno.ENOSPC
    os.close(full)


def test_copied_file_that_becomes_shorter_leaves_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(2 * SLICE_BYTES))
    with pytest.raises(QvmError, match="source became shorter"):
        copy(str(path), f"/dev/shm/{tmp_path.name}", lambda: os.truncate(path, SLICE_BYTES))
    assert not os.path.exists(f"/dev/shm/{tmp_path.name}")


PIECES = st.lists(
    st.tuples(st.sampled_from(["hole", "zeros", "data"]), st.integers(1, 40) | st.integers(60_000, 200_000)),
    max_size=6,
)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(PIECES, st.integers(1, 255))
def test_checksum_depends_on_content_alone(tmp_path: Path, pieces: list[tuple[str, int]], byte: int) -> None:
    """Not on holes, not on the sizes in which a pipe hands it over; the first kind is that of `xxh128sum`."""
    path = tmp_path / "source"
    with path.open("wb") as file:
        for kind, count in pieces:
            if kind == "hole":
                file.truncate(file.seek(count, os.SEEK_CUR))
            else:
                file.write(bytes(count) if kind == "zeros" else bytes([byte]) * count)
    data = path.read_bytes()
    for like in ("", OF_DATA):
        sums = set()
        for content in (None, data, data[:-1] + bytes([data[-1] ^ 1]) if data else b"x", data + b"\0"):
            if content is not None:
                path.write_bytes(content)
            with path.open("rb") as file:
                whole = digest(file.fileno(), lambda _: None, lambda: None, like=like)
            with open(piped(path.read_bytes()), "rb") as file:
                assert digest(file.fileno(), lambda _: None, lambda: None, like=like) == whole
            assert like or whole.xxh128 == xxhash.xxh3_128_hexdigest(path.read_bytes())
            assert whole.xxh128.startswith(like)
            sums.add(whole.xxh128)
        assert len(sums) == 3  # with a hole and with zeros it is the same, with other content another


def test_file_of_holes_is_copied_and_hashed_at_once(source: int, target: int) -> None:
    os.pwrite(source, b"x" * 4096, HOLES_BYTES * 4 - 5000)
    os.ftruncate(source, HOLES_BYTES * 512)  # 8 TiB
    sent = send(source, target, lambda _: None, lambda: None)
    assert sent.stored_bytes == HOLES_BYTES * 512
    assert sent == digest(target, lambda _: None, lambda: None, like=sent.xxh128)
    os.pwrite(target, b"y", HOLES_BYTES * 4 - 5000)
    assert sent != digest(target, lambda _: None, lambda: None, like=sent.xxh128)
