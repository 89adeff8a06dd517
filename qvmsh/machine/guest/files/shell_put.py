"""The guest as a target, by its shell and its tar; see `receivers.Receiver`."""

from __future__ import annotations

import contextlib
import os
import time

from qvmsh.errors import DeadlineError, GuestUnreachableError, QvmError
from qvmsh.machine.guest.files import scripts
from qvmsh.machine.guest.files.names import is_number, split
from qvmsh.machine.guest.files.outgoing import Packing
from qvmsh.machine.guest.files.receivers import Found
from qvmsh.machine.guest.wish import Unusable
from qvmsh.machine.progress import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qvmsh.machine.guest.files.limits import Limit
    from qvmsh.machine.guest.files.receivers import Done
    from qvmsh.machine.guest.files.ways import Produce, Way
    from qvmsh.machine.guest.result import Result
    from qvmsh.machine.machine import BaseMachine

LAST_S = 253_402_300_800
"""What `touch -t` cannot name: the year 10000."""
_REASONS = {
    "special": "it is a device, a FIFO or a socket",
    "lost": "its directory does not exist",
}


class ShellReceiver:
    """See `receivers.Receiver`."""

    def __init__(self, vm: BaseMachine, way: Way, limit: Limit) -> None:
        self._vm = vm
        self._limit = limit
        self._way = way
        self.name = way.name
        self.piece_bytes = way.piece_bytes

    def look(self, target: str, part: str) -> Found:
        folder, name = split(target)
        done = self._way.ask(scripts.LOOK_AT_TARGET, [target, folder, part])
        rows = [line.split() for line in done.lines if line.startswith("qvm ")]
        if not rows or len(rows[-1]) != 5 or not is_number(rows[-1][4]):
            raise Unusable(f"the account has no POSIX shell: {_last(done) or 'no answer'}")
        _, kind, tar, dd, there = rows[-1]
        if kind in _REASONS:
            raise QvmError(
                f"cannot put {target} in the guest: {_REASONS[kind]}; nothing was copied",
                machine=self._vm.name,
                hint="`qvm exec mkdir -p DIRECTORY` makes one" if kind == "lost" else None,
            )  # fmt: skip
        is_into = kind in ("folder", "new") or not name
        return Found(
            target if is_into else folder,
            "" if is_into else name,
            is_new=kind == "new",
            is_file=kind == "file",
            has_tar=tar != "none",
            has_gnu_tar=tar == "gnu",
            has_holes=dd == "holes",
            there_bytes=int(there),
        )

    def write(
        self, found: Found, part: str, runs: list[tuple[int, int]], produce: Produce, *, is_on: bool
    ) -> None:
        rows = [str(each) for run in runs for each in run]
        words = [found.folder, "new" if found.is_new else "-", part, "on" if is_on else "-", *rows]
        self._require(self._way.send(scripts.WRITE, words, produce), found)

    def place(self, found: Found, part: str, name: str, *, size: int, mode: str, mtime_s: int | None) -> None:
        stamp = ""
        if mtime_s is not None and 0 <= mtime_s < LAST_S:
            stamp = time.strftime("%Y%m%d%H%M.%S", time.gmtime(mtime_s))
        words = [found.folder, part, str(size), mode, stamp, f"./{name}"]
        with self._limit.flushing():
            self._require(self._way.ask(scripts.PLACE_FILE, words), found)

    def tree(
        self,
        found: Found,
        part: str,
        tops: list[tuple[str, str]],
        done: Done,
        show: Callable[[str], None],
    ) -> None:
        if not found.has_tar:
            raise Unusable("the guest has no tar")
        packed: list[Packing] = []

        def produce(write: Callable[[bytes], None]) -> None:
            packing = Packing(
                write, is_gnu=found.has_gnu_tar, tell=lambda count: show(size(count)),
                checkpoint=self._vm.io.checkpoint,
            )  # fmt: skip
            packed.append(packing)
            for path, name in tops:
                packing.add(os.fsencode(path), os.fsencode(name))
            packing.end()

        words = [found.folder, "new" if found.is_new else "-", part]
        self._require(self._way.send(scripts.UNPACK, words, produce), found)
        (packing,) = packed
        rows = [f"rm -f -- {_quoted(part, os.fsdecode(name))}" for name in packing.incomplete]
        rows += [
            f"chmod {mode:o} {_quoted(part, os.fsdecode(name))} || bad=1"
            for mode, name in packing.closed_folders()
        ]
        for path, name in tops:
            mode = f"{os.stat(path).st_mode & 0o7777:o}" if os.path.isdir(path) else ""
            rows.append(f"one {_quoted(part, name)} {scripts.quoted(f'./{name}')} '{mode}'")
        text = "\n".join(rows).encode(errors="surrogateescape")
        with self._limit.flushing():
            placed = self._way.ask(scripts.PLACE, [found.folder, part], text)
        done.files, done.bytes, done.left = packing.files, packing.bytes, packing.sparse
        done.failed += packing.failed
        if placed.status == 1 and placed.stderr:
            done.failed += placed.stderr.splitlines()
        else:
            self._require(placed, found)

    def remove(self, found: Found, part: str) -> None:
        with contextlib.suppress(GuestUnreachableError, DeadlineError, Unusable):
            self._way.ask(scripts.REMOVE, [found.folder, part])

    @contextlib.contextmanager
    def removed_by_failure(self, found: Found, part: str) -> Iterator[None]:
        try:
            yield
        except (GuestUnreachableError, DeadlineError):
            raise  # there is no way to it
        except BaseException:
            self.remove(found, part)
            raise

    def _require(self, done: Result, found: Found) -> None:
        """Raise if a script has failed."""
        if done:
            return
        words = [line for line in done.stderr.splitlines() if line.strip()]
        why = _last(done) or f"status {done.status}"
        hint = None
        if any("No space left" in each for each in words):
            why, hint = "no space is left on its disk", "`qvm exec df -h` shows the guest's file systems"
        raise QvmError(
            f"cannot write to {found.folder} in the guest: {why}", machine=self._vm.name,
            details=words[-3:], hint=hint,
        )  # fmt: skip


def _quoted(part: str, name: str) -> str:
    return scripts.quoted(f"{part}/{name}")


def _last(done: Result) -> str:
    """The last line of its messages."""
    return next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "")
