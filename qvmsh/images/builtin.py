"""The guests that qvm builds itself: list them, build one, find its image.

    built = build("tiny", io)         # made now, or found in the cache
    path("tiny", os.environ)          # "/home/ann/.cache/qvm/images/tiny-1f2e.../tiny.qcow2"

A finished image is in a folder `NAME-RECIPE-PACKAGES` of the cache: a hash of qvm's own sources
that made it, and one of the versions of the packages that went in. The folder gets this name when
all in it is complete and synced; until then it is called `.NAME.part`, which the next build
removes. An image of the recipe at hand is used as it is, without asking apt or the network, until
`refresh` asks for newer packages. A cached image is read-only; one that was changed anyway (booted
writable as root, for example, so that it has a host key) is built again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

from qvmsh.errors import CommandError, QvmError, UsageError
from qvmsh.host import files, process
from qvmsh.host.locks import Held, WorkLock
from qvmsh.images import packages, tiny
from qvmsh.images.packages import Apt, Package
from qvmsh.images.reports import Built, Listed, Listing
from qvmsh.images.workbench import Workbench
from qvmsh.io import QUIET, Io

_HERE = os.path.dirname(__file__)
_SOURCES = ("builtin.py", "elf.py", "filesystem.py", "kernel.py", "packages.py")
_KEPT = 2  # finished images of a guest: the current one, and one of another recipe (another qvm)
_HASH_DIGITS = 12
_NEEDED_BYTES = 350 << 20


@dataclass(frozen=True)
class Recipe:
    """A guest that qvm can build.

    Args:
        user: the account that ssh keys of the host are put into, besides root.
        sources: files beside this one that the image depends on.
        packages: finds what the guest is made of, and the tools that make it.
        make: makes the named image on a bench that holds these, unpacked.
        kept: additional files that `make` leaves on the bench, kept beside the image: what
            VM_KERNEL, VM_INITRD and VM_APPEND take.
    """

    name: str
    user: str
    summary: str
    sources: tuple[str, ...]
    packages: Callable[[Apt], tuple[list[Package], list[Package]]]
    make: Callable[[Workbench, str], None]
    kept: tuple[str, ...] = ()


BUILTIN: dict[str, Recipe] = {
    "tiny": Recipe(
        name="tiny",
        user=tiny.USER,
        summary="Debian's cloud kernel, busybox, dropbear, sftp, guest agent: ssh answers in seconds",
        sources=("tiny.py", "tiny_files"),
        packages=tiny.packages,
        make=tiny.make,
        kept=("vmlinuz", "initrd.img", "cmdline"),
    )
}


def cache_folder(environ: Mapping[str, str] | None = None) -> str:
    """Where images are kept: `$XDG_CACHE_HOME/qvm/images`, else below `~/.cache`.

    Source: XDG Base Directory Specification (a relative path is to be ignored).
    """
    environ = os.environ if environ is None else environ
    top = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(top):
        home = environ.get("HOME", "")
        top = os.path.join(home if os.path.isabs(home) else os.path.expanduser("~"), ".cache")
    return os.path.join(top, "qvm", "images")


def recipe(name: str) -> Recipe:
    """The built-in guest of this name.

    Raises:
        UsageError: there is no such guest; the hint lists the known ones.
    """
    try:
        return BUILTIN[name]
    except KeyError:
        known = ", ".join(sorted(BUILTIN))
        raise UsageError(f"no built-in image is named {name!r}", hint=f"there is: {known}") from None


def path(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The finished image of a guest in the cache, None if it is not built.

    Raises:
        UsageError: no guest has this name.
    """
    built = _finished(recipe(name), cache_folder(environ))
    return built.image if built else None


def listing(environ: Mapping[str, str] | None = None) -> Listing:
    """All built-in guests, and which of them are built."""
    found = []
    for one in BUILTIN.values():
        built = _finished(one, cache_folder(environ))
        image, size = (built.image, built.size_bytes) if built else (None, None)
        found.append(Listed(one.name, one.user, one.summary, image, size))
    return Listing(tuple(found))


def build(
    name: str, io: Io = QUIET, *, refresh: bool = False, environ: Mapping[str, str] | None = None
) -> Built:
    """Build a guest's image into the cache, unless it is there.

    Args:
        refresh: fetch the package lists again, and build if they name newer packages.
        environ: the caller's environment; that of the process by default.

    Raises:
        UsageError: no guest has this name.
        MissingProgramError: apt or another program is not installed.
        QvmError: apt, the network, the disk or a tool failed. The cache is unchanged:
            an image that was there is still there.
    """
    began = time.monotonic()
    environ = os.environ if environ is None else environ
    this = recipe(name)
    folder = cache_folder(environ)
    if not refresh and (done := _finished(this, folder)):
        return done
    bench = Workbench(os.path.join(folder, f".{name}.part"), io, environ)
    _check_architecture(this)
    bench.require()
    try:
        os.makedirs(folder, exist_ok=True)
        with _locked(os.path.join(folder, f".{name}.lock"), name, io) as lock:
            bench.lock_fd = lock.fd
            done = None if refresh else _finished(this, folder)
            return done or _build(this, bench, folder, refresh, began)
    except (QvmError, OSError) as error:
        raise _explained(name, folder, error) from error


