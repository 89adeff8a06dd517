"""Signals at a fork: neither the parent nor the child loses one."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, signal, sys, time
from qvmsh.shell.session import children

class Ended(BaseException):
    pass

def end(*_):
    raise Ended

signal.signal(signal.SIGTERM, end)
sys.setswitchinterval(1e-6)  # as on a busy host: another thread may run after any step
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGTERM))  # the last to run
os.register_at_fork(
    before=children._block, after_in_parent=children._go_on, after_in_child=lambda: os._exit(0)
)
for _ in range(200):
    try:
        os.waitpid(os.fork(), 0)
        for _ in range(6000):  # not once: a signal just before a long sleep would wait for its end
            time.sleep(0.01)
        raise SystemExit("the signal is lost")
    except Ended:
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
print("ended")
"""


def test_signal_at_a_fork_ends_the_parent_after_it() -> None:
    """In a process with one thread, as a script has it: another would get the signal at once."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=240
    )
    assert (done.stdout, done.stderr, done.returncode) == ("ended\n", "", 0)
