"""What makes a machine besides its disks: the files that an archive holds as `NAME-settings.tar`.

    found = gather(vm, disks)
    found.names           # [".vmrc", ".qvm/uuid", ".qvm/id_ed25519", "vmlinuz", "seed.iso", ...]
    found.left_out        # [("/srv/install.iso", "it is outside the machine's directory")]

These are the `.vmrc`, what `.qvm` keeps for good, and the small files of the directory that the settings
name: a kernel, a CD with a guest's first settings, a hook. What is left out is reported with the reason.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import os
import shutil
import stat
import tarfile
from dataclasses import dataclass, field
from pathlib import PurePath

from qvmsh.config.variables import VARIABLES
from qvmsh.errors import ImageError
from qvmsh.host import files as host_files
from qvmsh.machine.archive import drives
from qvmsh.machine.archive.model import PART
from qvmsh.machine.guest.shares import plan
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.qemu.drives import pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import IO

    from qvmsh.machine.archive.drives import Drive
    from qvmsh.machine.machine import BaseMachine

SETTINGS = "settings"
SMALL_BYTES = 64 << 20
MOST_FILES = 10_000
HEAD_BYTES = 8192
"""The most that the headers of a file in the tar may have."""
OUTSIDE = "it is outside the machine's directory"
LARGE = f"the guest only reads it, and it has more than {SMALL_BYTES >> 20} MiB"
FOLDER = "it is a folder"

STATE = (os.path.join(".qvm", "tpm", ""), os.path.join(".qvm", "snapshots.json"))
"""What belongs to the disks of the same moment: the TPM's keys, the snapshots' metadata."""

_OF_A_PLACE = ("place", "clones", "original")
"""What of `.qvm` is about this directory alone; another qvm may have archived it."""
_PASSING = ("running", "qemu.pid", "work.lock", "wait.lock", "settled", "log", *_OF_A_PLACE)
_NOT_THE_MACHINE = ("VM_LOG", "VM_ERRLOG", "VM_ARCHIVE", "VM_HOME", "VM_CONFIG", "VM_GLOBAL_CONFIG", "VM_LIB")
_MEDIA = ("cdrom", "kernel", "initrd", "dtb", "fda", "fdb")
"""QEMU's options whose value is a file that the guest, or QEMU, only reads."""


@dataclass
class Settings:
    """Names of the files, from the machine's directory; and what was left out, with the reason."""

    names: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def gather(vm: BaseMachine, disks: Sequence[Drive], others: Sequence[str] = ()) -> Settings:
    """What is taken and what is not.

    Args:
        disks: those of the machine; a small one that the guest only reads is taken here.
        others: paths of additional images, which are not settings.
    """
    found = Settings([".vmrc", *_kept(vm)])
    images = [each.path for each in disks if each.left_out != drives.READ_ONLY] + list(others)
    for path in dict.fromkeys([*_named(vm), *_shares(vm), *(each.path for each in disks if each.left_out)]):
        if not os.path.exists(path) or any(drives.same(path, each) for each in images):
            continue
        inside = os.path.relpath(path, vm.directory)
        is_media = path in _media(vm)
        if os.path.isdir(path):
            if path in _shares(vm):
                found.left_out.append((path, FOLDER))
        elif inside.startswith("..") or os.path.islink(path):
            if is_media:
                found.left_out.append((path, OUTSIDE))
        elif not os.path.isfile(path):
            continue
        elif os.path.getsize(path) <= SMALL_BYTES:
            found.names.append(inside)
        elif is_media:
            found.left_out.append((path, LARGE))
    found.names = [
        each for each in dict.fromkeys(map(os.path.normpath, found.names))
        if os.path.isfile(os.path.join(vm.directory, each))
        and not os.path.islink(os.path.join(vm.directory, each))
    ]  # fmt: skip
    return found


def is_known(vm: BaseMachine, name: str) -> bool:
    """True for a file that the machine's settings name, or in `.qvm`."""
    path = os.path.normpath(os.path.join(vm.directory, name))
    known = {*_named(vm), *(os.path.normpath(each.path) for each in drives.named(vm))}
    return name.startswith(os.path.join(".qvm", "")) or path in known


def is_lasting(name: str) -> bool:
    """True for a file that may be in the tar: not for records of a run, a place or work in progress."""
    head, _, rest = os.path.normpath(name).partition(os.sep)
    if head != ".qvm":
        return head != ".." and not os.path.isabs(name) and (head != "." or bool(rest))
    first = rest.partition(os.sep)[0]
    return bool(first) and first not in _PASSING and not (
        first.startswith(("staged-", "cut-", "disposable-", "verify-"))
        or first.endswith(".unfinished")
        or PART in first
    )  # fmt: skip


def pack(vm: BaseMachine, names: Sequence[str], file: IO[bytes], *, without: str = "") -> None:
    """Write the tar.

    Args:
        without: a snapshot that is not in the copy, left out of the metadata.
    """
    known = Catalogue.read(vm) if without else None
    if known and without in known.entries:
        known.forget(without)
    else:
        known = None
    with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
        for name in names:
            with open(host_files.opened(os.path.join(vm.directory, name)), "rb") as source:
                info = tar.gettarinfo(name, name, source)
                if known and name == STATE[1]:
                    text = known.text().encode()
                    info.size = len(text)
                    tar.addfile(info, io.BytesIO(text))
                else:
                    tar.addfile(info, source)


