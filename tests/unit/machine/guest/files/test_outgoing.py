"""Packing files of the host: what GNU tar and Python make of it, and what cannot be read."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from qvmsh.machine.guest.files.outgoing import Packing
from tests.support.odd_names import make_sparse, make_tree, seen


def idle(*_: object) -> None:
    pass


def packed(top: Path, *, is_gnu: bool = True) -> tuple[Packing, bytes]:
    stream = io.BytesIO()
    packing = Packing(stream.write, is_gnu=is_gnu, tell=idle, checkpoint=idle)  # type: ignore[arg-type]
    packing.add(os.fsencode(top), os.fsencode(top.name))
    packing.end()
    return packing, stream.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "in" / "tree"
    make_tree(top)
    return top


def test_packing_is_unpacked_by_gnu_tar_as_it_was(tree: Path, tmp_path: Path) -> None:
    make_sparse(tree / "holes", 8 << 20, 1 << 20)
    packing, data = packed(tree)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-x", "-p", "-o", "-f", "-", "-C", tmp_path / "out"], input=data, check=True)
    wanted = seen(tree)
    assert packing.closed_folders() == [(0o555, b"tree/closed")]  # put gives that mode at the end
    (tmp_path / "out/tree/closed").chmod(0o555)
    assert seen(tmp_path / "out/tree") == wanted
    assert os.stat(tmp_path / "out/tree/holes").st_blocks * 512 < 1 << 20
    assert os.path.samefile(tmp_path / "out/tree/second name", tmp_path / "out/tree/dir\n1/f")
    assert packing.failed == []


def test_packing_for_another_tar_leaves_files_with_holes(tree: Path) -> None:
    make_sparse(tree / "holes", 8 << 20, 1 << 20)
    packing, data = packed(tree, is_gnu=False)
    assert packing.sparse == [(os.fsencode(tree / "holes"), b"tree/holes")]
    assert len(data) < 1 << 20


def test_packing_names_what_it_cannot_copy_and_goes_on(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(tree / "sock"))
    packing, data = packed(tree)
    assert sorted(packing.failed) == [f"{tree}/pipe: it is a FIFO", f"{tree}/sock: it is a socket"]
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        assert "tree/program" in tar.getnames()


def test_packing_a_file_that_becomes_shorter_marks_its_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top/log").write_bytes(b"x" * 1000)
    look = os.fstat

    def shorten(fd: int) -> os.stat_result:
        found = look(fd)
        os.truncate(tmp_path / "top/log", 10)  # after it was looked at
        return found

    monkeypatch.setattr(os, "fstat", shorten)
    packing, data = packed(tmp_path / "top")
    assert packing.incomplete == [b"top/log"]
    assert packing.failed == [f"{tmp_path}/top/log: it became shorter while it was read"]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmember("top/log").size == 1000  # the stream is whole
