"""The compressed stream of a package: through the host's programs, several processors at once where they can.

with compressed(target_fd, "zstd") as write: write(data)
with opened(fd, checkpoint) as read: read(512)       # how it is compressed is seen from its content
"""

from __future__ import annotations

import contextlib
import gzip
import os
import subprocess
import threading

from qvmsh.errors import ImageError, QvmError
from qvmsh.host import process
from qvmsh.host.compression import compressor
from qvmsh.host.transfer import widen_pipe, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = {"gz": "gzip", "zst": "zstd", "xz": "xz", "none": ""}
"""The values of `export -z`: the suffix behind `.tar`, and the program."""
_MAGICS = (
    (b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
)  # fmt: skip
_MORE = {"gzip": ["-n"]}
"""Neither the name nor the time of what is compressed gets into the package."""
_LIMITS = {"xz": ["--memlimit-decompress=1GiB"], "zstd": ["--memory=512MB"]}
_HEAD_BYTES = 6
_PIPE_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 17
"""The largest block of a frame of zstd."""


@contextlib.contextmanager
def compressed(target: int, kind: str) -> Iterator[Callable[[bytes], None]]:
    """What is written goes to the file `target`, compressed; all of it once the block ends.

    Args:
        kind: key of COMPRESSORS, "" for none.

    Raises:
        OSError: it cannot be written.
        QvmError: the compressor is missing, or failed.
    """
    if not kind:
        yield lambda data: write_all(target, data)
        return
    argv = [*compressor(kind), *_MORE.get(kind, [])]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=target, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None
        fd = child.stdin.fileno()
        widen_pipe(fd, _PIPE_BYTES)
        try:
            yield lambda data: write_all(fd, data)
            child.stdin.close()
        except BrokenPipeError:  # it ended first, and its message says why
            _require_success(child, argv[0])
            raise
        except BaseException:
            child.kill()
            raise
        _require_success(child, argv[0])


def stored(kind: str, data: bytes) -> bytes | None:
    """`data` as a stream of its own that is not compressed, so that its length follows from that of `data`.

    Any decompressor reads it together with the stream behind it. None for a kind that has no such form.
    Source: RFC 1952; RFC 8878, 3.1.1 (a frame of raw blocks).
    """
    if kind == "gzip":
        return gzip.compress(data, 0, mtime=0)
    if kind != "zstd":
        return None if kind else data
    found = [b"\x28\xb5\x2f\xfd\xa0", len(data).to_bytes(4, "little")]
    for at in range(0, len(data), _BLOCK_BYTES):
        block = data[at : at + _BLOCK_BYTES]
        is_last = at + _BLOCK_BYTES >= len(data)
        found += [(len(block) << 3 | is_last).to_bytes(3, "little"), block]
    return b"".join(found)


def _require_success(child: subprocess.Popen[bytes], program: str) -> None:
    words = child.stderr.read().decode(errors="replace").splitlines() if child.stderr else []
    if child.wait() == -process.SIGINT:
        raise KeyboardInterrupt
    if child.returncode == -13:  # SIGPIPE: nobody reads what it writes
        raise BrokenPipeError
    if child.returncode:
        is_full = any("No space left" in each for each in words)
        hint = "free some space; nothing was left behind" if is_full else None
        raise QvmError(f"{program} cannot compress the package", details=words[-3:], hint=hint)


class Source:
    """A package that is being read.

    Args:
        fd: a file or a pipe.
        label: what messages call it.

    Raises:
        ImageError: it is truncated, or the decompressor refuses it.
    """

    def __init__(self, fd: int, label: str) -> None:
        self._fd = fd
        self._label = label
        self._head = b""
        while len(self._head) < _HEAD_BYTES:
            data = os.read(fd, _HEAD_BYTES - len(self._head))
            if not data:
                break
            self._head += data
        if not self._head:
            raise ImageError(f"{label}: it is empty", hint="get the package again")
        self.kind = next((kind for magic, kind in _MAGICS if self._head.startswith(magic)), "")
        self._child: subprocess.Popen[bytes] | None = None
        self._from = fd
        self._is_ended = False
        if self.kind:
            self._begin()
            self._head = b""

    def _begin(self) -> None:
        argv = [compressor(self.kind)[0], "-d", "-q", "-c", *_LIMITS.get(self.kind, [])]
        is_seekable = True
        try:
            os.lseek(self._fd, -len(self._head), os.SEEK_CUR)
        except OSError:
            is_seekable = False
        self._child = child = subprocess.Popen(
            argv, stdin=self._fd if is_seekable else subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        self._from = child.stdout.fileno()
        widen_pipe(self._from, _PIPE_BYTES)
        if child.stdin is not None:
            threading.Thread(target=self._pump, args=(child.stdin.fileno(), self._head), daemon=True).start()

    def _pump(self, target: int, head: bytes) -> None:
        """Pass a pipe on, from the beginning that was looked at."""
        assert self._child is not None
        assert self._child.stdin is not None
        with contextlib.suppress(OSError):
            data = head
            while data:
                write_all(target, data)
                data = os.read(self._fd, _PIPE_BYTES)
        with contextlib.suppress(OSError):
            self._child.stdin.close()

    def position(self) -> int:
        """How many bytes of the file have been read; 0 for a pipe."""
        try:
            return os.lseek(self._fd, 0, os.SEEK_CUR)
        except OSError:
            return 0

    def read(self, count: int) -> bytes:
        """The next bytes of the tar file; fewer than asked for only at its end."""
        pieces, left = [self._head[:count]], count - len(self._head[:count])
        self._head = self._head[count:]
        while left and not self._is_ended:
            data = os.read(self._from, left)
            if not data:
                self._is_ended = True
                self._require_whole()
            pieces.append(data)
            left -= len(data)
        return b"".join(pieces)

    def _require_whole(self) -> None:
        child = self._child
        if child is None:
            return
        words = child.stderr.read().decode(errors="replace").splitlines() if child.stderr else []
        if child.wait() == -process.SIGINT:
            raise KeyboardInterrupt
        if child.returncode:
            program = compressor(self.kind)[0]
            raise ImageError(
                f"{self._label}: it is damaged or truncated: {program} cannot decompress it",
                details=words[-2:], hint="get the package again",
            )  # fmt: skip

    def close(self) -> None:
        """End the decompressor, wherever it is."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdout, self._child.stderr):
                if pipe is not None:
                    pipe.close()


def kind_of(path: str) -> str | None:
    """The key of KINDS that a file's name means; None if it has none of these endings."""
    for suffix in KINDS:
        ending = ".tar" if suffix == "none" else f".tar.{suffix}"
        if path.endswith(ending):
            return suffix
    return {"tgz": "gz", "tzst": "zst", "txz": "xz"}.get(path.rpartition(".")[2])
