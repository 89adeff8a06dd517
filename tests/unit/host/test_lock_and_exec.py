"""The last step before QEMU, with other programs in place of QEMU and its companions."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from qvmsh.host import lock_and_exec

LOCK = 9
"""The descriptor of the work lock."""


def test_companion_holds_no_lock_once_the_program_runs(tmp_path: Path) -> None:
    """On one processor, a companion that nobody waits for has not run yet when the program begins."""
    reader, writer = os.pipe()
    companion = ["--with", str(reader), "2", "/bin/cat", f"/dev/fd/{reader}"]
    program = ["flock", "-n", "work", "echo", "free"]
    begin = [sys.executable, "-I", "-S", lock_and_exec.__file__, "pid", str(LOCK), *companion, *program]
    script = f"exec {LOCK}> work; flock {LOCK}; exec {shlex.join(begin)}"
    one = {next(iter(os.sched_getaffinity(0)))}
    try:
        for _ in range(20):
            done = subprocess.run(
                ["sh", "-c", script],
                cwd=tmp_path,
                pass_fds=[reader],
                preexec_fn=lambda: os.sched_setaffinity(0, one),
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, "free\n", "")
    finally:
        os.close(writer)
        os.close(reader)
