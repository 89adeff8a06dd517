"""Who has an image open, while a QEMU that was killed is still letting go of it."""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from qvmsh.errors import ImageError
from qvmsh.qemu import image

WRITES = 101
"""The byte that QEMU locks in an image that it writes to. Source: QEMU block/file-posix.c."""

LOCK = struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, WRITES, 1, 0)


def locked_by_nobody(path: Path) -> tuple[socket.socket, socket.socket]:
    """Lock an image as QEMU does, from an open file that is in no process's table: it is on its way."""
    ours, other = socket.socketpair()
    with path.open("r+b") as file:
        fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, LOCK)
        socket.send_fds(ours, [b"x"], [file.fileno()])
    return ours, other


def close_all(*ends: socket.socket) -> None:
    for end in ends:
        end.close()


def test_image_of_a_qemu_that_is_just_ending_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    ends = locked_by_nobody(path)
    assert image._is_written(str(path))
    let_go = threading.Timer(0.3, close_all, ends)
    let_go.start()
    image.require_unused(str(path), "demo")
    assert not image._is_written(str(path))
    let_go.join()


def test_image_that_stays_locked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "_DYING_S", 0.1)
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    ours, other = locked_by_nobody(path)
    with ours, other, pytest.raises(ImageError, match=r"disk\.img is in use by another process"):
        image.require_unused(str(path), "demo")


def test_image_in_use_is_refused_at_once_with_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "_DYING_S", 1e9)
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file:
        fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, LOCK)
        other = subprocess.Popen(["sleep", "600"], pass_fds=[file.fileno()])
    try:
        with pytest.raises(ImageError, match=rf"is in use by sleep \(pid {other.pid}, "):
            image.require_unused(str(path), "demo")
    finally:
        other.kill()
        other.wait()
