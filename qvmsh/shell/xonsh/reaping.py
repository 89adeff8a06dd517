"""The exit status of a program that ends while xonsh checks whether it has been stopped.

xonsh 0.25 asks the kernel (`waitpid`) in one thread and Python's `Popen.poll` in another. The second
finds no such child, and takes that for status 0: now and then a failed `vm ssh` looked successful. Here
the first keeps the other out until it has recorded the status, by `Popen`'s own lock.

Source: CPython 3.11, `subprocess.Popen._internal_poll`; xonsh 0.25, `procs/jobs.py`.
"""

from __future__ import annotations

from xonsh.procs import jobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_xonsh_wait = jobs.proc_untraced_waitpid


def install() -> None:
    """Apply this to every program that xonsh starts from now on."""
    jobs.proc_untraced_waitpid = _wait


def _wait(proc: Any, *words: Any, **options: Any) -> Any:
    lock = getattr(getattr(proc, "proc", proc), "_waitpid_lock", None)
    if lock is None:  # not a process, but a thread of this one
        return _xonsh_wait(proc, *words, **options)
    with lock:
        return _xonsh_wait(proc, *words, **options)
