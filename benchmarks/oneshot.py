"""One-shot commands beside the bare interpreter, socat, and expect with nc.

    .venv/bin/python benchmarks/oneshot.py

Needs socat, expect and nc for the rivals that use them; a rival that is missing is left out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import QVM, compare, environment

BARE = [sys.executable, "-c", "pass"]


def machine(folder: Path) -> Path:
    """A running machine without a guest system."""
    env = environment()
    disk = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    subprocess.run([QVM, "create", "bench", "--image", disk, "--mem", "64"], cwd=folder, env=env, check=True)
    subprocess.run([QVM, "start", "--no-wait"], cwd=folder / "bench", env=env, check=True)
    return folder / "bench"


def monitor(where: Path) -> str:
    """Path of the HMP socket."""
    note = (where / ".qvm/running").read_text().splitlines()
    return next(line.partition(" ")[2] for line in note if line.startswith("runtime ")) + "/monitor"


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="qvm-bench-"))
    where = machine(folder)
    hmp = monitor(where)
    rivals = {
        "socat": ["sh", "-c", f"echo info status | socat - UNIX-CONNECT:{hmp}"],
        "expect": [
            "expect",
            "-c",
            f'log_user 0; spawn nc -U {hmp}; expect (qemu); send "info status\\r"; expect (qemu)',
        ],
    }
    found = {name: argv for name, argv in rivals.items() if shutil.which(name)}
    try:
        good = [
            compare("qvm --help", [QVM, "--help"], {"python -c pass": BARE}, allowed=1.25),
            compare(
                "qvm status -s",
                [QVM, "status", "-s"],
                {"python -c pass": BARE, **found},
                allowed=1.7,
                cwd=where,
            ),
            compare(
                "qvm cmd info status",
                [QVM, "cmd", "info", "status"],
                {"python -c pass": BARE, **found},
                allowed=1.7,
                cwd=where,
            ),
            compare("qvm list", [QVM, "list"], {"python -c pass": BARE}, allowed=1.7),
        ]
    finally:
        subprocess.run([QVM, "kill"], cwd=where, env=environment(), check=False)
        shutil.rmtree(folder)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
