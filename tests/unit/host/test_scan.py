"""The reading of a file that goes into a package: where its data is, its checksum, whether it has changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from qvmsh.host import scan


def idle(*_: object) -> None:
    pass


def summed(path: Path) -> tuple[scan.Scan, str]:
    with path.open("rb") as file:
        found = scan.look(file.fileno())
        with scan.Summing(found) as total:
            for at, data in scan.slices(file.fileno(), found, idle, idle):
                total.add(at, data)
    digest = total.digest()
    assert len(digest) == len(found.placeholder)
    return found, digest


@pytest.mark.parametrize("size", [0, 1, 512, 65536, 65537, (3 << 20) + 5])
def test_checksum_is_that_of_all_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "disk"
    for content in (os.urandom(size), bytes(size), os.urandom(size // 2) + bytes(size - size // 2)):
        path.write_bytes(content)
        assert summed(path)[1] == hashlib.sha256(content).hexdigest()


def test_runs_are_where_the_file_may_hold_data(tmp_path: Path) -> None:
    thin, thick = tmp_path / "thin", tmp_path / "thick"
    with thin.open("wb") as file:
        file.truncate(8 << 20)
        for at in (0, 3 << 20):
            os.pwrite(file.fileno(), os.urandom(4096), at)
    thick.write_bytes(thin.read_bytes())
    found, digest = summed(thin)
    assert found.runs == ((0, 65536), (3 << 20, 65536))
    assert found.has_holes
    assert summed(thick) == (scan.Scan(8 << 20, ((0, 8 << 20),), False, thick.stat().st_mtime_ns), digest)


def test_checksum_of_a_file_of_holes_is_that_of_its_data(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        os.pwrite(file.fileno(), b"x" * 70000, 1 << 39)
    wanted = hashlib.sha256()
    for at, length in ((1 << 39, 65536), ((1 << 39) + 65536, 65536)):
        wanted.update(at.to_bytes(8, "big"))
        wanted.update((b"x" * 70000)[at - (1 << 39) :][:length].ljust(65536, b"\0"))
    wanted.update((1 << 40).to_bytes(8, "big"))
    found, digest = summed(path)
    assert digest == f"data:{wanted.hexdigest()}"
    assert len(found.runs) == 1


@pytest.mark.parametrize("at", [0, 100_000, (2 << 20) - 1])
def test_file_changed_while_it_is_read_is_noticed(tmp_path: Path, at: int) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(2 << 20))
    os.utime(path, ns=(0, 0))
    with path.open("r+b") as file:
        found = scan.look(file.fileno())
        old = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([old[0] ^ 1]), at)
        with pytest.raises(scan.Changed):
            list(scan.slices(file.fileno(), found, idle, idle))


def test_file_cut_off_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(2 << 20))
    os.utime(path, ns=(0, 0))
    with path.open("r+b") as file:
        found = scan.look(file.fileno())
        file.truncate(1 << 20)
        with pytest.raises(scan.Changed):
            list(scan.slices(file.fileno(), found, idle, idle))
