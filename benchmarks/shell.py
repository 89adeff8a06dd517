"""The shell beside bare xonsh, scripts beside Python.

.venv/bin/python benchmarks/shell.py
"""

from __future__ import annotations

import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pexpect
from measure import BIN, QVM, compare, environment

XONSH = str(BIN / "xonsh")


def prompt(argv: list[str], wanted: str, cwd: Path, env: dict[str, str]) -> None:
    """Open a shell on a terminal and wait for its first prompt."""
    child = pexpect.spawn(argv[0], argv[1:], cwd=str(cwd), env=env, timeout=60)  # type: ignore[arg-type]
    child.expect(wanted)
    child.kill(signal.SIGKILL)  # leaving it in order is not what is timed
    child.wait()


class Typing:
    """A shell on a terminal, and how long it takes from Enter to the next prompt."""

    def __init__(self, argv: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.child = pexpect.spawn(argv[0], argv[1:], cwd=str(cwd), env=env, timeout=60)  # type: ignore[arg-type]
        self.child.expect("bench.*[>@]")
        self.number = 0

    def line(self) -> float:
        """Type a line; the seconds until its output and the prompt after it are there."""
        self.number += 1
        self.child.send(f"print('x' + 'N{self.number}')")
        self.child.expect(f"N{self.number}")
        began = time.perf_counter()
        self.child.send("\r")
        self.child.expect(f"xN{self.number}")
        self.child.expect("bench.*[>@]")
        return time.perf_counter() - began

    def close(self) -> None:
        self.child.kill(signal.SIGKILL)
        self.child.wait()


def line_at_the_prompt(where: Path, env: dict[str, str], *, allowed_ms: float, rounds: int = 61) -> bool:
    """What a line costs in `qvm sh`, with a machine that runs, more than in bare xonsh.

    xonsh's prompt is a fixed text here: its own asks git, and costs more than ours. Both keep their
    history in sqlite, as `qvm sh` does: a commit to disk for each line, which is xonsh's work.
    """
    env = env | {"PROMPT": "bench> ", "PROMPT_TOOLKIT_NO_CPR": "1", "XONSH_HISTORY_BACKEND": "sqlite"}
    shells = {
        "qvm sh": Typing([QVM, "sh"], where, env),
        "xonsh --no-rc": Typing([XONSH, "--no-rc"], where, env),
    }
    try:
        times: dict[str, list[float]] = {name: [] for name in shells}
        for _ in range(rounds):
            for name, shell in shells.items():
                times[name].append(shell.line())
    finally:
        for shell in shells.values():
            shell.close()
    ours, rival = (statistics.median(times[name]) * 1000 for name in shells)
    is_good = ours - rival <= allowed_ms
    verdict = f"(allowed {allowed_ms:.0f} ms)" + ("" if is_good else "  ABOVE THE LIMIT")
    head = f"{'a line at the prompt':26} {ours:8.1f} ms   {'xonsh --no-rc':30} {rival:8.1f} ms"
    print(f"{head}   {ours - rival:+5.1f} ms of ours {verdict}", flush=True)
    return is_good


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="qvm-bench-"))
    env = environment(HOME=str(folder), TERM="xterm")
    disk = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    subprocess.run(
        [QVM, "create", "bench", "--image", disk], cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL
    )
    where = folder / "bench"
    script = where / "script.py"
    script.write_text("print(sum(range(1000)))\n")
    try:
        good = [
            compare(
                "qvm sh -c pass",
                [QVM, "sh", "-c", "pass"],
                {"xonsh --no-rc -c pass": [XONSH, "--no-rc", "-c", "pass"]},
                allowed=1.1,
                cwd=where,
                env=env,
            ),
            compare(
                "qvm sh -c 'status -s'",
                [QVM, "sh", "-c", "status -s"],
                {"qvm status -s": [QVM, "status", "-s"]},
                cwd=where,
                env=env,
            ),
            compare(
                "qvm sh script.py",
                [QVM, "sh", str(script)],
                {"python script.py": [sys.executable, str(script)]},
                allowed=1.8,
                cwd=where,
                env=env,
            ),
            compare(
                "first prompt",
                lambda: prompt([QVM, "sh"], "bench", where, env),
                {"xonsh --no-rc": lambda: prompt([XONSH, "--no-rc"], "bench", where, env)},
                allowed=1.25,
                rounds=7,
            ),
        ]
        subprocess.run([QVM, "start", "--no-wait"], cwd=where, env=env, check=True, stdout=subprocess.DEVNULL)
        good.append(line_at_the_prompt(where, env, allowed_ms=5.0))
    finally:
        subprocess.run([QVM, "kill"], cwd=where, env=env, check=False, capture_output=True)
        shutil.rmtree(folder)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
