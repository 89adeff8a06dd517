"""qvm killed at each of its steps on the file system, one after the other.

    while killed_at(world, step, "delete", "-y") == -9: ...
    done = interrupted_at(world, step, "delete", "-y")          # the same with Ctrl-C

A step is a call that changes a folder: rename, mkdir, link, unlink, rmdir. The process ends by SIGKILL just
before its n-th one, so that each state in between is met once.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.world import DEADLINE_S, World

PROGRAM = """
import os, sys

left, signal_number = int(sys.argv[1]), int(sys.argv[2])


def dying(real):
    def call(*words, **more):
        global left
        left -= 1
        if left == -1:
            os.kill(os.getpid(), signal_number)
        return real(*words, **more)

    return call


for name in ("rename", "replace", "mkdir", "symlink", "link", "unlink", "remove", "rmdir"):
    setattr(os, name, dying(getattr(os, name)))
sys.argv = ["qvm", *sys.argv[3:]]
from qvmsh.__main__ import main
sys.exit(main())
"""


def killed_at(world: World, step: int, *words: str, cwd: Path | None = None) -> int:
    """Run qvm until its step number `step` (from 0); the exit status is -9 if there was such a step."""
    done = _signalled(world, step, signal.SIGKILL, *words, cwd=cwd)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode


def interrupted_at(world: World, step: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run qvm with a Ctrl-C just before its step number `step`; the exit status is 130 if it had one."""
    done = _signalled(world, step, signal.SIGINT, *words)
    assert done.returncode in (0, 130), done.stderr
    return done


def _signalled(
    world: World, step: int, number: int, *words: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(step), str(number), *words],
        cwd=cwd or world.home, env=world.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=DEADLINE_S,
    )  # fmt: skip
