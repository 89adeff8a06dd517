"""qvm killed at each of its steps on the file system, one after the other.

    for vm, step in steps(...): ...

A step is a call that changes a folder: rename, mkdir, link, unlink, rmdir. The process ends by SIGKILL just
before its n-th one, so that each state in between is met once.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.world import DEADLINE_S, World

PROGRAM = """
import os, signal, sys

left = int(sys.argv[1])


def dying(real):
    def call(*words, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*words, **more)

    return call


for name in ("rename", "replace", "mkdir", "symlink", "link", "unlink", "remove", "rmdir"):
    setattr(os, name, dying(getattr(os, name)))
sys.argv = ["qvm", *sys.argv[2:]]
from qvmsh.__main__ import main
sys.exit(main())
"""


def killed_at(world: World, step: int, *words: str, cwd: Path | None = None) -> int:
    """Run qvm until its step number `step` (from 0); the exit status is -9 if there was such a step."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(step), *words],
        cwd=cwd or world.home, env=world.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode in (0, -9), done.stderr
    return done.returncode
