"""What qemu-img finds in an image: its chain of backing files, and whether its tables are sound.

May import: `errors`, `qemu.image`, `qemu.qmp`; `subprocess` late.

    check("/usr/bin/qemu-img", "demo-backing.qcow2").corruptions      # 0

Both look without taking the image's lock (`-U`), so that they also work beside a running QEMU;
but `check` of an image that is being written to finds errors that are none.
"""

from __future__ import annotations

import json

from qvmsh.errors import ImageError
from qvmsh.qemu import image, programs
from qvmsh.qemu.qmp import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

UNSUPPORTED = 63
"""Status of `qemu-img check` for a format that has nothing to check (raw). Source: qemu-img(1)."""


class Layer:
    """One image of a chain.

    Args:
        path: its file, as qemu-img names it.
        format: `qcow2`, `raw`, ...
        virtual_bytes: size of the disk that a guest sees.
        used_bytes: room that the file takes on the host.
        snapshots: number of internal snapshots.
    """

    __slots__ = ("format", "path", "snapshots", "used_bytes", "virtual_bytes")

    def __init__(self, row: dict[str, Any]) -> None:
        self.path: str = row["filename"]
        self.format: str = row["format"]
        self.virtual_bytes: int = row["virtual-size"]
        self.used_bytes: int = row.get("actual-size", 0)
        self.snapshots = len(row.get("snapshots", ()))


class Soundness:
    """What `qemu-img check` counted.

    Args:
        corruptions: errors that lose or will lose data.
        leaks: clusters that nothing uses; they only take room.
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


def chain(program: str, path: str, kind: str) -> list[Layer]:
    """The image and all that it stands on (`qemu-img info -U --backing-chain`).

    Args:
        program: qemu-img.
        kind: format of the image; not guessed from what a guest may have written into it.

    Raises:
        ImageError: one of them is missing or cannot be read; qemu-img's words are the details.
    """
    words = ["info", "-U", "--output=json", "--backing-chain", "-f", kind, image.safe_name(path)]
    return [Layer(row) for row in loads(image.run(program, words, what=f"read {path}"))]


def backing_format(program: str, path: str) -> str:
    """The format of what a qcow2 image stands on: as it says, else what QEMU takes that file for.

    Raises:
        ImageError: it does not say, and what it stands on is missing or cannot be read.
    """
    return image.header(path).backing_format or chain(program, path, "qcow2")[1].format


def check(program: str, path: str, kind: str) -> Soundness | None:
    """Check an image's tables (`qemu-img check -U`); None for a format that has none.

    Raises:
        ImageError: it cannot be checked; qemu-img's words are the details.
    """
    return _checked(program, ["-f", kind, image.safe_name(path)], path)


def check_alone(program: str, fd: int, kind: str, label: str) -> Soundness | None:
    """The same for an open image, wherever the file lies that it stands on: that is not opened.

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


def _checked(program: str, words: Sequence[str], label: str, fds: Sequence[int] = ()) -> Soundness | None:
    import subprocess

    argv = [program, "check", "-U", "--output=json", *words]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=fds)
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
