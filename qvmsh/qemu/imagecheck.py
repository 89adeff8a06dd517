"""Whether the tables of an image are sound, by qemu-img.

    check("/usr/bin/qemu-img", "demo-backing.qcow2").corruptions      # 0

It reads without taking the image's lock (`-U`), so that it also works beside a running QEMU;
but in an image that is being written to it finds errors that are not real.
"""

from __future__ import annotations

import json
import os

from qvmsh.errors import ImageError
from qvmsh.qemu import programs
from qvmsh.qemu.qmp import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

UNSUPPORTED = 63
"""Status of `qemu-img check` for a format that has nothing to check (raw). Source: qemu-img(1)."""


class Soundness:
    """What `qemu-img check` counted.

    Args:
        corruptions: errors that lose or will lose data.
        leaks: clusters that nothing uses; they only take space.
        compressed: clusters that are compressed.
        is_preallocated: every cluster of the disk has its place, in order.
    """

    __slots__ = ("compressed", "corruptions", "is_preallocated", "leaks")

    def __init__(
        self, corruptions: int, leaks: int, compressed: int = 0, is_preallocated: bool = False
    ) -> None:
        self.corruptions = corruptions
        self.leaks = leaks
        self.compressed = compressed
        self.is_preallocated = is_preallocated


def check(program: str, path: str, kind: str) -> Soundness | None:
    """Check an image's tables (`qemu-img check -U`); None for a format that has none.

    Raises:
        ImageError: it cannot be checked; qemu-img's words are the details.
    """
    folder = os.path.dirname(path) or None  # a data file is looked for where qemu-img runs
    return _checked(program, ["-f", kind, os.path.join(".", os.path.basename(path))], path, folder=folder)


def check_alone(program: str, fd: int, kind: str, label: str) -> Soundness | None:
    """The same for an open image; its backing file is not opened.

    Args:
        fd: open for reading.
        label: what the error calls it.

    Raises:
        ImageError: it cannot be checked; qemu-img's words are the details.
    """
    node: dict[str, Any] = {"driver": kind, "file": {"driver": "file", "filename": f"/dev/fd/{fd}"}}
    if kind == "qcow2":
        node["backing"] = None
    return _checked(program, [f"json:{json.dumps(node)}"], label, fds=(fd,))


def _checked(
    program: str, words: Sequence[str], label: str, fds: Sequence[int] = (), folder: str | None = None
) -> Soundness | None:
    import subprocess

    argv = [program, "check", "-U", "--output=json", *words]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=fds, cwd=folder)
    except OSError as error:
        raise programs.unusable(program, error) from None
    if done.returncode == UNSUPPORTED:
        return None
    try:
        found = loads(done.stdout.decode(errors="surrogateescape"))
        broken = found.get("corruptions", 0) + found["check-errors"]
        allocated = found.get("allocated-clusters", 0)
        is_preallocated = 0 < allocated == found.get("total-clusters") and not found.get(
            "fragmented-clusters"
        )
        return Soundness(broken, found.get("leaks", 0), found.get("compressed-clusters", 0), is_preallocated)
    except (ValueError, KeyError, StopIteration):
        lines = done.stderr.decode(errors="replace").splitlines()
        raise ImageError(f"cannot check {label}", details=lines[-3:]) from None
