"""A QEMU that is not qvm's and has an image in use."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def qemu_with(image: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a QEMU that has the image open for writing, and end it.

    It has answered a question before the block begins: nobody may look at the image while QEMU opens it,
    since a look that takes a lock, as that of `qemu-img info`, ends it.
    """
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-S", "-nodefaults", "-display", "none"]
    qemu = subprocess.Popen(
        [*argv, "-monitor", "stdio", "-drive", f"file={image.name},format=qcow2,if=virtio"],
        cwd=image.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write(b"info status\n")
        qemu.stdin.flush()
        assert any(b"VM status" in line for line in qemu.stdout), "it has ended"
        yield qemu
    finally:
        qemu.kill()
        qemu.communicate()
