"""Programs of the host, run in a folder; processes, scripts and other files."""

from __future__ import annotations

import hashlib
import re
import socket
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


def write_script(folder: Path, name: str, text: str) -> Path:
    """Write an executable file."""
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def process_status(pid: int, name: str) -> str:
    """One line of /proc/PID/status. Source: proc(5)."""
    found = re.search(rf"^{name}:\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return found[1]


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 without a listener."""
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
