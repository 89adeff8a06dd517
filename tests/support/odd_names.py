"""Trees of files with names that programs stumble over, and what is in a tree."""

from __future__ import annotations

import os
import stat
from pathlib import Path

ODD = (
    b"a b", b"-rf", b"--help", b"new\nline", b"\n", b"tab\t", b"q'uote", b'd"q', b"$HOME", b"`id`", b"*",
    b"?x", b"[a]", b"\\back", b"\xff\xfe", b"\xc3\xa4\xe2\x82\xac", b"x" * 255, b"\xff" * 255,
    b"\n" * 255, b".hidden", b"..x", b"...", b" ", b"trail\n", b"#c", b"~", b"a=b", b"%s%n", b"!h",
    b"\x01\x1b[31m", b"y" * 99, b"y" * 100, b"y" * 101,
)  # fmt: skip
"""Names of files, as bytes."""
FOLDERS = (b"dir\n1", b"-d", b"z" * 255, b"\xff d", b"deep")
WHEN = 1_234_567_890


def make_tree(top: Path, names: tuple[bytes, ...] = ODD) -> None:
    """A folder with such names at two levels, links, modes, times and holes."""
    base = os.fsencode(top)
    for folder in (b"", *FOLDERS):
        os.makedirs(os.path.join(base, folder), exist_ok=True)
        for name in names if folder in (b"", b"deep") else (b"f",):
            path = os.path.join(base, folder, name)
            Path(os.fsdecode(path)).write_bytes(name)
            os.utime(path, (WHEN, WHEN))
    os.symlink(b"/etc/passwd", base + b"/out")
    os.symlink(b"\xff\n" * 60, base + b"/nowhere")
    os.symlink(b"deep", base + b"/inside")
    os.link(os.path.join(base, FOLDERS[0], b"f"), base + b"/second name")
    (top / "secret").write_bytes(b"s")
    (top / "secret").chmod(0o600)
    (top / "program").write_bytes(b"#!/bin/sh\n")
    (top / "program").chmod(0o555)
    (top / "closed").mkdir()
    (top / "closed/f").write_bytes(b"")
    os.utime(top / "closed", (WHEN, WHEN))
    (top / "closed").chmod(0o555)


def make_sparse(path: Path, size: int, *places: int) -> None:
    """A file with 4 KiB of data at each place."""
    with path.open("wb") as file:
        file.truncate(size)
        for at in places:
            file.seek(at)
            file.write(os.urandom(4096))


def seen(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Each name below a folder, with what is kept of it: kind, mode, content or link, and its time."""
    found: dict[bytes, tuple[object, ...]] = {}
    base = os.fsencode(top)
    for folder, folders, files in os.walk(base):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            mode, when = stat.S_IMODE(status.st_mode), int(status.st_mtime)
            shown: tuple[object, ...]
            if stat.S_ISLNK(status.st_mode):
                shown = ("link", os.readlink(path))  # busybox keeps no times of links
            elif stat.S_ISDIR(status.st_mode):
                shown = ("folder", mode, when)
            else:
                shown = ("file", mode, when, Path(os.fsdecode(path)).read_bytes())
            found[path[len(base) + 1 :]] = shown
    return found
