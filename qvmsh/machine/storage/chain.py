"""Images that stand on one another: which files they may name, what must not be written to, and why.

May import: `config`, `qemu`, `machine.known`.

    layers("demo-backing.qcow2", "qcow2", "demo", "/vm/demo")[1].format     # "qcow2"
    snapshots_in("demo-backing.qcow2", "qcow2")          # [Snapshot(id="1", name="ready", ...)]
    overlays_on("demo-base.qcow2", vm)                   # ["/vm/demo/demo-backing.qcow2"]
    below(vm, "demo-backing.qcow2", "qcow2")             # ["/vm/demo/demo-base.qcow2"]
    require_writable(vm, "demo-base.qcow2", "commit to", besides="demo-backing.qcow2")

An overlay reads from its base what it does not hold itself, and so do the snapshots inside it. A base
that is written to falsifies all of them, silently: `qemu-img check` finds nothing. The one function
`require_writable` is asked by whatever writes to an image that others may stand on.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from qvmsh.config import devices
from qvmsh.config.words import quote
from qvmsh.errors import ImageError, QvmError, StateError
from qvmsh.machine import registry as known
from qvmsh.qemu import image, qcow2
from qvmsh.qemu.qcow2 import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qvmsh.machine.machine import Machine

MANIFEST = "manifest.json"
_HEAD_BYTES = 4096
"""Where a manifest says in it that it is qvm's."""


@dataclass(frozen=True)
class Layer:
    """One image of a chain.

    Args:
        path: as QEMU opens it.
        format: `qcow2`, `raw`, ...; "" where nothing tells that of one that is not there.
        header: None where it is not there.
    """

    path: str
    format: str
    header: image.Header | None


def layers(path: str, kind: str, machine: str, folder: str) -> list[Layer]:
    """An image and all that it is backed by, the nearest first, by their headers; the last may be missing.

    The one rule about which files an image may name, asked before qemu-img or QEMU opens any of them:

    - its backing file is a file, or a block device, of this host: nothing with a protocol;
    - the format of that is recorded, or its name and its content tell the same: in a raw disk a guest
      may have written a header that names any file of the host;
    - another file with the guest's data (a qcow2 data file, extents), to which QEMU writes, is a plain
      file in the image's own folder or below it, no link.

    Args:
        kind: format of the image, as the configuration says.
        folder: where QEMU runs, the machine's directory.

    Raises:
        ImageError: one of them names what it may not name, is damaged or encrypted, or they are in a circle.
    """
    found: list[Layer] = []
    while True:
        real = os.path.realpath(path)
        names = [os.path.realpath(each.path) for each in found]
        if real in names:
            circle = " on ".join(os.path.basename(each) for each in (*names[names.index(real) :], real))
            raise ImageError(
                f"{os.path.basename(found[0].path)} cannot be read: {circle} is a circle",
                machine=machine,
                hint="`qemu-img rebase -u -f qcow2 -F FORMAT -b BASE IMAGE` puts one of them on its own base",
            )
        if not os.path.exists(path):
            return [*found, Layer(path, kind, None)]
        header = image.require(path, machine, hint="", kind=kind)
        if found and kind == "qcow2" != header.format:
            above, name = (os.path.basename(each) for each in (found[-1].path, path))
            raise ImageError(
                f"{name} is in format {header.format}, and {above} says qcow2",
                machine=machine,
                hint=_recording(above, header.format, found[-1].header),
            )
        for name in header.files:
            _require_own(path, name, folder if header.format == "qcow2" else os.path.dirname(path), machine)
        found.append(Layer(path, kind, header))
        if not header.backing:
            return found
        path, kind = _backing(path, header, machine)


def _backing(path: str, header: image.Header, machine: str) -> tuple[str, str]:
    """The file that an image is backed by, and its format."""
    name, meant = os.path.basename(path), image.local_file(path, header.backing)
    if meant is None or header.backing_format not in ("", *devices.FORMATS):
        what = f"{header.backing!r} ({header.backing_format or 'no format'})"
        raise ImageError(
            f"{name} names {what} as its backing file, and only files of this host may be one",
            machine=machine,
            hint=f"`qemu-img rebase -u -f {header.format} -F FORMAT -b FILE {quote(name)}` names another",
        )
    base, kind = meant[0], header.backing_format or meant[1]
    if kind not in devices.FORMATS:
        named = devices.BY_SUFFIX.get(os.path.splitext(base)[1].lower(), "")
        kind = "vmdk" if header.format == "vmdk" else named  # a vmdk has nothing else below
        if not os.path.exists(base):
            return base, kind
        looks = image.require(base, machine, hint="").format
        if looks != kind:
            raise ImageError(
                f"{name} does not record the format of its backing file {os.path.basename(base)}, "
                f"which may look like {looks} only because a guest wrote that",
                machine=machine,
                hint=_recording(name, named or "raw", header),
            )
    return base, kind