class _Member(tarfile.TarInfo):
    """A file in an untrusted tar: no endless name, no map of holes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        found = super().frombuf(buf, encoding, errors)
        kinds = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if found.type == tarfile.XGLTYPE or (found.type in kinds and found.size > HEAD_BYTES):
            raise tarfile.ReadError("a header is too large")
        return found

    def _refuse(self, *_: object) -> None:
        raise tarfile.ReadError("a file has holes")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar):
        if count >= MOST_FILES:
            raise tarfile.ReadError(f"it holds more than {MOST_FILES} files")
        if member.size < 0:
            raise tarfile.ReadError(f"{member.name} has a size below zero")
        yield member


def is_same(vm: BaseMachine, names: Sequence[str], file: IO[bytes]) -> bool:
    """True if a tar of `pack` holds just these files, with what is in them now."""
    found = {}
    try:
        with tarfile.open(fileobj=file, mode="r|", tarinfo=_Member) as tar:
            for member in _members(tar):
                source = tar.extractfile(member)
                if isinstance(source, io.BufferedReader):  # a file, as in all tars of qvm
                    content = hashlib.file_digest(source, "sha256").digest()
                    found[member.name] = (stat.S_IMODE(member.mode), content)
    except (tarfile.TarError, EOFError, ValueError):
        return False
    now = {}
    for name in names:
        with open(host_files.opened(os.path.join(vm.directory, name)), "rb") as each:
            mode = stat.S_IMODE(os.fstat(each.fileno()).st_mode)
            now[name] = (mode, hashlib.file_digest(each, "sha256").digest())
    return found == now


def unpack(path: str, place: Callable[[str], str | None], label: str) -> None:
    """Write the files of a tar, but for those that are about the directory that they were in.

    Args:
        place: where a file of that name goes, None if it is not wanted; the folders must be there.
        label: how the tar is called in an error.

    Raises:
        ImageError: it is damaged, or holds what does not belong there; nothing is written outside.
    """
    files: set[str] = set()
    folders: set[str] = set()
    try:
        with tarfile.open(path, "r:", tarinfo=_Member) as tar:
            for member in _members(tar):
                clean = os.path.normpath(member.name)
                files.add(clean)
                folders.update(map(str, PurePath(clean).parents))
                is_of_a_place = clean in [os.path.join(".qvm", each) for each in _OF_A_PLACE]
                if not member.isfile() or not (is_of_a_place or is_lasting(clean)):
                    raise ImageError(
                        f"{label} holds {member.name}, which is not a file of a machine",
                        hint="it was modified; restore another state",
                    )
                if files & folders:
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), clean)
                target = None if is_of_a_place else place(clean)
                source = tar.extractfile(member)
                if target is None or source is None:
                    continue
                with host_files.new(target) as file:
                    os.fchmod(file.fileno(), member.mode & 0o755)
                    shutil.copyfileobj(source, file)
                    file.flush()
                    os.fsync(file.fileno())
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ImageError(
            f"cannot unpack {clean} of {label}: {error.strerror}",
            hint="a file is where it needs a folder, or vice versa; restore another state",
        ) from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ImageError(f"{label} is damaged: {error}", hint="restore another state") from None


# What the settings name


def _kept(vm: BaseMachine) -> Iterator[str]:
    """The files of `.qvm` that last."""
    for folder, names, files in os.walk(vm.files.state):
        inside = os.path.relpath(folder, vm.directory)
        names[:] = [each for each in names if is_lasting(os.path.join(inside, each))]
        yield from (
            os.path.join(inside, each)
            for each in files
            if is_lasting(os.path.join(inside, each)) and each != ".lock"
        )


def _named(vm: BaseMachine) -> list[str]:
    """Every path that a setting may mean, whether it is one or not."""
    found: list[str] = []
    for name in vm.settings:
        if name in _NOT_THE_MACHINE:
            continue
        kind = VARIABLES[name].kind if name in VARIABLES else "text"
        value = vm.settings[name]
        if kind == "path":
            found.append(vm.settings.path(name))
        elif kind in ("words", "arguments"):
            words = vm.settings.words(name)
            found += [each for word in words for each in (word, *pairs(word).values())]
        found += value.replace(",", " ").replace("=", " ").split()
    return [os.path.normpath(os.path.join(vm.directory, each)) for each in found if each and "\0" not in each]


def _media(vm: BaseMachine) -> list[str]:
    """The files besides disks that the guest reads, according to the settings."""
    names = ("VM_CDROM", "VM_KERNEL", "VM_INITRD", "VM_INCLUDE")
    found = [vm.settings.path(name) for name in names if name in vm.settings]
    for option, value in _options(vm):
        keys = pairs(value)
        if option in _MEDIA:
            found.append(value)
        elif option == "fw_cfg" or (option == "drive" and keys.get("media") == "cdrom"):
            found.append(keys.get("file", ""))
    return [os.path.normpath(os.path.join(vm.directory, each)) for each in found if each]


def _shares(vm: BaseMachine) -> list[str]:
    """The folders of the host that the guest sees."""
    found = [pairs(value).get("path", "") for option, value in _options(vm) if option in ("virtfs", "fsdev")]
    found += [each.path for each in plan.configured(vm)]
    return [os.path.normpath(os.path.join(vm.directory, each)) for each in found if each]


def _options(vm: BaseMachine) -> list[tuple[str, str]]:
    """The words for QEMU in pairs: an option without its dashes, and the word behind it."""
    words = [*vm.settings.words("VM_QEMU_ARGS"), *vm.settings.words("VM_QEMU_EXTRA")]
    return [(word.lstrip("-"), value) for word, value in itertools.pairwise(words) if word.startswith("-")]
