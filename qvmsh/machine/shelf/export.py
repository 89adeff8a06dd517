"""`export`: the whole machine as one file, off or while its guest works.

    export(vm, Wish("demo.tar.zst"))         # Exported(...)

The manifest comes first and has the checksums, which are known last: its place is left free, and it is
stored there without compression, so that its length is known before. Where that cannot be, each file is read
twice. Of a running machine the archive engine holds the disks still meanwhile: QEMU writes to overlays, and
commits them afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from dataclasses import dataclass

from qvmsh.errors import ConfigError, ImageError, QmpError, QvmError, StateError, Terminated, UsageError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process, scan, transfer
from qvmsh.host.tar_writer import Writer
from qvmsh.machine import identity, log, progress, state
from qvmsh.machine import journal as journals
from qvmsh.machine import programs as tools
from qvmsh.machine.archive import changes, drives, live_copy
from qvmsh.machine.journal import Kind, Record
from qvmsh.machine.monitor import conversation
from qvmsh.machine.shelf import contents, manifest, package_file, streams
from qvmsh.machine.shelf.package_reports import Exported
from qvmsh.machine.storage import chain
from qvmsh.machine.work import guardian
from qvmsh.machine.work.lock import work_lock
from qvmsh.qemu import image, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qvmsh.machine.archive.drives import Drive
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.shelf.contents import Contents, Taken
    from qvmsh.machine.shelf.manifest import Manifest


@dataclass(frozen=True)
class Wish:
    """The options of `export`.

    Args:
        file: where the package goes; `-` for standard output, "" for `./NAME.tar.gz`.
        kind: `gz`, `zst`, `xz`, `none`; "" for what the file's name says.
        is_forced: an existing file is replaced.
    """

    file: str = ""
    kind: str = ""
    has_keys: bool = False
    is_forced: bool = False


def is_file(word: str) -> bool:
    """True for a word that names the package, not the machine."""
    return word == package_file.STDOUT or ".tar" in os.path.basename(word)


@log.failures
def export(vm: BaseMachine, wish: Wish) -> Exported:
    """Pack the machine; see `commands.export`.

    Raises:
        StateError: the file exists, or the machine cannot be exported in this state.
        ConfigError: a disk is missing.
        QvmError: the package cannot be written; nothing of it is left.
    """
    began = time.monotonic()
    kind = _kind(wish)
    file = wish.file or f"{vm.name}.tar{'' if kind == 'none' else f'.{kind}'}"
    with work_lock(vm, "export"):
        vm.state_folder()
        changes.clear_staged(vm)
        with package_file.Target(vm, file, is_forced=wish.is_forced) as target:
            seen = state.observe(vm)
            package = _Package(vm, target.fd, streams.KINDS[kind], wish.has_keys)
            try:
                (_of_running if seen.is_live else _of_stopped)(package, seen)
                target.finish()
            except (KeyboardInterrupt, Terminated):
                left = f"{file} is complete" if target.size_bytes else "nothing was exported"
                if file == package_file.STDOUT:
                    left = "the package is incomplete"
                vm.io.warn(f"{vm.name}: interrupted; {left}")
                raise
            except OSError as error:
                raise _unwritable(vm, file, error) from error
    if file != package_file.STDOUT:
        log.note(vm, f"exported to {file}")
    done, took = package.manifest, time.monotonic() - began
    report = Exported(
        vm.name, file, target.size_bytes, done.consistency,
        files=[*done.files], left_out=done.left_out, seconds=took,
    )  # fmt: skip
    if file == package_file.STDOUT:
        for line in report.lines():
            vm.io.warn(line)
    return report


def _kind(wish: Wish) -> str:
    """How the package is compressed."""
    named = streams.kind_of(wish.file) if wish.file not in ("", package_file.STDOUT) else None
    if wish.kind and wish.kind not in streams.KINDS:
        raise UsageError(f"export: -z {wish.kind}: must be one of {', '.join(streams.KINDS)}")
    if named and wish.kind and named != wish.kind:
        raise UsageError(
            f"export: {wish.file} would not be what its name says: -z {wish.kind}",
            hint="leave out -z, or give the file another name",
        )
    if wish.file not in ("", package_file.STDOUT) and not named and not wish.kind:
        raise UsageError(
            f"export: the name {wish.file} does not say how the package is compressed",
            hint="end it in .tar.gz, .tar.zst, .tar.xz or .tar, or give -z",
        )
    return wish.kind or named or "gz"


def _unwritable(vm: BaseMachine, file: str, error: OSError) -> QvmError:
    where = "standard output" if file == package_file.STDOUT else file
    hint = "nothing was left behind"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space; nothing was left behind"
    if isinstance(error, BrokenPipeError):
        raise error
    return QvmError(f"cannot export to {where}: {error.strerror or error}", machine=vm.name, hint=hint)


# The machine


def _of_stopped(package: _Package, seen: state.Observation) -> None:
    vm = package.vm
    found = _found(vm, lambda: drives.of(vm))
    for drive in found:
        if not drive.left_out:
            image.require_unused(drive.path, vm.name)
    package.write(found, manifest.OFF)


def _found(vm: BaseMachine, look: Callable[[], list[Drive]]) -> list[Drive]:
    """The disks; a machine without one of them is broken."""
    try:
        return look()
    except ImageError as error:
        raise ConfigError(
            f"cannot export: {error.what}", machine=vm.name, hint=error.hint, details=error.details
        ) from None


def _of_running(package: _Package, seen: state.Observation) -> None:
    vm = package.vm
    kinds = (state.RUNNING, state.PAUSED, state.SUSPENDED, state.SHUT_DOWN)
    _, note = state.require(vm, seen, "export", *kinds)
    if note.disposable or note.base_only:
        how = "disposable, its changes are lost" if note.disposable else "running its base (--base-only)"
        raise StateError(f"cannot export: it is {how}", machine=vm.name, hint="`qvm stop`, then `qvm start`")
    try:
        with guardian.Guardian(vm):
            with conversation.session(vm, note) as qemu:
                changes.clear(vm, qemu)
                found = _found(vm, lambda: drives.live(vm, qemu.execute("query-block")))
            wanted = [each for each in found if not each.left_out]
            journal = journals.begin(vm, Record(Kind.EXPORT))
            try:
                with (
                    conversation.session(vm, note) as qemu,
                    live_copy.LiveCopy(vm, note, qemu, wanted, journal) as taking,
                ):
                    is_quiet = taking.consistency == live_copy.FROZEN
                    package.write(found, manifest.QUIESCED if is_quiet else manifest.CRASH)
            finally:
                with process.Shielded():
                    if live_copy.is_joined(journal.record):
                        journal.end()
    except QmpError as error:
        error.machine = error.machine or vm.name
        if state.has_ended(vm, error):
            raise QmpError(
                "cannot export: QEMU ended", machine=vm.name, details=[error.what, *error.details],
                hint="all that the guest wrote is on its disks; `qvm start` starts it",
            ) from None  # fmt: skip
        error.hint = error.hint or "nothing was left behind; the guest is still running"
        raise
    if locks.holder(vm.files.pid_file) is None:
        vm.io.warn(f"{vm.name}: QEMU ended during the export; all that the guest wrote is on its disks")


# The package


class _Package:
    """The members, from the manifest to the last one.

    Args:
        target: the file that gets it.
        kind: of the compression, as `compression.COMPRESSORS` has it.
    """

    def __init__(self, vm: BaseMachine, target: int, kind: str, has_keys: bool) -> None:
        self.vm = vm
        self.target = target
        self.kind = kind
        self.has_keys = has_keys
        self.manifest = manifest.Manifest(vm.name, "")
        self.opened: dict[str, int] = {}
        self.scans: dict[str, scan.Scan] = {}

    def write(self, found: list[Drive], consistency: str) -> None:
        """Read all files, and write them."""
        vm = self.vm
        content = contents.gather(vm, found, has_keys=self.has_keys)
        with contextlib.ExitStack() as stack:
            self.opened = {each.name: stack.enter_context(_opened(vm, each)) for each in content.files}
            self.scans = {name: scan.look(fd) for name, fd in self.opened.items()}
            empty = {name: each.placeholder for name, each in self.scans.items()}
            self.manifest = self._manifest(content, empty, found, consistency)
            place = streams.stored(self.kind, self._head())
            is_seekable = stat.S_ISREG(os.fstat(self.target).st_mode)
            if is_seekable and place is not None:
                os.lseek(self.target, len(place), os.SEEK_SET)
                self.manifest = self.manifest.with_sums(self._write_members(content))
                head = streams.stored(self.kind, self._head()) or b""
                assert len(head) == len(place)
                host_files.write_at(self.target, head, 0)
                return
            self.manifest = self.manifest.with_sums(self._sums(content))
            if place is not None:
                transfer.write_all(self.target, streams.stored(self.kind, self._head()) or b"")
            self._write_members(content, b"" if place is not None else self._head())

    def _head(self) -> bytes:
        """The first member."""
        found: list[bytes] = []
        Writer(found.append).text(manifest.NAME, self.manifest.text().encode(), mode=0o644)
        return b"".join(found)

    def _sums(self, content: Contents) -> dict[str, str]:
        """The checksums of all files, where they must be known first."""
        found = {}
        total = sum(each.data_bytes for each in self.scans.values())
        with progress.Progress(self.vm.io, "reading the disks", total) as shown:
            done = 0
            for each in content.files:
                with scan.Summing(self.scans[each.name]) as summing:
                    for data in self._pieces(each, summing):
                        done += len(data)
                        shown.tell(done)
                found[each.name] = summing.digest()
        return found

    def _pieces(
        self, each: Taken, summing: scan.Summing, tell: Callable[[int], None] = lambda _: None
    ) -> Iterator[bytes]:
        """The data of a file, of which the checksum is made meanwhile."""
        vm = self.vm
        try:
            for at, data in scan.slices(
                self.opened[each.name], self.scans[each.name], tell, vm.io.checkpoint
            ):
                summing.add(at, data)
                yield data
        except scan.Changed:
            raise _changed(vm, each) from None

    def _manifest(
        self, content: Contents, sums: dict[str, str], found: list[Drive], consistency: str
    ) -> Manifest:
        vm = self.vm
        texts = [
            manifest.Item(name, len(text), scan.of_bytes(text), role) for name, role, text in _texts(content)
        ]
        items = [
            manifest.Item(
                each.name, self.scans[each.name].size_bytes, sums[each.name], each.role, each.format
            )
            for each in _in_order(content)
        ]
        items = [*texts[:1], *items, *texts[1:]]
        main = next(each for each in found if not each.left_out)
        tags = chain.snapshots_in(main.path, main.format)
        return manifest.Manifest(
            vm.name, identity.uuid_of(vm), _qemu_version(vm), vm.settings.text("VM_QEMU_MACHINE"),
            consistency, tuple(each.name for each in tags), {each.name: each for each in items},
            tuple(content.left_out),
        )  # fmt: skip

    def _write_members(self, content: Contents, head: bytes = b"") -> dict[str, str]:
        """Write `head` and all members behind it; returns the checksums of the files."""
        texts = {name: text for name, _, text in _texts(content)}
        taken = {each.name: each for each in content.files}
        sums = {}
        with streams.compressed(self.target, self.kind) as write:
            write(head)
            writer = Writer(write)
            for name in self.manifest.files:
                if name in texts:
                    writer.text(name, texts[name], mode=0o644)
                    continue
                found, each = self.scans[name], taken[name]
                with (
                    progress.Progress(self.vm.io, f"packing {name}", found.size_bytes) as shown,
                    scan.Summing(found) as summing,
                ):
                    writer.file(name, found, self._pieces(each, summing, shown.tell), mode=each.mode)
                sums[name] = summing.digest()
            writer.end()
        return sums


def _texts(content: Contents) -> list[tuple[str, str, bytes]]:
    """The members that are not copies of files: name, role, content."""
    found = [(".vmrc", manifest.SETTINGS, content.vmrc)]
    if content.snapshots:
        found.append((contents.KEPT, manifest.SNAPSHOTS, content.snapshots))
    return [(name, role, text.encode("utf-8", "surrogateescape")) for name, role, text in found]


def _in_order(content: Contents) -> list[Taken]:
    return sorted(content.files, key=lambda each: (_rank(each.role), each.name))


def _rank(role: str) -> int:
    """The order of the members: disks, UEFI's variables, the TPM, then the rest."""
    rest = (manifest.TPM, manifest.KEY, manifest.FILE)
    return 1 if role.endswith(drives.UEFI) else 2 + rest.index(role) if role in rest else 0


@contextlib.contextmanager
def _opened(vm: BaseMachine, each: Taken) -> Iterator[int]:
    """The file, or a copy that names its base as it is in the package."""
    path = contents.staged(vm, each) if each.backing else each.path
    try:
        fd = host_files.opened(path)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ImageError(f"cannot export: {each.name} is not a file", machine=vm.name)
    finally:
        if each.backing:
            host_files.remove(path)
    try:
        yield fd
    finally:
        os.close(fd)


def _changed(vm: BaseMachine, each: Taken) -> ImageError:
    users = ", ".join(image.users(each.path))
    return ImageError(
        f"cannot export: {os.path.basename(each.path)} was written to during the export"
        f"{f', by {users}' if users else ''}",
        machine=vm.name, hint="stop the program that writes to it; nothing was left behind",
    )  # fmt: skip


def _qemu_version(vm: BaseMachine) -> str:
    try:
        found = programs.version(tools.qemu(vm))
    except QvmError:
        return ""
    return str(found) if found else ""
