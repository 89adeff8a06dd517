"""The last step before QEMU, with other programs in place of QEMU and its companions."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from qvmsh.host import lock_and_exec
from tests.support.world import DEADLINE_S

LOCK = 9
"""The descriptor of the work lock."""


def test_companion_holds_no_lock_and_ends_with_the_program(tmp_path: Path) -> None:
    """On one processor, a companion that nobody waits for has not run yet when the program begins, or ends.

    It holds our end of the output, so that is open until it has ended.
    """
    one, kept = str(min(os.sched_getaffinity(0))), os.open(os.devnull, os.O_RDONLY)
    companion = ["--with", str(kept), "2", "/bin/sleep", "1000"]
    program = ["flock", "-n", "work", "echo", "free"]
    begin = [sys.executable, "-I", "-S", lock_and_exec.__file__, "pid", str(LOCK), *companion, *program]
    script = f"exec {LOCK}> work; flock {LOCK}; exec {shlex.join(begin)}"
    for _ in range(20):
        child = subprocess.Popen(
            ["taskset", "-c", one, "sh", "-c", script],
            cwd=tmp_path,
            pass_fds=[kept],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (child.communicate(timeout=DEADLINE_S)[0], child.returncode) == ("free\n", 0)
    os.close(kept)
