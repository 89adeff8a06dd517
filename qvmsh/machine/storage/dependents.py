"""What is backed by an image: it must not be written to.

    overlays_on("demo-base.qcow2", vm)                   # ["/vm/demo/demo-backing.qcow2"]
    require_writable(vm, "demo-base.qcow2", "commit to", besides="demo-backing.qcow2")

An overlay reads from its base what it does not hold itself, and so do the snapshots inside it. Writing to a
base silently corrupts all of them: `qemu-img check` finds nothing. So everything that writes to an image that
may back others asks `require_writable` first.
"""

from __future__ import annotations

import contextlib
import os
import stat

from qvmsh.config.words import joined, quote
from qvmsh.errors import ImageError, QvmError, StateError
from qvmsh.host import mounts
from qvmsh.machine import registry
from qvmsh.machine.storage import chain, linked, volumes
from qvmsh.machine.storage.linked import DEPTH
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qvmsh.machine.machine import BaseMachine

MANIFEST = "manifest.json"
_HEAD_BYTES = 4096
"""Where a manifest says in it that it is qvm's."""


def overlays_on(path: str, vm: BaseMachine | None = None, *, is_written: bool = False) -> list[str]:
    """The images that are backed by the one at `path`, directly or not.

    Looked for beside the image, in the machine's directory, and in those of all known machines.

    Args:
        is_written: it would be written to, so what is backed by it under another name (a hard link) counts.
    """
    return overlays_on_each([path], vm, is_written=is_written)[path]


def overlays_on_each(
    paths: Sequence[str], vm: BaseMachine | None = None, *, is_written: bool = False
) -> dict[str, list[str]]:
    """`overlays_on` of many images, in one look at the folders."""
    key: Callable[[str], str] = content if is_written else os.path.realpath
    standing = {each: set(map(key, on)) for each, on in _backed_by(paths, vm).items()}
    return {path: _above(standing, path, key) for path in paths}


