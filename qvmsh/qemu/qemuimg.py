"""Running qemu-img: images made, described, and checked.

    check("/usr/bin/qemu-img", "demo-backing.qcow2").corruptions      # 0

A check reads without taking the image's lock (`-U`), so that it also works beside a running QEMU;
but in an image that is being written to it finds errors that are not real. Source: qemu-img(1).
"""

from __future__ import annotations

import os

from qvmsh.errors import ImageError
from qvmsh.qemu import image, programs
from qvmsh.qemu.qmp import dumps, loads

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
    return _checked(program, [f"json:{dumps(node)}"], label, fds=(fd,))


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


def converted(path: str, form: str, where: str = "") -> str:
    """The command that converts an image to qcow2, under a name that is free.

    Args:
        where: the folder in which it must run; "" for any.
    """
    import shlex

    folder, name = os.path.split(os.path.abspath(path))
    stem = os.path.join(where if folder.startswith("/dev") else folder, os.path.splitext(name)[0])
    names = (f"{stem}{end}.qcow2" for end in ("", *(f"-{count}" for count in range(2, 100))))
    free = next((each for each in names if not os.path.lexists(each)), f"{stem}-new.qcow2")
    command = f"qemu-img convert -f {form} -O qcow2 {image.typed(path, where)} {image.typed(free, where)}"
    is_here = not where or os.path.realpath(where) == os.path.realpath(image.here())
    return command if is_here else f"cd {shlex.quote(where)} && {command}"


def run(program: str, words: Sequence[str], *, cwd: str | None = None, what: str) -> str:
    """Run qemu-img and return what it prints.

    Args:
        program: qemu-img.
        words: its sub-command and options.
        what: the action, for the error: `make demo-backing.qcow2`.

    Raises:
        ImageError: with qemu-img's own words as details.
    """
    import subprocess

    from qvmsh.host import locks

    done = subprocess.run(
        [program, *words],
        cwd=cwd,
        umask=0o077,  # an image that it makes holds the guest's private data
        pass_fds=tuple(locks.HELD),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )
    if done.returncode:
        lines = [line.removeprefix("qemu-img: ") for line in done.stderr.splitlines() if line.strip()]
        raise ImageError(f"cannot {what}", details=lines[-5:], hint=_remedy(done.stderr))
    return done.stdout


def version(program: str) -> str:
    """The version of qemu-img, which is QEMU's: `7.2.22`."""
    words = run(program, ["--version"], what="ask qemu-img for its version").split()
    return words[words.index("version") + 1] if "version" in words[:-1] else ""


def _remedy(words: str) -> str | None:
    if "No space left" in words:
        return "the disk is full: free some space, then try again; nothing was changed"
    if "lock" in words:
        return "another process has the image open: end it first"
    return None


def create_overlay(
    program: str,
    overlay: str,
    backing: str,
    backing_format: str,
    *,
    cwd: str | None = None,
    like: dict[str, Any] | None = None,
) -> None:
    """Make an empty qcow2 overlay on `backing` (a name relative to the overlay's folder).

    Args:
        like: the `kind` and size that it gets; None for QEMU's defaults.
    """
    words = ["create", "-q", "-f", "qcow2", "-F", backing_format, "-b", image.safe_name(backing)]
    words += ["-o", options(like)] if like else []
    words += [image.safe_name(overlay), *([str(like["virtual-size"])] if like else [])]
    run(program, words, cwd=cwd, what=f"make {os.path.basename(overlay)}")


def has_data(program: str, path: str) -> bool:
    """True if the qcow2 image itself (without its backing file) holds data or snapshots."""
    if image.header(path).snapshots:
        return True
    words = ["map", "-U", "-f", "qcow2", "--output=json", image.safe_name(path)]
    text = run(program, words, cwd=os.path.dirname(path) or None, what=f"read {os.path.basename(path)}")
    return any(part["depth"] == 0 and part.get("data") for part in loads(text))


def info(program: str, path: str, kind: str) -> dict[str, Any]:
    """qemu-img's information on an image in a format that qvm does not read itself.

    Source: QEMU's QAPI, `ImageInfo`.
    """
    words = ["info", "-U", "-f", kind, "--output=json", image.safe_name(path)]
    found: dict[str, Any] = loads(run(program, words, what=f"read {os.path.basename(path)}"))
    return found


def kind(program: str, path: str) -> dict[str, Any]:
    """What kind of image a qcow2 file is: all of `qemu-img info` but names, sizes and content."""
    found = info(program, path, "qcow2")
    data: dict[str, Any] = found.get("format-specific", {}).get("data", {})
    names = ("virtual-size", "cluster-size", "encrypted", "backing-filename", "backing-filename-format")
    return {name: found[name] for name in names if name in found} | data


def bitmaps(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The dirty bitmaps in an image's `kind`."""
    rows: list[dict[str, Any]] = found.get("bitmaps", [])
    return rows


def options(found: dict[str, Any]) -> str:
    """The value of `-o` with which `qemu-img` makes an image of the `kind` of another one."""
    words = [f"compat={found['compat']}", f"cluster_size={found['cluster-size']}"]
    if found["compat"] != "0.10":  # the first version has none of these
        words += [f"refcount_bits={found['refcount-bits']}"]
        words += [f"lazy_refcounts={'on' if found['lazy-refcounts'] else 'off'}"]
        words += ["extended_l2=on"] if found.get("extended-l2") else []
        words += [f"compression_type={found['compression-type']}"] if "compression-type" in found else []
    return ",".join(words)


def virtual_bytes(program: str, path: str, kind: str) -> int:
    """The size of the disk that a guest sees."""
    if kind in ("qcow2", "raw"):
        return -(-image.header(path, kind).size_bytes // 512) * 512
    found: int = info(program, path, kind)["virtual-size"]
    return found


def remove_bitmaps(program: str, path: str, prefix: str = "") -> None:
    """Remove the dirty bitmaps (whose names begin so) of a qcow2 image that is not in use.

    They record what has changed since a backup: no longer true once another state is restored,
    and `qemu-img snapshot -a` refuses an image that has some.
    """
    what = f"remove the dirty bitmaps of {os.path.basename(path)}"
    asked = ["info", "-U", "--output=json", "-f", "qcow2", image.safe_name(path)]
    found = loads(run(program, asked, what=what))
    for each in bitmaps(found.get("format-specific", {}).get("data", {})):
        if each["name"].startswith(prefix):
            words = ["bitmap", "--remove", "-f", "qcow2", image.safe_name(path), each["name"]]
            run(program, words, what=what)
