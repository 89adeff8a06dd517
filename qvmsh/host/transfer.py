"""Moving large files: copied with their holes, hashed on the way, compressed on request.

    with open("demo-backing.qcow2", "rb") as source:
        sent = send(source.fileno(), target_fd, tell, checkpoint)      # sent.xxh128, sent.stored_bytes

The checksum is that of what is stored, so any host can check it; SHA-256 is slower than a good disk.
It is made by a second thread that reads behind the copy, from the host's cache.
Of a file that is nearly all holes only the data is hashed; such a checksum begins with `data:`.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import threading
from dataclasses import dataclass
from functools import partial

import xxhash

from qvmsh.errors import QvmError
from qvmsh.host import checksum, files
from qvmsh.host.compression import compressor
from qvmsh.host.files import SLICE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from qvmsh.host.checksum import Sum

    Tell = Callable[[int], None]
    """Called with the number of bytes of the source that are done."""

PACE_BYTES = 16 << 20
"""How much a gentle copy writes before the earlier part must be on the disk."""
HOLES_BYTES = 16 << 30
"""A file with holes of so many bytes gets a checksum of its data alone: hashing zeros takes time too."""


@dataclass(frozen=True)
class Sent:
    """What was stored: the number of bytes, and their checksum (see `_Sum`)."""

    stored_bytes: int
    xxh128: str


def send(
    source: int,
    target: int,
    tell: Tell,
    checkpoint: Callable[[], None],
    *,
    compression: str = "",
    is_gentle: bool = False,
    like: str | None = None,
) -> Sent:
    """Copy the open file `source` to `target` (an empty file, or a pipe).

    Args:
        compression: key of `compression.COMPRESSORS`, "" for none.
        like: a checksum of the wanted kind; None for the kind that suits the file.
        is_gentle: other programs use that disk: what is written reaches it in small parts, since a
            `fsync` of theirs waits for all that is cached.

    Raises:
        OSError: it cannot be written (ENOSPC), or read.
        QvmError: the compressor failed.
    """
    if compression:
        return _through(compressor(compression), source, target, tell, checkpoint)
    if not stat.S_ISREG(os.fstat(target).st_mode):
        return _stream(source, target, tell, checkpoint, checksum.like(""))
    pace = _Pace(target) if is_gentle else None

    def reached(at: int) -> None:
        if pace:
            pace.reached(at)
        tell(at)
        checkpoint()

    if like is None:
        status = os.fstat(source)
        like = checksum.OF_DATA if status.st_size - status.st_blocks * 512 >= HOLES_BYTES else ""
    hashing = checksum.Hashing(source, checksum.like(like))
    try:
        files.copy_open(source, target, reached)
        while not hashing.join(0.2):
            checkpoint()
    except BaseException:
        hashing.stop()
        raise
    return Sent(os.fstat(target).st_size, hashing.digest())


class _Pace:
    """Keeps little of a file that is being written in the host's cache: sync_file_range(2)."""

    _WAIT, _BEGIN = 1 | 2 | 4, 2

    def __init__(self, fd: int) -> None:
        import ctypes

        self._fd = fd
        self._begun = self._done = 0
        self._call: Callable[..., int] | None = getattr(ctypes.CDLL(None), "sync_file_range", None)
        self._offset = ctypes.c_int64

    def reached(self, at: int) -> None:
        """Begin to write back all up to `at`, and wait for the previous part."""
        if at - self._begun < PACE_BYTES:
            return
        self._sync(self._begun, at, self._BEGIN)
        self._sync(self._done, self._begun, self._WAIT)
        self._done, self._begun = self._begun, at

    def _sync(self, begin: int, end: int, flags: int) -> None:
        if self._call and end > begin:  # a length of 0 means all
            self._call(self._fd, self._offset(begin), self._offset(end - begin), flags)


def _stream(source: int, target: int, tell: Tell, checkpoint: Callable[[], None], found: Sum) -> Sent:
    """Copy to or from a pipe, hashing what passes."""
    write = _Sparse(target).write if stat.S_ISREG(os.fstat(target).st_mode) else partial(write_all, target)
    while data := os.read(source, SLICE_BYTES):
        found.update(data)
        write(data)
        tell(found.size)
        checkpoint()
    return Sent(found.size, found.digest())


