"""A command on a pseudo-terminal of its own, and what it prints there, byte by byte."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time

from tests.support.world import DEADLINE_S, QVM, Vm


class PtyTerminal:
    """A command on a terminal of its own."""

    def __init__(self, vm: Vm, *words: str, program: str = QVM) -> None:
        self.master, slave = pty.openpty()
        argv = ["setsid", "-c", program, *words]  # the terminal is its own, so that Ctrl-C is sent to it
        self.child = subprocess.Popen(
            argv, cwd=vm.directory, env=vm.world.environ, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.text = ""

    def read(self, seconds: float) -> bool:
        """Take what is there; False once it has ended."""
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def shows(self, pattern: str) -> re.Match[str] | None:
        """Wait until it shows that; None if it has ended without."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            found = re.search(pattern, self.text)
            if found or not self.read(0.1):
                break
        return re.search(pattern, self.text)

    def until(self, pattern: str) -> re.Match[str]:
        """Wait until it shows that."""
        found = self.shows(pattern)
        assert found, self.text
        return found

    def interrupt(self) -> None:
        os.write(self.master, b"\x03")

    def end(self) -> int:
        while self.read(1.0):
            pass
        os.close(self.master)
        return self.child.wait(DEADLINE_S)