def _backed_by(paths: Sequence[str], vm: BaseMachine | None) -> dict[str, set[str]]:
    """Which image is backed by which, in all folders that are searched."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    if vm is not None:
        folders += _known(vm, paths)
    found: dict[str, set[str]] = {}
    for folder in dict.fromkeys(map(os.path.realpath, folders)):
        for image_path, below in _backings(folder, folder).items():
            found.setdefault(image_path, set()).update(below)
    for folder, was in (registry.deleted(vm.environ) if vm else {}).items():
        for image_path, below in _backings(folder, was).items():
            found.setdefault(image_path, set()).update(below)
    for image_path, below in _backings_elsewhere(vm, paths) if vm else ():
        found.setdefault(image_path, set()).update(below)
    for path in _raw(vm) if vm else ():  # a header in there is the guest's, and names nothing
        found.pop(path, None)
    return found


def _raw(vm: BaseMachine) -> list[str]:
    """The raw disks of a machine, as real paths."""
    try:
        return [os.path.realpath(each.path) for each in volumes.configured(vm) if each.format == "raw"]
    except (OSError, QvmError):
        return []


def users(paths: Sequence[str], vm: BaseMachine, *, is_written: bool = False) -> dict[str, str]:
    """Which of the images another known machine, or one in the trash, has as a disk: path and directory.

    Args:
        is_written: see `overlays_on`.
    """
    key: Callable[[str], str] = content if is_written else os.path.realpath
    wanted = {key(path): path for path in paths}
    found: dict[str, str] = {}
    here = os.path.realpath(vm.directory)
    for place, was, path, _ in _disks_of_known(vm, paths):
        if os.path.realpath(place) != here and (same := key(path)) in wanted:
            found.setdefault(wanted[same], was)
    return found


def _known(vm: BaseMachine, paths: Sequence[str]) -> list[str]:
    """The directories of the known machines, and of those that are noted beside the images at `paths`."""
    homes = dict.fromkeys(filter(None, (linked.home(os.path.realpath(path)) for path in paths)))
    noted = [place for home in dict.fromkeys((vm.directory, *homes)) for place in linked.clones(home)]
    return list(dict.fromkeys((vm.directory, *registry.directories(vm.environ), *noted)))


def _disks_of_known(vm: BaseMachine, paths: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    """All disks of known machines and of those in the trash: where the machine is, and was; path, format."""
    known = _known(vm, paths)
    places = dict(zip(known, known, strict=True)) | registry.deleted(vm.environ)
    for place, was in places.items():
        try:
            other = type(vm)(place, environ=vm.environ)
            disks = volumes.configured(other, is_to_come=True)
        except (OSError, QvmError):  # what a broken one has cannot be known
            continue
        for disk in disks:
            inside = os.path.relpath(disk.path, place)  # from the trash it counts from where the machine was
            meant = os.path.join(was, inside) if inside.startswith(os.pardir + os.sep) else disk.path
            for path in {disk.path, os.path.normpath(meant)}:
                yield place, was, path, disk.format


def _backings_elsewhere(vm: BaseMachine, paths: Sequence[str]) -> Iterator[tuple[str, set[str]]]:
    """As `_backings`, of the disks that known machines have anywhere, and of what those are backed by."""
    left = [path for *_, path, kind in _disks_of_known(vm, paths) if kind != "raw"]
    seen: set[str] = set()
    mounted = mounts.Mounts()
    while left:
        path = left.pop()
        if path in seen or mounted.silent_file(*os.path.split(path)):
            continue
        seen.add(path)
        with contextlib.suppress(OSError, QvmError):
            header = image.header(path)
            names = list(map(os.path.realpath, image.backing_files(path, header.backing)))
            if header.backing:
                yield os.path.realpath(path), set(names)
                left += names if header.backing_format != "raw" else []


def _above(backed_by: dict[str, set[str]], path: str, key: Callable[[str], str]) -> list[str]:
    """The images above one, the nearest first.

    Args:
        backed_by: the bases of each image, as `key` calls them.
    """
    found: list[str] = []
    below = {key(path)}
    while below:
        above = {each for each, on in backed_by.items() if on & below and each not in found}
        found += sorted(above)
        below = set(map(key, above))
    return found


def content(path: str) -> str:
    """What is the same for all names of a file: its real path; of one with hard links, its number."""
    real = os.path.realpath(path)
    with contextlib.suppress(OSError):
        status = os.stat(real)
        if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
            return f"{status.st_dev}:{status.st_ino}"
    return real


def _backings(folder: str, was: str) -> dict[str, set[str]]:
    """The images in a folder that are backed by others: file and possible bases, as real paths.

    Args:
        was: where the folder will be again, if it is in the trash: a relative name counts from there too.
    """
    found: dict[str, set[str]] = {}
    for path in _files(folder, DEPTH):
        try:
            backing = image.header(path).backing
        except (OSError, QvmError):
            continue
        if backing:
            # through a link a relative name means another file than beside the image itself
            below = found.setdefault(os.path.realpath(path), set())
            names = list(map(os.path.realpath, image.backing_files(path, backing)))
            below.update(names)
            if was != folder and not any(each.startswith(folder + os.sep) for each in names):
                place = os.path.join(was, os.path.relpath(path, folder))
                below.update(map(os.path.realpath, image.backing_files(place, backing)))
    return found


def _files(folder: str, depth: int) -> Iterator[str]:
    """The files in a folder and in those below it, but not in archives, nor through links to folders."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for each in entries:
        with contextlib.suppress(OSError):
            if each.is_file():
                yield each.path
                continue
            is_folder = depth and each.name != ".qvm" and each.is_dir(follow_symlinks=False)
            if is_folder and not is_archive(each.path):
                yield from _files(each.path, depth - 1)


def require_writable(
    vm: BaseMachine, path: str, what: str, *, besides: str | None = None, is_given_up: bool = False
) -> None:
    """Refuse to write to an image that backs others, or snapshots inside them.

    Args:
        path: the image that would be written to.
        what: what would be done, for the error: `commit to`.
        besides: the one overlay whose own data is written (`commit`): it is allowed, but not snapshots in
            it, since they still read from the base.
        is_given_up: that one is discarded with all its data (`init -k`).

    Raises:
        ImageError: another image is backed by it; nothing has been changed.
        StateError: it is in an archive, or a machine that may be backed by it is not to be found.
    """
    name = os.path.basename(path)
    folder = os.path.dirname(os.path.realpath(path))
    if is_archive(folder):
        raise StateError(
            f"cannot {what} {name}: {folder} is an archive, and would be damaged",
            machine=vm.name,
            hint=f"`qvm restore {quote(folder)} DIR` creates a machine from it",
        )
    own = content(besides) if besides else None
    for overlay in overlays_on(path, vm, is_written=True):
        is_own = content(overlay) == own
        if is_own and is_given_up:
            continue
        who = shown(vm, overlay)
        tags = [each.name for each in chain.snapshots_in(overlay, "qcow2")]
        if tags:
            raise ImageError(
                f"cannot {what} {name}: {who} holds snapshots ({', '.join(tags)}), which read from it "
                "and would be silently corrupted",
                machine=vm.name,
                hint=f"{_without_snapshots(vm, overlay, tags)}; or leave base and overlay unchanged",
            )
        if not is_own:
            raise ImageError(
                f"cannot {what} {name}: {who} is backed by it and would be silently corrupted",
                machine=vm.name,
                hint=way_out(vm, overlay),
            )
    linked.require_found(vm, f"{what} {name}", path)