class _Sparse:
    """An empty file that is written from its beginning to its end, with holes where there are only zeros."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def write(self, data: bytes) -> None:
        """Write the next bytes."""
        begin = 0
        while begin < len(data):
            end = min(len(data), begin + checksum.BLOCK_BYTES - (self._at + begin) % checksum.BLOCK_BYTES)
            block = data[begin:end]
            if block != checksum.ZEROS[: len(block)]:
                files.write_at(self._fd, block, self._at + begin)
            begin = end
        self._at += len(data)
        os.ftruncate(self._fd, self._at)


class _Receiving:
    """Writes a program's output into an empty file, by a thread: the program must not wait."""

    def __init__(self, source: IO[bytes], target: int) -> None:
        self._source = source
        self._target = target
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        file = _Sparse(self._target)
        with self._source:  # closed early, the program ends
            try:
                while data := os.read(self._source.fileno(), 1 << 20):
                    file.write(data)
            except OSError as error:
                self._error = error

    def join(self) -> None:
        """Wait until the program's output ends, or cannot be written."""
        self._thread.join()

    def end(self) -> None:
        """Wait until all is written."""
        self.join()
        if self._error:
            raise self._error


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, however many writes it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def widen_pipe(fd: int, size_bytes: int) -> None:
    """Let a pipe hold more, where the kernel allows it: fewer changes of process."""
    import fcntl

    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size_bytes)
    except OSError:
        pass


def _ending_with_us() -> list[str]:
    """Words in front of a program that must end with qvm: the kernel ends it if qvm is killed.

    Source: setpriv(1) of util-linux, PR_SET_PDEATHSIG; without it the program's next write ends it.
    """
    found = shutil.which("setpriv")
    return [found, "--pdeathsig", "KILL", "--"] if found else []


def _through(argv: list[str], source: int, target: int, tell: Tell, checkpoint: Callable[[], None]) -> Sent:
    """Have a program read `source`; store and hash what it writes."""
    with subprocess.Popen(
        [*_ending_with_us(), *argv], stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        try:
            total, found = 0, xxhash.xxh3_128()
            while data := os.read(child.stdout.fileno(), 1 << 20):
                found.update(data)
                write_all(target, data)
                total += len(data)
                tell(_position(source))
                checkpoint()
        except BaseException:
            child.kill()
            raise
        _require_success(child, f"{argv[0]} failed")
    return Sent(total, found.hexdigest())


def _require_success(child: subprocess.Popen[bytes], failure: str) -> None:
    """Wait for a program; a terminal's Ctrl-C ends it too, and in a thread is noticed here first."""
    words = child.stderr.read().decode(errors="replace").splitlines() if child.stderr else []
    if child.wait() == -signal.SIGINT:
        raise KeyboardInterrupt
    if child.returncode:
        raise QvmError(f"{failure} ({child.returncode})", details=words[-3:])


def _position(fd: int) -> int:
    """How far a child that shares the open file has read it."""
    try:
        return os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        return 0


def copy(source: int, target: int, tell: Tell, checkpoint: Callable[[], None]) -> Sent:
    """Copy an open file to an empty one, sharing blocks where the file system can; without a checksum."""

    def reached(done_bytes: int) -> None:
        tell(done_bytes)
        checkpoint()

    files.copy_open(source, target, reached)
    return Sent(os.fstat(target).st_size, "")


def fetch(
    source: int,
    target: int,
    tell: Tell,
    checkpoint: Callable[[], None],
    *,
    compression: str = "",
    like: str = "",
) -> Sent:
    """The reverse: copy what is stored to `target`, decompressed; the checksum is of what was stored.

    `target` is an empty file; where the source has zeros it gets holes.

    Args:
        like: the recorded checksum, with which the new one is to be compared.

    Raises:
        OSError: as `send`.
        QvmError: the decompressor failed: what is stored is damaged.
    """
    if not compression and stat.S_ISREG(os.fstat(source).st_mode):
        return send(source, target, tell, checkpoint, like=like)
    if not compression:
        return _stream(source, target, tell, checkpoint, checksum.like(like))
    argv = [compressor(compression)[0], "-d", "-q", "-c"]
    with subprocess.Popen(
        [*_ending_with_us(), *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        receiving = _Receiving(child.stdout, target)
        try:
            sent = _stream(source, child.stdin.fileno(), tell, checkpoint, checksum.like(like))
            child.stdin.close()
            receiving.end()
        except BrokenPipeError:  # it ended first, and its message says why
            sent = Sent(0, "")
            receiving.end()
        except BaseException:
            child.kill()
            receiving.join()
            raise
        _require_success(child, f"{argv[0]} cannot decompress it")
    return sent


def digest(source: int, tell: Tell, checkpoint: Callable[[], None], *, like: str = "") -> Sent:
    """Bytes and checksum of an open file or pipe.

    Args:
        like: as for `fetch`.
    """
    found = checksum.like(like)
    if stat.S_ISREG(os.fstat(source).st_mode):
        checksum.add_file(source, found, checkpoint, tell)
    else:
        buffer = bytearray(1 << 20)
        while count := os.readv(source, [buffer]):
            found.update(memoryview(buffer)[:count])
            tell(found.size)
            checkpoint()
    return Sent(found.size, found.digest())
