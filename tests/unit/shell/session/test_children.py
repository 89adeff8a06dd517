"""Signals at a fork: neither the parent nor the child loses one."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, signal, time
from qvmsh.shell.session import children

class Ended(BaseException):
    pass

def end(*_):
    raise Ended

signal.signal(signal.SIGTERM, end)
children._block()
os.kill(os.getpid(), signal.SIGTERM)
try:
    children._go_on()
except Ended:
    raise SystemExit("raised where Python ignores it")
try:
    time.sleep(60)
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
