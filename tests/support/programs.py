"""Programs of the host, run in a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.world import Vm


def output_of(where: Vm | Path, *words: str | Path) -> str:
    """Run a program in a folder, or in a machine's; it must succeed. Returns its standard output."""
    folder = where if isinstance(where, Path) else where.directory
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def qemu_img(where: Vm | Path, *words: str | Path) -> str:
    return output_of(where, "qemu-img", *words)


def qemu_io(where: Vm | Path, *words: str | Path) -> str:
    return output_of(where, "qemu-io", *words)
