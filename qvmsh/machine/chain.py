"""Images that stand on one another: what must not be written to, and why.

May import: `qemu`, `machine.known`.

    snapshots_in("demo-backing.qcow2")                   # [Snapshot(id="1", name="ready", ...)]
    overlays_on("demo-base.qcow2", vm)                   # ["/vm/demo/demo-backing.qcow2"]
    below(vm, "demo-backing.qcow2")                      # ["/vm/demo/demo-base.qcow2"]
    require_writable(vm, "demo-base.qcow2", "commit to", besides="demo-backing.qcow2")

An overlay reads from its base what it does not hold itself, and so do the snapshots inside it. A base
that is written to falsifies all of them, silently: `qemu-img check` finds nothing. The one function
`require_writable` is asked by whatever writes to an image that others may stand on.
"""

from __future__ import annotations

import os

from qvmsh.config.words import quote
from qvmsh.errors import ImageError, QvmError, StateError
from qvmsh.machine import archives, known
from qvmsh.qemu import image, qcow2
from qvmsh.qemu.qcow2 import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qvmsh.machine.machine import Machine


def snapshots_in(path: str) -> list[Snapshot]:
    """The internal snapshots of the one image at `path`; none where there is no such file.

    Read from the file itself: no process is started, no lock is taken, and a QEMU that has the image
    open does not matter.

    Raises:
        ImageError: the file is there and cannot be read.
    """
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
    return found


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
            backing = image.backing(path)
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
    if archives.holds(folder):
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
        tags = [each.name for each in snapshots_in(overlay)]
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


def base_of(path: str) -> str:
    """The file that the image at `path` stands on, "" where it stands on none."""
    try:
        backing = image.backing(path)
    except (OSError, QvmError):
        return ""
    return os.path.realpath(image.backing_path(path, backing)) if backing else ""


def below(vm: Machine, path: str) -> list[str]:
    """The files that the image at `path` stands on, the nearest first; the last one may be missing.

    Raises:
        ImageError: they stand on one another in a circle.
    """
    found = [os.path.realpath(path)]
    while base := base_of(found[-1] if len(found) > 1 else path):
        if base in found:
            names = " on ".join(os.path.basename(each) for each in (*found[found.index(base) :], base))
            raise ImageError(
                f"{os.path.basename(path)} cannot be read: {names} is a circle",
                machine=vm.name,
                hint="`qemu-img rebase -u -f qcow2 -F FORMAT -b BASE IMAGE` puts one of them on its own base",
            )
        found.append(base)
    return found[1:]


def print_of(path: str) -> dict[str, int]:
    """What tells that a base was written to: its size and the time of its last change."""
    status = os.stat(path)
    return {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