def _recording(name: str, kind: str, header: image.Header | None) -> str:
    """The command that records the format of a backing file."""
    if header is None or header.format != "qcow2":
        return f"`qemu-img convert` makes {name} an image in qcow2, which stands alone"
    words = f"-F {kind} -b {quote(header.backing)} {quote(image.safe_name(name))}"
    return f"`qemu-img rebase -u -f qcow2 {words}` records it, if it is {kind}"


def _require_own(path: str, name: str, folder: str, machine: str) -> None:
    """Refuse another file that holds data of an image unless it is surely the image's own."""
    file = os.path.join(folder, name)
    try:
        is_plain = stat.S_ISREG(os.lstat(file).st_mode)
    except (OSError, ValueError):
        is_plain = False
    homes = {os.path.realpath(os.path.dirname(each)) for each in (path, os.path.realpath(path))}
    real = os.path.realpath(file)
    if (
        not is_plain
        or ":" in name.partition("/")[0]
        or not any(real.startswith(f"{each}/") for each in homes)
    ):
        raise ImageError(
            f"{os.path.basename(path)} keeps its data in {name!r}, which is not a plain file beside it",
            machine=machine,
            hint="`qemu-img convert -O qcow2` where that file is makes one image of both",
        )


def snapshots_in(path: str, kind: str) -> list[Snapshot]:
    """The internal snapshots of the one image at `path`; none where there is no such file.

    Read from the file itself: no process is started, no lock is taken, and a QEMU that has the image
    open does not matter.

    Args:
        kind: its format; only in qcow2 there are some, whatever a guest has written into a raw disk.

    Raises:
        ImageError: the file is there and cannot be read.
    """
    if kind != "qcow2":
        return []
    try:
        return qcow2.snapshots(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ImageError(f"cannot read {os.path.basename(path)}: {error.strerror}") from error


def overlays_on(path: str, vm: Machine | None = None) -> list[str]:
    """The images that stand on the image at `path`, directly or on one that does.

    Looked for beside the image, in the machine's directory, and in those of all known machines.
    """
    return overlays_on_each([path], vm)[path]


def overlays_on_each(paths: Sequence[str], vm: Machine | None = None) -> dict[str, list[str]]:
    """`overlays_on` of many images, in one look at the folders."""
    standing = _standing(paths, vm)
    return {path: _above(standing, path) for path in paths}


def _standing(paths: Sequence[str], vm: Machine | None) -> dict[str, set[str]]:
    """Which image stands on which, in all folders that are looked at."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    if vm is not None:
        folders += [vm.directory, *known.directories(vm.environ)]
    found: dict[str, set[str]] = {}
    for folder in dict.fromkeys(map(os.path.realpath, folders)):
        for image_path, below in _backings(folder).items():
            found.setdefault(image_path, set()).update(below)
    for path in _raw(vm) if vm else ():  # a header in there is the guest's, and names nothing
        found.pop(path, None)
    return found


def _raw(vm: Machine) -> list[str]:
    """The raw disks of a machine, as real paths."""
    from qvmsh.machine.storage import volumes  # which stands on this module

    try:
        return [os.path.realpath(each.path) for each in volumes.configured(vm) if each.format == "raw"]
    except (OSError, QvmError):
        return []


def _above(stands_on: dict[str, set[str]], path: str) -> list[str]:
    found: list[str] = []
    below = {os.path.realpath(path)}
    while below:
        above = {each for each, on in stands_on.items() if on & below and each not in found}
        found += sorted(above)
        below = above
    return found


def _backings(folder: str) -> dict[str, set[str]]:
    """The images in a folder that stand on others: file and what it may stand on, as real paths."""
    found: dict[str, set[str]] = {}
    try:
        entries = [each.path for each in os.scandir(folder) if each.is_file()]
    except OSError:
        return {}
    for path in entries:
        try:
            backing = image.header(path).backing
        except (OSError, QvmError):
            continue
        if backing:
            # through a link a relative name means another file than beside the image itself
            below = found.setdefault(os.path.realpath(path), set())
            below.update(map(os.path.realpath, image.backing_files(path, backing)))
    return found


def require_writable(
    vm: Machine, path: str, what: str, *, besides: str | None = None, is_given_up: bool = False
) -> None:
    """Refuse to write to an image on which others stand, or snapshots inside them.

    Args:
        path: the image that would be written to.
        what: what would be done, for the error: `commit to`.
        besides: the one overlay whose own data is what is written (`commit`): it may stand there,
            but no snapshots in it, since they go on reading from the base.
        is_given_up: that one is thrown away with all that is in it (`init -k`).

    Raises:
        ImageError: something stands on it; nothing has been changed.
        StateError: it lies in an archive; nothing has been changed.
    """
    name = os.path.basename(path)
    folder = os.path.dirname(os.path.realpath(path))
    if is_archive(folder):
        raise StateError(
            f"cannot {what} {name}: {folder} is an archive, and would be damaged",
            machine=vm.name,
            hint=f"`qvm restore {quote(folder)} DIR` makes a machine of it",
        )
    own = os.path.realpath(besides) if besides else None
    for overlay in overlays_on(path, vm):
        if overlay == own and is_given_up:
            continue
        who = shown(vm, overlay)
        tags = [each.name for each in snapshots_in(overlay, "qcow2")]
        if tags:
            raise ImageError(
                f"cannot {what} {name}: {who} holds snapshots ({', '.join(tags)}), which read from it "
                "and would be silently wrong",
                machine=vm.name,
                hint="`qvm snapshot delete NAME` gives each of them up; or keep base and overlay as they are",
            )
        if overlay != own:
            raise ImageError(
                f"cannot {what} {name}: {who} stands on it and would be silently wrong",
                machine=vm.name,
                hint="give that overlay a base of its own first: `qvm disk rebase`, or a copy of the base",
            )


def require_top(vm: Machine, paths: Sequence[str], what: str, *, has_disposable: bool = True) -> None:
    """Refuse to change images on which others stand: to let a guest write to them, to put them back.

    Args:
        what: what would be done, for the error: `start`.
        has_disposable: `--disposable` would be a way to do it.

    Raises:
        ImageError: one does; nothing has been changed.
    """
    for path, above in overlays_on_each(paths, vm).items():
        for overlay in above:
            raise ImageError(
                f"cannot {what}: {shown(vm, overlay)} stands on {os.path.basename(path)}, which the guest "
                "writes to, and would be silently wrong",
                machine=vm.name,
                hint=("`--disposable` leaves it as it is; " if has_disposable else "")
                + "`qvm disk rebase`, or a copy, gives that overlay a base of its own; "
                "`--force` does it all the same",
            )


def shown(vm: Machine, path: str) -> str:
    inside = os.path.relpath(path, os.path.realpath(vm.directory))
    return path if inside.startswith("..") else inside


def base_of(path: str, kind: str) -> str:
    """The file that the image at `path` is backed by, "" where it is backed by no file of this host."""
    try:
        backing = image.header(path, kind).backing
    except (OSError, QvmError):
        return ""
    meant = image.local_file(path, backing) if backing else None
    return os.path.realpath(meant[0]) if meant else ""


def below(vm: Machine, path: str, kind: str) -> list[str]:
    """The files that the image at `path` is backed by, the nearest first; the last one may be missing.

    Raises:
        ImageError: see `layers`.
    """
    return [os.path.realpath(each.path) for each in layers(path, kind, vm.name, vm.directory)[1:]]


def print_of(path: str) -> dict[str, int]:
    """What tells that a base was written to: its size and its dates; the second nobody can set."""
    status = os.stat(path)
    return {
        "size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns
    }  # fmt: skip


def is_archive(folder: str) -> bool:
    """True if `folder` is an archive of qvm's: what is in it must stay as its manifest says."""
    try:
        fd = os.open(os.path.join(folder, MANIFEST), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    with open(fd, "rb") as file:
        return stat.S_ISREG(os.fstat(fd).st_mode) and b'"qvm"' in file.read(_HEAD_BYTES)
