"""One command for several machines in parallel: one process each, their lines as they arrive.

A process for each machine keeps Ctrl-C, working directories and failures apart. Every failure is
reported; the exit status is the largest of all.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys

from qvmsh.config.words import quote
from qvmsh.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, StateError, Terminated, visible
from qvmsh.host import process
from qvmsh.io import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO, Any

    from qvmsh.cli.parse import Bound
    from qvmsh.cli.targets import Job
    from qvmsh.io import Io

JOIN = ","


def run(bound: Bound, jobs: Sequence[Job], io: Io, most: int) -> int:
    """Run the bound command for each of `jobs` and return the worst exit status.

    Args:
        most: how many may run at the same time.
    """
    crowd = _Crowd(bound, jobs, io, most)
    crowd.run()
    if io.json:
        documents = [crowd.documents[at].strip() for at in range(len(jobs)) if crowd.documents.get(at)]
        io.write(f'{{"version": 1, "command": "{bound.entry.verb}", "machines": [{JOIN.join(documents)}]}}\n')
    return max(crowd.worst, *crowd.statuses.values(), 0)


def run_one_by_one(bound: Bound, jobs: Sequence[Job]) -> int:
    """As `run`, for a command that asks: one after the other, on the caller's terminal."""
    worst = 0
    for job in jobs:
        child = process.begin(_argv(bound, job))
        while child.returncode is None:
            try:
                child.wait()
            except KeyboardInterrupt:  # the child gets it too, and ends cleanly
                continue
            except Terminated:
                child.terminate()
        status = child.returncode
        worst = max(worst, 128 - status if status < 0 else status)
        if status in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            break
    return worst


def _argv(bound: Bound, job: Job) -> list[str]:
    """The command line of a process for one machine."""
    if job.snapshots:
        line = ["-C", job.directory, "snapshot", "delete", *(["--json"] if bound.common.get("json") else [])]
        return [sys.executable, "-P", "-m", "qvmsh", *line, "--", *job.snapshots]
    return [sys.executable, "-P", "-m", "qvmsh", *words(bound, job.directory)]


def words(bound: Bound, directory: str | None) -> list[str]:
    """The command line of `bound` for the machine in `directory` (None = as the words say)."""
    found = [] if directory is None else ["-C", directory]
    for name, value in bound.common.items():
        if name == "set":
            found += [part for each in value for part in ("--set", each)]
        elif value is True:
            found.append({"json": "--json", "verbose": "-v", "silent": "-q", "debug": "--debug"}[name])
    found += bound.entry.verb.split()
    rows: dict[str, tuple[Any, ...]] = {row[0]: row for row in bound.entry.options}
    last: list[str] = []
    for name, value in bound.options.items():
        kind, flag = rows[name][1], rows[name][2][-1]
        if kind in ("yes", "no"):
            found.append(flag)
        elif kind == "last":  # everything after its value is a word
            last = [flag, str(value)]
        else:
            found += [
                part
                for each in (value if isinstance(value, tuple) else (value,))
                for part in (flag, str(each))
            ]
    if bound.entry.words == "machines" or not bound.words:  # the directory names the machine
        return [*found, *last]
    return [*found, *last, *bound.words] if last else [*found, "--", *bound.words]


class _Crowd:
    """The processes of one command: what waits, what runs, what has ended.

    Args:
        jobs: each after those that it waits for.
    """

    def __init__(self, bound: Bound, jobs: Sequence[Job], io: Io, most: int) -> None:
        self.bound = bound
        self.jobs = list(jobs)
        self.io = io
        self.most = most
        self.statuses: dict[str, int] = {}
        """Exit status by directory of what has ended."""
        self.documents: dict[int, str] = {}
        """With `--json`: the output of each job."""
        self.worst = 0
        """Exit status of what was not begun."""
        self._waiting = list(range(len(jobs)))
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._rests: dict[Any, bytes] = {}
        self._chooser = selectors.DefaultSelector()

    def run(self) -> None:
        while self._waiting or self._running:
            try:
                self._begin()
                self._relay()
            except KeyboardInterrupt:  # the running ones get it too, and end cleanly
                self._leave_rest(EXIT_INTERRUPTED)
            except Terminated:
                self._leave_rest(EXIT_TERMINATED)
                for child in self._running.values():
                    child.terminate()

    def _leave_rest(self, status: int) -> None:
        """Begin no more; what is not begun makes the exit status that of the interruption."""
        if self._waiting:
            self.worst = status
        self._waiting.clear()

    def _begin(self) -> None:
        """Begin what may begin; leave out what waits for a failure."""
        for at in list(self._waiting):
            job = self.jobs[at]
            failed = [each for each in job.waits if self.statuses.get(os.path.realpath(each))]
            if failed:
                self._waiting.remove(at)
                self._leave_out(at, os.path.realpath(failed[0]))
            elif len(self._running) < self.most and all(each in self.statuses for each in job.waits):
                self._waiting.remove(at)
                self._launch(at)

    def _launch(self, at: int) -> None:
        child = self._running[at] = subprocess.Popen(
            _argv(self.bound, self.jobs[at]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=os.getcwd(),
        )
        for stream, is_stdout in ((child.stdout, True), (child.stderr, False)):
            assert stream is not None
            self._chooser.register(stream, selectors.EVENT_READ, (at, is_stdout))

    def _leave_out(self, at: int, failed: str) -> None:
        """Report a machine whose command was not begun, since another's failed."""
        job, verb = self.jobs[at], self.bound.entry.verb
        other = next(each.name for each in self.jobs if os.path.realpath(each.directory) == failed)
        relation = "which requires it" if verb == "stop" else "which is required"
        error = StateError(
            f"cannot {verb}: {other}, {relation} (VM_REQUIRES), failed", machine=job.name,
            hint=f"`qvm -C {quote(job.directory)} {verb}` does it all the same",
        )  # fmt: skip
        if verb == "delete":
            error.what = f"cannot delete: {other}, which needs disks of it, was not deleted"
            error.hint = None
        self.statuses[os.path.realpath(job.directory)] = error.status
        if self.io.json:
            from qvmsh.qemu.qmp import dumps

            self.documents[at] = dumps({"version": 1, "command": verb, "error": error.as_json()})
        tell(self.io.stderr, "\n".join(error.lines()))

    def _relay(self) -> None:
        """Forward the processes' complete lines; with `--json` collect their documents instead."""
        for key, _ in self._chooser.select() if self._running else ():
            stream: IO[bytes] = key.fileobj  # type: ignore[assignment]  # only pipes are registered
            at, is_stdout = key.data
            data = os.read(stream.fileno(), 65536)
            text = self._rests.pop(key.fd, b"") + data
            whole, mark, rest = text.rpartition(b"\n")
            self._rests[key.fd] = rest
            lines = (whole + mark).decode(errors="replace")
            if not data:
                self._chooser.unregister(stream)
                lines += self._rests.pop(key.fd).decode(errors="replace")
            if is_stdout and self.io.json:
                self.documents[at] = self.documents.get(at, "") + lines
            elif lines and is_stdout:
                self.io.write(visible(lines))
            elif lines:
                tell(self.io.stderr, lines, end="")
            if not data:
                self._end(at)

    def _end(self, at: int) -> None:
        """Note the exit status of a process once both its streams are closed."""
        if any(key.data[0] == at for key in self._chooser.get_map().values()):
            return
        status = self._running[at].wait()
        del self._running[at]
        self.statuses[os.path.realpath(self.jobs[at].directory)] = 128 - status if status < 0 else status
