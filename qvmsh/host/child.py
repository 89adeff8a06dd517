"""A child process with pipes for what it writes: what `subprocess.Popen` does, for a tenth of its import.

child = Child(["ssh", "guest", "true"], stdin=0)
os.read(child.stdout, 65536); child.wait()
"""

from __future__ import annotations

import os
from _signal import SIGKILL, SIGPIPE, SIGXFSZ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Child:
    """A program that runs.

    Args:
        stdin: its standard input.
        is_leader: it gets a session of its own, without a terminal.

    `stdout` and `stderr` are descriptors of what it writes; `pidfd` can be read once it has ended. The caller
    calls `close`.

    Raises:
        FileNotFoundError: there is no such program.
    """

    def __init__(self, argv: Sequence[str], *, stdin: int, is_leader: bool = False) -> None:
        self._status: int | None = None
        self.stdout, out = os.pipe()
        self.stderr, errors = os.pipe()
        try:
            self.pid = os.posix_spawnp(
                argv[0],
                [*argv],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, at) for at, fd in enumerate((stdin, out, errors))],
                setsid=is_leader,
                setsigdef=[SIGPIPE, SIGXFSZ],  # Python ignores them
            )
        except BaseException:
            os.close(self.stdout)
            os.close(self.stderr)
            raise
        finally:
            os.close(out)
            os.close(errors)
        self.pidfd = os.pidfd_open(self.pid)

    def wait(self) -> int:
        """Its exit status, -N after signal N."""
        if self._status is None:
            try:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:  # somebody else has waited for it
                self._status = 0
        return self._status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has been waited for."""
        if self._status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(SIGKILL)

    def close(self) -> None:
        """Close the descriptors, and wait for its end."""
        for fd in (self.stdout, self.stderr, self.pidfd):
            os.close(fd)
        self.wait()
