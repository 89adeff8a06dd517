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


def test_companion_holds_no_lock_once_the_program_runs(tmp_path: Path) -> None:
    """On one processor, a companion that nobody waits for has not run yet when the program begins."""
    one = str(min(os.sched_getaffinity(0)))
    for _ in range(20):
        reader, writer = os.pipe()  # the program has the other end, so that the companion ends with it
        companion = ["--with", str(reader), "2", "/bin/cat", f"/dev/fd/{reader}"]
        program = ["flock", "-n", "work", "echo", "free"]
        begin = [sys.executable, "-I", "-S", lock_and_exec.__file__, "pid", str(LOCK), *companion, *program]
        child = subprocess.Popen(
            ["taskset", "-c", one, "sh", "-c", f"exec {LOCK}> work; flock {LOCK}; exec {shlex.join(begin)}"],
            cwd=tmp_path,
            pass_fds=[reader, writer],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.close(reader)
        os.close(writer)
        assert (child.communicate(timeout=DEADLINE_S)[0], child.returncode) == ("free\n", 0)