def _check_architecture(this: Recipe) -> None:
    """Some programs of the guest, and tools for it, run on the host."""
    here = os.uname().machine
    if here != "x86_64":
        raise QvmError(
            f"{this.name} can be built only on x86_64, but this host is {here}",
            hint="use `--image FILE` with your own disk, or one that `qvm img build -o` made on another host",
        )


def check_output(output: str) -> None:
    """Refuse an output file that already exists, before anything is built.

    Raises:
        UsageError: it exists.
    """
    if os.path.lexists(output):
        raise UsageError(f"{output} already exists", hint="remove it, or choose another file")


def copy_out(built: Built, output: str, io: Io = QUIET) -> Built:
    """Copy a built image to `output`, which comes to be only when it is whole.

    Raises:
        UsageError: `output` exists; it is unchanged.
        QvmError: it cannot be written; nothing is left of it.
    """
    check_output(output)
    output = os.path.abspath(output)
    part = files.unique(f"{output}.part")
    try:
        with io.stage(f"copying to {output}"):
            files.copy(built.image, part, io.checkpoint)
        try:
            os.link(part, output)  # unlike rename, never over a file that has just come to be
        finally:
            os.unlink(part)
        files.sync_folder(os.path.dirname(output))
    except FileExistsError:
        raise UsageError(f"{output} already exists", hint="remove it, or choose another file") from None
    except OSError as error:
        raise QvmError(f"cannot write {output}: {error.strerror}") from error
    return replace(built, output=output)


def _build(this: Recipe, bench: Workbench, folder: str, refresh: bool, began: float) -> Built:
    """Make the image under the lock; or find that the newest packages have made it already."""
    shutil.rmtree(bench.folder, ignore_errors=True)
    os.makedirs(bench.folder)
    apt = Apt(bench, folder)
    try:
        content, tools = _fetched(this, bench, apt, refresh)
        final = os.path.join(folder, f"{this.name}-{digest(this)}-{key(content + tools)}")
        done = _read(this, final)
        if done:
            return done
        apt.close()  # frees space for what follows
        with bench.io.stage("unpacking packages"):
            apt.unpack(content, "packages")
            apt.unpack(tools, "tools")
        this.make(bench, f"{this.name}.qcow2")
        ready = _sealed(this, bench, content, time.monotonic() - began)
        if os.path.exists(final):  # changed since it was built
            shutil.rmtree(final)
        os.rename(ready, final)
        files.sync_folder(folder)
        _prune(this, folder, final)
        apt.prune(content + tools)
    finally:
        apt.close()
        shutil.rmtree(bench.folder, ignore_errors=True)
    built = _read(this, final)
    assert built is not None
    return replace(built, fresh=True, seconds=time.monotonic() - began)


def _fetched(this: Recipe, bench: Workbench, apt: Apt, refresh: bool) -> tuple[list[Package], list[Package]]:
    """Find and download the packages: by the host's lists, or else by fresh ones of our own."""
    if not refresh:
        try:
            return _downloaded(this, bench, apt)
        except QvmError as error:  # a list that lacks a package, or names one that the mirror dropped
            if _is_full(error):
                raise
            bench.io.trace(f"with the host's package lists: {error}")
    with bench.io.stage("fetching package lists"):
        apt.update()
    return _downloaded(this, bench, apt)


def _downloaded(this: Recipe, bench: Workbench, apt: Apt) -> tuple[list[Package], list[Package]]:
    with bench.io.stage("finding packages"):
        content, tools = this.packages(apt)
    both = content + tools
    size = sum(package.size_bytes for package in both)
    with bench.io.stage(f"downloading {len(both)} packages ({size >> 20} MiB)"):
        apt.fetch(both)
    return content, tools


def _sealed(this: Recipe, bench: Workbench, content: list[Package], seconds: float) -> str:
    """A folder with the finished image and what is known of it, on the disk."""
    image = f"{this.name}.qcow2"
    ready = bench.path("ready")
    os.mkdir(ready)
    target = os.path.join(ready, image)
    os.rename(bench.path(image), target)
    os.chmod(target, 0o444)
    for name in this.kept:
        os.rename(bench.path(name), os.path.join(ready, name))
        os.chmod(os.path.join(ready, name), 0o444)
    for name in (image, *this.kept):
        files.sync(os.path.join(ready, name))
    about = {
        "name": this.name,
        "packages": {package.name: package.version for package in content},
        "seconds": round(seconds, 3),
        "stamp": _stamp(target),
    }
    files.write_atomic(os.path.join(ready, "about.json"), json.dumps(about, indent=2) + "\n")
    return ready


