"""The root file system of a guest that is off, looked at from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_PARTITION = 446 + 16  # the second entry of the table of the MBR
_SECTOR = 512


@contextlib.contextmanager
def root_file_system(disk: str | Path, folder: Path) -> Iterator[str]:
    """The root file system of a disk image, as the tools of e2fsprogs take it; `folder` holds a copy."""
    raw = folder / "raw.img"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, raw], check=True)
    with raw.open("rb") as file:
        file.seek(_PARTITION + 8)
        start = int.from_bytes(file.read(4), "little") * _SECTOR
    yield f"{raw}?offset={start}"
    raw.unlink()


def look(program: str, *words: str, stdin: str = "") -> str:
    """What `dumpe2fs` or `debugfs` says."""
    env = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run([program, *words], env=env, input=stdin, capture_output=True, text=True, check=True)
    return done.stdout


def files(image: str) -> dict[str, tuple[str, int, int]]:
    """Path of everything in it, with its mode, and the numbers of its user and group."""
    found: dict[str, tuple[str, int, int]] = {}
    folders = [""]
    while folders:
        listed = look("debugfs", "-f", "-", image, stdin="".join(f'ls -p "{path}/"\n' for path in folders))
        _, *parts = listed.split("debugfs: ls -p ")
        below = []
        for path, part in zip(folders, parts, strict=True):
            for line in part.splitlines():
                if not line.startswith("/"):
                    continue
                _, inode, mode, user, group, name, *_ = line.split("/")
                if inode != "0" and name not in (".", ".."):
                    found[f"{path}/{name}"] = (mode, int(user), int(group))
                    below += [f"{path}/{name}"] if mode.startswith("04") else []
        folders = below
    return found
