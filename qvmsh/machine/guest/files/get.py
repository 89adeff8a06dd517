"""`get`: files and folders of the guest to the host.

    get(vm, wish_of("get", ("/etc/hosts", "/var/log", "logs/"), WAYS, ...))   # Copied(files=12, via="ssh")

One file is written to a part beside its final name, which `--resume` can continue, and renamed. All else is
a tar stream, unpacked in a folder beside, from which each name is moved to its place. The guest is not
trusted: see `incoming`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from dataclasses import dataclass

from qvmsh.errors import DeadlineError, GuestUnreachableError, QvmError, UsageError
from qvmsh.io import unwritable
from qvmsh.machine.guest.files import carriers, incoming
from qvmsh.machine.guest.files.limits import Limit
from qvmsh.machine.guest.files.names import (
    RESUME,
    STREAM,
    guest_path,
    in_use,
    part_name,
    require_different,
    split,
)
from qvmsh.machine.guest.files.placing import Placing
from qvmsh.machine.guest.files.receivers import Done
from qvmsh.machine.guest.files.reports import Copied
from qvmsh.machine.guest.files.sources import BLOCK_BYTES
from qvmsh.machine.progress import Progress, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.machine.guest.files.names import Wish
    from qvmsh.machine.guest.files.sources import Seen, Sender
    from qvmsh.machine.machine import BaseMachine

SLICE_BYTES = 1 << 20


def get(vm: BaseMachine, wish: Wish) -> Copied:
    """Copy from the guest; see `commands.get`.

    Raises:
        UsageError: words that cannot be carried out.
        QvmError: a source cannot be read, or the target cannot be written.
        StateError, GuestUnreachableError, DeadlineError: as `carriers.from_first`.
    """
    began = time.monotonic()
    target = None if wish.target == STREAM else _target(vm, wish)
    work = _Getting(vm, wish, target)
    limit = Limit(vm, wish.timeout_s)
    done, tried = carriers.from_first(vm, wish.ways, limit, work.of)
    report = Copied(
        vm.name, done.files, done.bytes, done.via, seconds=time.monotonic() - began,
        resumed_bytes=done.resumed_bytes, failed=done.failed, refused=tried.refused,
    )  # fmt: skip
    if wish.target == STREAM:
        for line in report.lines():
            vm.io.say(line)
        report.is_quiet = True
    return report


@dataclass(frozen=True)
class _Target:
    """Where things go here.

    Args:
        folder: the folder that gets the names.
        name: the final name in it; "" for that of each source.
    """

    folder: str
    name: str


def _target(vm: BaseMachine, wish: Wish) -> _Target:
    """Look at the target, before anything is copied."""
    text = wish.target
    if os.path.isdir(text):
        return _Target(text, "")
    if text.endswith("/"):
        if os.path.lexists(text.rstrip("/")):
            raise QvmError(f"{text} is not a directory; nothing was copied", machine=vm.name)
        return _Target(text, "")
    folder, name = split(text)
    if len(wish.sources) > 1:
        raise UsageError(
            f"get: {text} is not a directory", hint=f"several sources need one; `{text}/` makes it"
        )
    if not os.path.isdir(folder):
        raise QvmError(f"{folder} is not a directory; nothing was copied", machine=vm.name)
    if os.path.exists(text) and not os.path.isfile(text):
        raise QvmError(
            f"{text} is a device, a FIFO or a socket; nothing was copied", machine=vm.name,
            hint="`qvm get SOURCE -` writes to standard output",
        )  # fmt: skip
    return _Target(folder, name)


class _Getting:
    """One call of `get`."""

    def __init__(self, vm: BaseMachine, wish: Wish, target: _Target | None) -> None:
        self._vm = vm
        self._wish = wish
        self._target = target

    def of(self, sender: Sender) -> Done:
        """Copy all by a way that is open."""
        done = Done(sender.name)
        names: dict[str, str] = {}
        for source in self._wish.sources:
            name = split(guest_path(source))[1]
            if name in ("", ".", ".."):
                hint = "name the directory by its path"
                raise UsageError(f"get: {source} has no name of its own", hint=hint)
            require_different("get", names, name, source)
        seen = sender.look([guest_path(each) for each in self._wish.sources])
        for each, source in zip(seen, self._wish.sources, strict=True):
            if each.kind not in ("file", "folder"):
                why = "it does not exist" if each.kind == "missing" else "it is a device, a FIFO or a socket"
                raise QvmError(
                    f"cannot get {source} from the guest: {why}; nothing was copied", machine=self._vm.name
                )
        if self._target is None:
            self._to_stdout(sender, seen, done)
            return done
        try:
            os.makedirs(self._target.folder, exist_ok=True)
            if len(seen) == 1 and seen[0].kind == "file" and not self._is_better_as_tar(seen[0]):
                self._one(sender, seen[0], self._target, done)
            else:
                self._tree(sender, seen, self._target, done)
        except OSError as error:
            raise self._unwritable(error) from error
        return done

    def _is_better_as_tar(self, seen: Seen) -> bool:
        """True for a file whose holes the guest's tar finds."""
        return seen.has_holes and seen.has_gnu_tar and not self._wish.is_resumed

    def _unwritable(self, error: OSError) -> QvmError:
        assert self._target is not None
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return QvmError(
            f"cannot write to {self._target.folder}: {error.strerror or error}", machine=self._vm.name,
            hint="free some space; nothing was left behind" if is_full else None,
        )  # fmt: skip

    def _to_stdout(self, sender: Sender, seen: list[Seen], done: Done) -> None:
        if len(seen) > 1 or seen[0].kind != "file":
            raise UsageError("get: only one file can be written to standard output")
        out = self._vm.io.stdout
        with sender.read(seen[0], 0) as stream:
            try:
                out.flush()
                while data := stream.read(SLICE_BYTES):
                    out.buffer.write(data)
                    done.bytes += len(data)
                out.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                raise unwritable(error, self._vm.name) from None
        done.files = 1

    # one file

    def _one(self, sender: Sender, seen: Seen, target: _Target, done: Done) -> None:
        name = target.name or seen.name
        part = os.path.join(target.folder, part_name(name, seen.path, seen.size_bytes, seen.mtime_s))
        final = os.path.join(target.folder, name)
        if os.path.isdir(final):
            raise QvmError(f"{final} is a directory; nothing was copied", machine=self._vm.name)
        with self._part(part) as fd:
            there = os.fstat(fd).st_size // BLOCK_BYTES * BLOCK_BYTES
            if not self._wish.is_resumed or seen.size_bytes is None or there > seen.size_bytes:
                there = 0
            os.ftruncate(fd, there)
            try:
                total = self._read(sender, seen, fd, there)
                os.ftruncate(fd, total)
                _keep(fd, seen)
                os.fsync(fd)  # else a host that dies may keep the name without the data
                os.rename(part, final)
            except (GuestUnreachableError, DeadlineError) as error:
                if os.fstat(fd).st_size:
                    error.hint = RESUME.format("get")
                else:
                    os.unlink(part)
                raise
            except Exception:
                os.unlink(part)
                raise
        done.files, done.bytes, done.resumed_bytes = 1, total, there

    @contextlib.contextmanager
    def _part(self, path: str) -> Iterator[int]:
        """A file that is not complete yet, made or found, for this process alone."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        while True:
            fd = os.open(path, flags, 0o600)
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode):
                    raise QvmError(f"{path} is in the way: it is not a file", machine=self._vm.name)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise in_use(self._vm.name, os.path.dirname(path)) from None
                if not _is_named(path, found):  # another process has just given it its final name
                    continue
                yield fd
                return
            finally:
                os.close(fd)

    def _read(self, sender: Sender, seen: Seen, fd: int, there: int) -> int:
        at = there
        title = f"get {seen.path.removeprefix('./')}"
        with (
            Progress(self._vm.io, title, seen.size_bytes or 0) as progress,
            sender.read(seen, there // BLOCK_BYTES) as stream,
        ):
            while data := stream.read(SLICE_BYTES):
                incoming.write_sparse(fd, data, at)
                at += len(data)
                progress.tell(at)
                self._vm.io.checkpoint()
        return at

    # folders, and several

    def _tree(self, sender: Sender, seen: list[Seen], target: _Target, done: Done) -> None:
        """Unpack in a folder of our own, then move each name to its place."""
        for each in seen:
            final = os.path.join(target.folder, target.name or each.name)
            if os.path.lexists(final) and os.path.isdir(final) != (each.kind == "folder"):
                raise QvmError(f"{final} is in the way; nothing was copied", machine=self._vm.name)
        part = os.path.join(target.folder, f".get.part-{secrets.token_hex(4)}")
        os.mkdir(part, 0o700)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        inner, outer = os.open(part, flags | os.O_NOFOLLOW), os.open(target.folder, flags)
        title = self._wish.sources[0] if len(seen) == 1 else f"{len(seen)} sources"
        try:
            with self._vm.io.stage(f"get {title}") as stage:
                unpacking = incoming.Unpacking(
                    inner, {each.name: each.kind for each in seen}, self._vm.name,
                    lambda count: stage.progress(size(count)), self._vm.io.checkpoint,
                )  # fmt: skip
                failed = sender.tree(seen, unpacking)
                if not failed:  # else it is named there
                    failed = [f"{name}: the guest has not sent it" for name in sorted(unpacking.missing)]
                unpacking.close()
            done.failed += [*failed, *unpacking.failed]
            names = os.listdir(inner)
            if unpacking.files and not names:
                raise QvmError(
                    f"another program has removed {part}; nothing was copied", machine=self._vm.name
                )
            placing = Placing(unpacking.modes, done.failed)
            for name in names:
                placing.place(inner, name, outer, target.name or name)
            done.files, done.bytes = unpacking.files, unpacking.bytes
        finally:
            os.close(inner)
            os.close(outer)
            shutil.rmtree(part, ignore_errors=True)


def _is_named(path: str, found: os.stat_result) -> bool:
    """True if the path still is that file."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), found)
    except FileNotFoundError:
        return False


def _keep(fd: int, seen: Seen) -> None:
    """Give a file the mode and the time that it has in the guest."""
    os.fchmod(fd, 0o644 if seen.mode is None else seen.mode & incoming.MODES)
    if seen.mtime_s is not None and seen.mtime_s < 1 << 33:
        os.utime(fd, (seen.mtime_s, seen.mtime_s))