def require_top(vm: BaseMachine, paths: Sequence[str], what: str, *, has_disposable: bool = True) -> None:
    """Refuse to change images that back others: to let a guest write to them, or to restore them.

    Args:
        what: what would be done, for the error: `start`.
        has_disposable: `--disposable` would be a way to do it.

    Raises:
        ImageError: one does; nothing has been changed.
        StateError: a machine that may be backed by one is not to be found.
    """
    for path, above in overlays_on_each(paths, vm, is_written=True).items():
        for overlay in above:
            raise ImageError(
                f"cannot {what}: {shown(vm, overlay)} is backed by {os.path.basename(path)}, which the "
                "guest writes to, and would be silently corrupted",
                machine=vm.name,
                hint=("`--disposable` leaves it unchanged; " if has_disposable else "")
                + f"{way_out(vm, overlay)}; `--force` does it anyway",
            )
        linked.require_found(vm, what, path)


def way_out(vm: BaseMachine, overlay: str) -> str:
    """What frees a base from one of its overlays: lines that work as they are typed."""
    home = _home(vm, overlay)
    try:
        tags = [each.name for each in chain.snapshots_in(overlay, "qcow2")]
    except QvmError:
        tags = []
    if home is None:
        rebase = f"`qemu-img rebase -f qcow2 -b '' {image.typed(overlay)}` copies all data into it"
    else:
        rebase = f"`{_at(vm, home)} disk rebase {quote(os.path.basename(overlay))}` copies all data into it"
    if not tags:
        return rebase
    return f"its snapshots need the base: {_without_snapshots(vm, overlay, tags)}, then {rebase}"


MOST_NAMES = 5
"""No more snapshots than that are named by a hint."""


def _without_snapshots(vm: BaseMachine, overlay: str, tags: Sequence[str]) -> str:
    """The line that removes the snapshots in an overlay, also in that of another machine."""
    home = _home(vm, overlay)
    if home is None:
        return f"`qemu-img snapshot -d NAME {image.typed(overlay)}` removes each of them"
    names = joined(tags) if len(tags) <= MOST_NAMES else "NAME..."
    dashes = "-- " if any(each.startswith("-") for each in tags) else ""
    return f"`{_at(vm, home)} snapshot delete {dashes}{names}` removes them"


def _at(vm: BaseMachine, home: str) -> str:
    """The beginning of a command for the machine in `home`, typed where `vm` is."""
    is_own = os.path.realpath(home) == os.path.realpath(vm.directory)
    return "qvm" if is_own else f"qvm -C {quote(home)}"


def _home(vm: BaseMachine, path: str) -> str | None:
    """The directory of the machine that has an image as a disk, in there or elsewhere."""
    for place in (linked.home(path), vm.directory, users([path], vm).get(path)):
        if place and _is_disk(place, path):
            return place
    return None


def _is_disk(home: str, path: str) -> bool:
    """True for an image that is a disk of the machine in `home`, and no other file there."""
    from qvmsh.machine.machine import BaseMachine

    try:
        disks = volumes.configured(BaseMachine(home))
    except (OSError, QvmError):
        return False
    return os.path.realpath(path) in {os.path.realpath(each.path) for each in disks}


def shown(vm: BaseMachine, path: str) -> str:
    inside = os.path.relpath(path, os.path.realpath(vm.directory))
    return path if inside.startswith("..") else inside


def is_archive(folder: str) -> bool:
    """True if `folder` is an archive of qvm: its files must match its manifest."""
    try:
        fd = os.open(os.path.join(folder, MANIFEST), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    with open(fd, "rb") as file:
        return stat.S_ISREG(os.fstat(fd).st_mode) and b'"qvm"' in file.read(_HEAD_BYTES)
