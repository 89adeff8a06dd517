"""Processes of this host: what they are, waiting for their end, ending them.

A pid alone may be reused: before a signal, open a pidfd and check again what it is::

    with Process(pid) as qemu:
        qemu.signal(SIGTERM)
        qemu.wait(5.0)

Source: pidfd_open(2), proc(5).
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from subprocess import Popen
    from typing import Any

SIGINT, SIGKILL, SIGTERM, SIGCONT, SIGTSTP = 2, 9, 15, 18, 20


def exists(pid: int) -> bool:
    """True if there is a process `pid` that is not a zombie."""
    state = run_state(pid)
    return state is not None and state not in "ZX"


def run_state(pid: int) -> str | None:
    """The kernel's letter (R, S, D, T, t, Z ...), None if there is no such process."""
    fields = _stat(pid)
    return fields[0] if fields else None


def is_stopped(pid: int) -> bool:
    """True if a signal (SIGSTOP, SIGTSTP) or a debugger stopped the process."""
    return (run_state(pid) or "") in ("T", "t")


def is_without_terminal(pid: int) -> bool:
    """True if another job owns the process' terminal: reading there stops the process."""
    fields = _stat(pid)
    return len(fields) > 5 and fields[4] != "0" and fields[2] != fields[5]


def age_s(pid: int) -> float:
    """Seconds since the process began."""
    fields = _stat(pid)
    if not fields:
        return 0.0
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return max(0.0, uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK"))


def arguments(pid: int) -> list[str]:
    """The argument list of the process; empty where it cannot be read."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return []


def read_bytes(pid: int) -> int:
    """How much the process has read so far, from files and otherwise; 0 if unknown."""
    return _transferred(pid).get("rchar", 0)


def moved_bytes(pid: int) -> int:
    """How much it has read and written: this grows while it works, not while it hangs."""
    found = _transferred(pid)
    return found.get("rchar", 0) + found.get("wchar", 0)


def _transferred(pid: int) -> dict[str, int]:
    try:
        with open(f"/proc/{pid}/io") as file:
            return {name: int(value) for name, _, value in (line.partition(": ") for line in file)}
    except (OSError, ValueError):
        return {}


def is_interrupted() -> bool:
    """A SIGINT or SIGTERM waits until `Shielded` ends."""
    from signal import sigpending

    return bool(sigpending() & {SIGINT, SIGTERM})


def signal_name(number: int) -> str:
    """`SIGABRT`, or `signal 64` for one without a name."""
    from signal import Signals

    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def number(text: str) -> int:
    """The pid, port or time in a file of qvm; 0 for anything else that it may hold."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0


class LockHolders:
    """The processes that were begun with a word and hold a record lock: for many questions at one moment.

    A lock outlives the name of its file. Source: proc_locks(5), proc_pid_cmdline(5).

    Args:
        word: among their arguments.
    """

    __slots__ = ("_found", "_holding", "_word")

    def __init__(self, word: str) -> None:
        self._word = word
        self._found: list[_Begun] | None = None
        self._holding: set[int] | None = None

    def directories(self) -> set[str]:
        """Where those that were begun with the word work."""
        return {row[2] for row in self._rows()}

    def find(self, directory: str, words: list[str], uids: Callable[[], set[int]]) -> int | None:
        """Pid of a process that works in `directory` and has `words` among its arguments.

        Args:
            uids: the accounts whose process it may be; asked only if there is one.
        """
        rows = self._rows()
        try:
            status = os.stat(directory) if rows else None
        except OSError:
            return None
        for pid, argv, _, place in rows:
            if status is None or place != (status.st_dev, status.st_ino):
                continue
            at = argv.index(words[0]) if words[0] in argv else 0
            if at and argv[at : at + len(words)] == words:
                if self._holding is None:  # the kernel takes milliseconds for the list
                    self._holding = _lock_holders()
                if pid in self._holding and effective_uid(pid) in uids():
                    return pid
        return None

    def _rows(self) -> list[_Begun]:
        if self._found is None:
            self._found = _begun_with(self._word)
        return self._found


if TYPE_CHECKING:
    _Begun = tuple[int, list[str], str, tuple[int, int]]


def _begun_with(word: str) -> list[_Begun]:
    """Those with a word among their arguments: pid, arguments, working directory, its device and inode."""
    found, wanted = [], f"\0{word}\0".encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fd = os.open(f"/proc/{name}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            is_wanted = wanted in os.read(fd, 1 << 17)
        except OSError:
            is_wanted = False
        finally:
            os.close(fd)
        if is_wanted:
            try:
                where, status = os.readlink(f"/proc/{name}/cwd"), os.stat(f"/proc/{name}/cwd")
            except OSError:  # it has ended
                continue
            found.append((int(name), arguments(int(name)), where, (status.st_dev, status.st_ino)))
    return found


def _lock_holders() -> set[int]:
    """The processes that hold a record lock."""
    try:
        with open("/proc/locks") as file:
            rows = [line.split() for line in file]
    except OSError:
        return set()
    return {int(row[4]) for row in rows if row[1] == "POSIX" and row[4].isdigit()}


def effective_uid(pid: int) -> int | None:
    """The account that the process acts as, also where its folder in /proc is root's; None if it is gone."""
    try:
        with open(f"/proc/{pid}/status", errors="replace") as file:
            return next(int(line.split()[2]) for line in file if line.startswith("Uid:"))
    except (OSError, StopIteration):
        return None


def program(pid: int) -> str:
    """Short name of the program that runs as `pid`, "" if it is gone."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def user(pid: int) -> str:
    """Account that the process runs as (its number where it has no name)."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return "?"
    return user_name(uid)


def user_name(uid: int) -> str:
    """Name of the account `uid`, or its number."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def boot_id() -> str:
    """The id of this boot of the host; "" if the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the program's name."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().decode(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


class Process:
    """A handle on one process that stays the same process even if its pid is reused.

    Raises:
        ProcessLookupError: there is no such process.
        PermissionError: from `signal`, if it is another user's.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = os.pidfd_open(pid)

    def signal(self, number: int) -> None:
        """Send a signal; no error if the process has just ended."""
        from _signal import pidfd_send_signal

        try:
            pidfd_send_signal(self.fd, number)
        except ProcessLookupError:
            pass

    def wait(self, timeout_s: float | None, checkpoint: Callable[[], None] | None = None) -> bool:
        """Wait for the end of the process; False if `timeout_s` passes first (None = for ever)."""
        return wait_readable([self.fd], timeout_s, checkpoint) is not None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def begin(argv: Sequence[str], **how: Any) -> Popen[Any]:
    """`subprocess.Popen`; interrupted, it leaves no program, which may be at work before `Popen` returns."""
    from subprocess import Popen

    child: Popen[Any] = Popen.__new__(Popen)
    try:
        Popen.__init__(child, argv, **how)
    except BaseException as error:
        if not isinstance(error, Exception) and getattr(child, "pid", None) and child.returncode is None:
            (os.killpg if os.getpgid(child.pid) == child.pid else os.kill)(child.pid, SIGKILL)
            child.wait()
        raise
    return child


class Shielded:
    """Hold signals back for a moment: they arrive when the block ends.

    For the step between beginning a process and knowing its pid. Children inherit the mask.

    Args:
        signals: SIGINT and SIGTERM, unless said.
    """

    def __init__(self, *signals: int) -> None:
        self._signals = signals or (SIGINT, SIGTERM)

    def __enter__(self) -> None:
        from _signal import SIG_BLOCK, pthread_sigmask

        self._before = pthread_sigmask(SIG_BLOCK, self._signals)

    def __exit__(self, *_: object) -> None:
        from _signal import SIG_SETMASK, pthread_sigmask

        pthread_sigmask(SIG_SETMASK, self._before)


def wait_readable(
    fds: list[int], timeout_s: float | None, checkpoint: Callable[[], None] | None = None
) -> int | None:
    """Wait until one of `fds` is readable (or has ended) and return it; None after `timeout_s`.

    `checkpoint` is called about five times a second, so that a caller can interrupt the wait.
    """
    import select  # late: most one-shot commands wait for nothing

    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        slice_s = 0.2 if checkpoint and (left is None or left > 0.2) else left
        ready = poll.poll(None if slice_s is None else slice_s * 1000)
        if ready:
            return ready[0][0]
        if checkpoint:
            checkpoint()
        if left is not None and left <= (slice_s or 0.0):
            return None
