"""start, ssh and kill with a real guest, beside raw QEMU and raw ssh.

    .venv/bin/python benchmarks/guest.py [ROUNDS]

`start` is compared with the same QEMU command line (from `qvm dryrun`) and a tight loop of ssh.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import QVM, compare, environment

SSH = [
    "ssh", "-F", "none", "-i", ".qvm/id_ed25519", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
    "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
    "-o", "ConnectTimeout=1",
]  # fmt: skip


def qvm(where: Path, *words: str) -> str:
    done = subprocess.run(
        [QVM, *words], cwd=where, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ours(where: Path) -> tuple[float, float]:
    """Seconds of `start` and of `kill`."""
    began = time.perf_counter()
    qvm(where, "start")
    started = time.perf_counter()
    qvm(where, "kill")
    return started - began, time.perf_counter() - started


def raw(where: Path) -> float:
    """Seconds from executing QEMU to the first ssh that succeeds, in a tight loop."""
    argv = json.loads(qvm(where, "--json", "dryrun"))["argv"]
    port = next(word for word in argv if "hostfwd" in word).partition("127.0.0.1:")[2].partition("-")[0]
    began = time.perf_counter()
    child = subprocess.Popen(argv, cwd=where, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while subprocess.run(
        [*SSH, "-p", port, "qvm@127.0.0.1", "true"], cwd=where, stdin=subprocess.DEVNULL, capture_output=True
    ).returncode:
        pass
    took = time.perf_counter() - began
    child.terminate()
    child.wait()
    return took


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    folder = Path(tempfile.mkdtemp(prefix="qvm-bench-"))
    where = folder / "bench"
    try:
        qvm(folder, "create", "bench", "--image", "tiny")
        ours(where)  # the first boot makes the guest's host key
        pairs = [(ours(where), raw(where)) for _ in range(rounds)]
        start = statistics.median(pair[0][0] for pair in pairs)
        rival = statistics.median(pair[1] for pair in pairs)
        kill = statistics.median(pair[0][1] for pair in pairs)
        ratio = start / rival
        print(
            f"qvm start  {start:6.2f} s   raw QEMU, ssh loop  {rival:6.2f} s   {ratio:5.2f}x (allowed 1.05)"
        )
        print(f"qvm kill   {kill:6.3f} s   (allowed 0.200 s)")
        qvm(where, "start")
        qvm(where, "ssh", "true")
        note = dict(line.split(" ", 1) for line in (where / ".qvm/running").read_text().splitlines())
        direct = [
            "ssh",
            "-F",
            "none",
            "-S",
            f"{note['runtime']}/ssh",
            "-p",
            note["ssh_port"],
            "qvm@127.0.0.1",
            "true",
        ]
        compare("qvm ssh true", [QVM, "ssh", "true"], {"ssh -S ... true": direct}, cwd=where)
    finally:
        if where.exists():
            subprocess.run([QVM, "kill"], cwd=where, env=environment(), capture_output=True, check=False)
        shutil.rmtree(folder)
    return 0 if start / rival <= 1.05 and kill < 0.2 else 1


if __name__ == "__main__":
    sys.exit(main())
