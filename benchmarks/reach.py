"""Reaching into a real guest, beside plain ssh in the same run.

    .venv/bin/python benchmarks/reach.py [ROUNDS]

`qvm ssh -- true` over its cached connection is compared with `ssh -S` over the same one and two bare
interpreters: qvm itself is one, and it starts ssh.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import QVM, compare, environment

ALLOWED = 1.15


def qvm(where: Path, *words: str) -> str:
    done = subprocess.run(
        [QVM, *words], cwd=where, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cached(where: Path, rounds: int) -> bool:
    """`ssh` over the cached connection."""
    note = dict(line.split(" ", 1) for line in (where / ".qvm/running").read_text().splitlines())
    target = ["-p", note["ssh_port"], "qvm@127.0.0.1", "true"]
    plain = ["ssh", "-F", "none", "-S", f"{note['runtime']}/ssh", *target]

    def rival() -> None:
        for argv in (plain, [sys.executable, "-c", "pass"], [sys.executable, "-c", "pass"]):
            subprocess.run(argv, cwd=where, env=environment(), stdin=subprocess.DEVNULL, capture_output=True)

    rivals = {"ssh -S and 2 x python -c pass": rival}
    return compare(
        "qvm ssh -- true", [QVM, "ssh", "--", "true"], rivals, allowed=ALLOWED, rounds=rounds, cwd=where
    )


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    folder = Path(tempfile.mkdtemp(prefix="qvm-bench-"))
    where = folder / "bench"
    try:
        qvm(folder, "create", "bench", "--image", "tiny")
        qvm(where, "start")
        qvm(where, "ssh", "true")
        is_good = cached(where, rounds)
    finally:
        if where.exists():
            subprocess.run([QVM, "kill"], cwd=where, env=environment(), capture_output=True, check=False)
        shutil.rmtree(folder)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
