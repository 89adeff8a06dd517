"""`put`: files and folders of the host into the guest.

    put(vm, wish_of("put", ("notes.txt", "src", "/tmp/"), WAYS, ...))     # Copied(files=12, via="ssh")

One file, or standard input, is written to a part beside its final name, which `--resume` can continue, and
renamed. All else is copied into a folder beside, from which each name is moved to its place.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
import zlib

from qvmsh.errors import DeadlineError, GuestUnreachableError, QvmError, UsageError
from qvmsh.host import locks, scan
from qvmsh.machine import launch_record
from qvmsh.machine.guest import given
from qvmsh.machine.guest.files import carriers, outgoing
from qvmsh.machine.guest.files.limits import Limit
from qvmsh.machine.guest.files.names import RESUME, STREAM, guest_path, in_use, part_name, require_different
from qvmsh.machine.guest.files.receivers import Done
from qvmsh.machine.guest.files.reports import Copied
from qvmsh.machine.progress import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qvmsh.machine.guest.files.names import Wish
    from qvmsh.machine.guest.files.receivers import Found, Receiver
    from qvmsh.machine.machine import BaseMachine

    Run = tuple[int, int]

MOST_RUNS = 128
"""How many parts of a file with holes are written one by one: each takes a program in the guest."""
TIDY_S = 10.0
"""How long a part may take to be removed after the deadline."""
KEEP = "keep"
"""The mode of the file that is there; that of a new one if there is none."""


def put(vm: BaseMachine, wish: Wish) -> Copied:
    """Copy into the guest; see `commands.put`.

    Raises:
        UsageError: words that cannot be carried out.
        QvmError: a source is missing, or the target cannot be written.
        StateError, GuestUnreachableError, DeadlineError: as `carriers.by_first`.
    """
    began = time.monotonic()
    _require_sources(vm, wish)
    limit = Limit(vm, wish.timeout_s)
    work = _Putting(vm, wish, limit)
    done, tried = carriers.to_first(vm, wish.ways, limit, work.to)
    return Copied(
        vm.name, done.files, done.bytes, done.via, seconds=time.monotonic() - began,
        resumed_bytes=done.resumed_bytes, failed=done.failed, refused=tried.refused,
    )  # fmt: skip


def _require_sources(vm: BaseMachine, wish: Wish) -> None:
    """Refuse what cannot be copied before anything is."""
    if STREAM in wish.sources:
        if len(wish.sources) > 1:
            raise UsageError("put: standard input cannot be copied together with other sources")
        if wish.target.endswith("/"):
            raise UsageError("put: what comes from standard input needs a name", hint="`qvm put - /tmp/NAME`")
        return
    names: dict[str, str] = {}
    for source in wish.sources:
        try:
            mode = os.stat(source).st_mode
        except OSError as error:
            raise QvmError(
                f"cannot put {source}: {error.strerror}; nothing was copied", machine=vm.name
            ) from None
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise QvmError(
                f"cannot put {source}: it is {outgoing.kind_of(mode)}; nothing was copied", machine=vm.name,
                hint="`qvm put - NAME` copies standard input",
            )  # fmt: skip
        if not name_of(source):
            raise UsageError(f"put: {source} has no name of its own", hint="copy what is in it")
        require_different("put", names, name_of(source), source)


def name_of(source: str) -> str:
    """The name that a source has in the target folder."""
    return os.path.basename(os.path.abspath(source))


class _Putting:
    """One call of `put`."""

    def __init__(self, vm: BaseMachine, wish: Wish, limit: Limit) -> None:
        self._vm = vm
        self._wish = wish
        self._limit = limit
        self._target = guest_path(wish.target)

    def to(self, receiver: Receiver) -> Done:
        """Copy all by a way that is open."""
        done = Done(receiver.name)
        sources = self._wish.sources
        if sources[0] == STREAM:
            self._stdin(receiver, done)
        elif len(sources) == 1 and os.path.isfile(sources[0]):
            with _opened(self._vm, sources[0]) as fd:
                self._one(receiver, done, fd)
        else:
            self._tree(receiver, done)
        return done

    def _stdin(self, receiver: Receiver, done: Done) -> None:
        part = part_name(os.path.basename(self._target), secrets.token_hex(8))
        found = receiver.look(self._target, part)
        if not found.name:
            raise UsageError(
                f"put: {self._wish.target} is a directory in the guest",
                hint=f"`qvm put - {self._wish.target.rstrip('/')}/NAME` names the file",
            )

        def produce(write: Callable[[bytes], None]) -> None:
            for data in given.pieces(self._vm, until=self._limit.until, what="nothing was copied"):
                write(data)
                done.bytes += len(data)

        try:
            with self._vm.io.stage(f"put {self._wish.target}"), receiver.removed_by_failure(found, part):
                receiver.write(found, part, [], produce, is_on=False)
                receiver.place(found, part, found.name, size=done.bytes, mode=KEEP, mtime_s=None)
        except given.Late:
            self._limit.extend(TIDY_S)
            receiver.remove(found, part)
            raise
        done.files = 1

    def _one(self, receiver: Receiver, done: Done, fd: int) -> None:
        """Copy an open file; its part stays where it is interrupted."""
        source = self._wish.sources[0]
        status, name = os.fstat(fd), name_of(source)
        part = part_name(name, os.path.abspath(source), status.st_size, status.st_mtime_ns)
        found = receiver.look(self._target, part)
        there = found.there_bytes if self._wish.is_resumed else 0
        if there > status.st_size:
            there = 0
        title = f"put {source}"
        with self._alone(found, part), Progress(self._vm.io, title, status.st_size) as progress:
            with self._kept(receiver, found, part):
                send_file(receiver, found, part, fd, there=there, tell=progress.tell)
            receiver.place(
                found, part, found.name or name, size=status.st_size, mode=f"{status.st_mode & 0o7777:o}",
                mtime_s=int(status.st_mtime),
            )  # fmt: skip
        done.files, done.bytes, done.resumed_bytes = 1, status.st_size, there

    @contextlib.contextmanager
    def _alone(self, found: Found, part: str) -> Iterator[None]:
        """The part for this process alone: a lock in the runtime folder, on a byte that stands for it.

        Raises:
            QvmError: another process writes to it.
        """
        note = launch_record.read(self._vm.files)
        if note is None:  # it has just ended, which is found out soon
            yield
            return
        with open(note.socket("put.lock"), "ab") as lock:
            if not locks.take_byte(lock.fileno(), zlib.crc32(os.fsencode(f"{found.folder}/{part}"))):
                raise in_use(self._vm.name, f"{found.folder} in the guest")
            yield

    @contextlib.contextmanager
    def _kept(self, receiver: Receiver, found: Found, part: str) -> Iterator[None]:
        """Keep the part of a copy that is interrupted, and only then."""
        try:
            yield
        except (GuestUnreachableError, DeadlineError) as error:
            error.hint = RESUME.format("put")
            raise
        except outgoing.Shorter:
            receiver.remove(found, part)
            raise QvmError(
                f"cannot put {self._wish.sources[0]}: it became shorter while it was read",
                machine=self._vm.name,
            ) from None
        except Exception:
            receiver.remove(found, part)
            raise

    def _tree(self, receiver: Receiver, done: Done) -> None:
        sources = self._wish.sources
        part = f".put.part-{secrets.token_hex(4)}"
        found = receiver.look(self._target, part)
        if len(sources) > 1 and found.name:
            raise UsageError(
                f"put: {self._wish.target} is not a directory in the guest",
                hint=f"`qvm put ... {self._wish.target}/` makes one",
            )
        if found.is_file and os.path.isdir(sources[0]):
            raise QvmError(
                f"cannot put {sources[0]}: {self._wish.target} in the guest is a file; nothing was copied",
                machine=self._vm.name,
            )
        title = sources[0] if len(sources) == 1 else f"{len(sources)} sources"
        with self._vm.io.stage(f"put {title}") as stage, receiver.removed_by_failure(found, part):
            tops = [(each, found.name or name_of(each)) for each in sources]
            receiver.tree(found, part, tops, done, stage.progress)
        for path, name in done.left:
            with _opened(self._vm, os.fsdecode(path)) as fd:
                self._nested(receiver, done, fd, os.path.join(found.folder, os.fsdecode(name)))

    def _nested(self, receiver: Receiver, done: Done, fd: int, target: str) -> None:
        """A file of a folder that is copied by itself."""
        status = os.fstat(fd)
        part = part_name(os.path.basename(target), secrets.token_hex(8))
        found = receiver.look(target, part)
        with receiver.removed_by_failure(found, part):
            send_file(receiver, found, part, fd, there=0, tell=lambda _: None)
            receiver.place(
                found, part, found.name, size=status.st_size, mode=f"{status.st_mode & 0o7777:o}",
                mtime_s=int(status.st_mtime),
            )  # fmt: skip
        done.files += 1
        done.bytes += status.st_size


@contextlib.contextmanager
def _opened(vm: BaseMachine, source: str) -> Iterator[int]:
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise QvmError(f"cannot put {source}: {error.strerror}", machine=vm.name) from None
    try:
        yield fd
    finally:
        os.close(fd)


def send_file(
    receiver: Receiver, found: Found, part: str, fd: int, *, there: int, tell: Callable[[int], None]
) -> None:
    """Write an open file to its part, but for its first `there` bytes and its holes."""
    status = os.fstat(fd)
    has_holes = outgoing.is_sparse(status) and found.has_holes
    runs = _runs(fd) if has_holes else [(0, status.st_size)]
    left = [(max(begin, there), sum((begin, length)) - max(begin, there)) for begin, length in runs]
    left = [run for run in left if run[1] > 0]
    is_on = bool(there)
    for piece in _pieces(left, receiver.piece_bytes) or [[]]:

        def produce(write: Callable[[bytes], None], piece: list[Run] = piece) -> None:
            for begin, length in piece:
                at = begin
                for data in outgoing.slices(fd, begin, length):
                    write(data)
                    at += len(data)
                    tell(at)

        receiver.write(found, part, (piece or [(0, 0)]) if has_holes else [], produce, is_on=is_on)
        is_on = True


def _runs(fd: int) -> list[Run]:
    """Where a file holds data; small holes count as data where there are many."""
    runs, least = list(scan.look(fd).runs), 1 << 20
    while len(runs) > MOST_RUNS:
        wide: list[Run] = []
        for begin, length in runs:
            if wide and begin - sum(wide[-1]) < least:
                wide[-1] = (wide[-1][0], begin + length - wide[-1][0])
            else:
                wide.append((begin, length))
        runs, least = wide, least * 4
    return runs


def _pieces(runs: list[Run], most: int) -> list[list[Run]]:
    """Runs in groups of at most `most` bytes."""
    found: list[list[Run]] = []
    room = 0
    for begin, length in runs:
        while length:
            if not room:
                found.append([])
                room = most
            count = min(length, room)
            found[-1].append((begin, count))
            begin, length, room = begin + count, length - count, room - count
    return found
