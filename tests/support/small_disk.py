"""A disk that is soon full."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.world import DEADLINE_S


@contextlib.contextmanager
def small_disk(path: Path, mib: int) -> Iterator[None]:
    """A file system of some MiB at `path`."""
    path.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=755", "none", path], capture_output=True, text=True
    )
    if done.returncode:
        reason = f"cannot mount a small tmpfs: {done.stderr.strip()}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    try:
        yield
    finally:
        unmount(path)


def unmount(path: Path) -> None:
    """Unmount it; a process that is just ending may still have it open."""
    deadline = time.monotonic() + DEADLINE_S
    how: dict[str, Any] = {"env": os.environ | {"LC_ALL": "C"}, "capture_output": True, "text": True}
    while (done := subprocess.run(["umount", path], **how)).returncode:
        assert "busy" in done.stderr, done.stderr
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.05)
