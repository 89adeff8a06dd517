"""Copies of files: what cannot be copied whole is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvmsh.errors import QvmError
from qvmsh.host.transfer import SLICE_BYTES, fetch, send


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "source", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


@pytest.fixture
def target() -> Iterator[int]:
    fd = os.memfd_create("target")  # of another file system, so that it is no clone
    yield fd
    os.close(fd)


@pytest.mark.parametrize("is_hole", [False, True])
@pytest.mark.parametrize("kept", [0, 1, SLICE_BYTES, SLICE_BYTES + 1, 2 * SLICE_BYTES])
def test_file_that_becomes_shorter_is_no_file_with_zeros_at_its_end(
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
