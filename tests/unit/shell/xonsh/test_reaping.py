"""Two threads ask for the end of one program, as xonsh's do; both get its status."""

from __future__ import annotations

import subprocess
import threading

from xonsh.procs import jobs

from qvmsh.shell.xonsh import reaping


def test_status_of_a_program_is_the_same_for_every_thread() -> None:
    reaping.install()
    output: list[int | None] = []
    for _ in range(100):
        child = subprocess.Popen(["sh", "-c", "exit 2"])

        def ask(child: subprocess.Popen[bytes] = child) -> None:
            while child.returncode is None:
                child.poll()
            output.append(child.returncode)

        asker = threading.Thread(target=ask)
        asker.start()
        while child.returncode is None:
            jobs.proc_untraced_waitpid(child, hang=False)
        asker.join()
        output.append(child.returncode)
    assert output == [2] * 200
