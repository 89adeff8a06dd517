"""A disk that is soon full."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


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
        subprocess.run(["umount", path], check=True)