def _finished(this: Recipe, folder: str) -> Built | None:
    """The newest whole image of the recipe as it is now."""
    of_recipe = (path for made_by, path in _folders(folder, this) if made_by == digest(this))
    return next((built for path in of_recipe if (built := _read(this, path))), None)


def _read(this: Recipe, folder: str) -> Built | None:
    """The image in a folder of the cache; None if it was changed since it was built."""
    image = os.path.join(folder, f"{this.name}.qcow2")
    try:
        with open(os.path.join(folder, "about.json"), encoding="utf-8") as file:
            about = json.load(file)
        is_whole = all(os.path.exists(os.path.join(folder, name)) for name in this.kept)
        if about["stamp"] != _stamp(image) or not is_whole:
            return None
        size = os.stat(image).st_blocks * 512
        return Built(this.name, image, this.user, size, about["packages"], False, about["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stamp(image: str) -> list[int]:
    status = os.stat(image)
    return [status.st_size, status.st_mtime_ns]


@cache
def digest(this: Recipe) -> str:
    """A hash of qvm's own sources that an image of this recipe depends on."""
    hashed = hashlib.sha256()
    for source in sorted({*_SOURCES, *this.sources}):
        top = os.path.join(_HERE, source)
        below = [os.path.join(at, name) for at, _, names in os.walk(top) for name in names]
        for one in sorted(below or [top]):
            with open(one, "rb") as file:
                hashed.update(f"{os.path.relpath(one, _HERE)}\n".encode() + file.read() + b"\0")
    return hashed.hexdigest()[:_HASH_DIGITS]


def key(content: list[Package]) -> str:
    """A hash of the packages that an image is made from."""
    lines = sorted(f"{package.name} {package.version} {package.sha256}\n" for package in content)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:_HASH_DIGITS]


def _folders(folder: str, this: Recipe) -> list[tuple[str, str]]:
    """The recipe's hash and the path of each finished folder of a guest, newest first."""
    found = []
    try:
        for entry in os.scandir(folder):
            name, _, hashes = entry.name.partition(f"{this.name}-")
            recipe_hash, _, packages_hash = hashes.partition("-")
            if not name and len(recipe_hash) == len(packages_hash) == _HASH_DIGITS:
                found.append((entry.stat().st_mtime_ns, recipe_hash, entry.path))
    except (
        FileNotFoundError,
        NotADirectoryError,
    ):  # no cache yet, or another build has just removed an old one
        pass
    return [(recipe_hash, path) for _, recipe_hash, path in sorted(found, reverse=True)]


def _prune(this: Recipe, folder: str, current: str) -> None:
    """Remove superseded images; a machine has its own copy."""
    others = [(made_by, path) for made_by, path in _folders(folder, this) if path != current]
    superseded = [path for made_by, path in others if made_by == digest(this)]
    other_recipes = [path for made_by, path in others if made_by != digest(this)]
    for path in superseded + other_recipes[_KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(path: str, name: str, io: Io) -> Iterator[WorkLock]:
    """Hold the build's lock; wait while another process builds the same guest."""
    lock = WorkLock(path, f"img build {name}")
    try:
        lock.acquire()
    except Held as held:
        with io.stage(f"waiting for {held.by}"):
            _acquire(lock, held.by.pid, io)
    try:
        yield lock
    finally:
        lock.release()


def _acquire(lock: WorkLock, pid: int, io: Io) -> None:
    while True:
        _wait_for_end(pid, io)
        try:
            lock.acquire()
        except Held as held:
            pid = held.by.pid
        else:
            return


def _wait_for_end(pid: int, io: Io) -> None:
    """Wait until the process that builds has ended, at most half a second: it may not end after the build."""
    try:
        with process.Process(pid) as builder:
            builder.wait(0.5, io.checkpoint)
    except (ProcessLookupError, ValueError, OSError):
        process.wait_readable([], 0.1, io.checkpoint)


def _explained(name: str, folder: str, error: QvmError | OSError) -> QvmError:
    """The error for a failed step: which step, the tool's messages, what to do."""
    details, hint = (error.details, error.hint) if isinstance(error, QvmError) else ((), None)
    what = str(error)
    if isinstance(error, CommandError):
        hint = "`qvm --debug img build` shows the commands"
        if error.argv[0].startswith("apt"):
            hint = packages.NETWORK_HINT
            details = packages.complaints(error.stderr) or details
    if isinstance(error, OSError):
        what = f"{error.strerror}: {error.filename or folder}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "the cache is in XDG_CACHE_HOME or ~/.cache: it must be writable and not mounted noexec"
    if _is_full(error):
        what = f"no space left on the file system of {folder}"
        hint = f"a build needs about {_NEEDED_BYTES >> 20} MiB there; XDG_CACHE_HOME sets another place"
    return QvmError(f"cannot build {name}: {what}", details=details, hint=hint)


def _is_full(error: QvmError | OSError) -> bool:
    """True if the disk was full, for qvm itself or for a program."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in numbers
    words = "\n".join([*error.details, error.stderr if isinstance(error, CommandError) else ""])
    return any(os.strerror(number) in words for number in numbers)
