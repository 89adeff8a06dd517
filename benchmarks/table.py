"""What a call costs beside the bare interpreter, here and in another checkout, as a table for a note.

    .venv/bin/python benchmarks/table.py [--rounds N] [OTHER/.venv/bin]

Processor time of the process and its children, which other work on the machine disturbs less than
the time on the clock. Both checkouts and their rivals take turns, in rounds; the medians are compared.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import BIN, QVM, environment
from oneshot import machine

BARE = ("python", "-c", "pass")
ROWS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float]] = {
    "--help": (("qvm", "--help"), BARE, 1.25),
    "status -s": (("qvm", "status", "-s"), BARE, 1.7),
    "cmd": (("qvm", "cmd", "info", "status"), BARE, 1.7),
    "list": (("qvm", "list"), BARE, 1.7),
    "sh -c pass": (("qvm", "sh", "-c", "pass"), ("xonsh", "--no-rc", "-c", "pass"), 1.1),
    "script": (("qvm", "sh", "script.py"), ("python", "script.py"), 1.8),
}
"""Name, the call, its rival, and the most that it may cost as a ratio to that."""


def cost(folder: Path, words: tuple[str, ...], cwd: Path, env: dict[str, str]) -> float:
    """The milliseconds of user and system time of one call."""
    argv = [str(folder / words[0]), *words[1:]]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(argv, cwd=cwd, env=env, stdin=quiet, stdout=quiet, stderr=quiet) as child:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = status
    if status:
        raise SystemExit(f"{' '.join(argv)}: status {status}")
    return (used.ru_utime + used.ru_stime) * 1000


def table(folders: list[Path], cwd: Path, env: dict[str, str], rounds: int) -> bool:
    """Print the table; False if a figure of the last folder is above its limit."""
    print(
        "|", " | ".join(["call", *(f"ratio in {folder.parents[1].name}" for folder in folders), "limit"]), "|"
    )
    print("|---" * (len(folders) + 2) + "|")
    is_good = True
    for name, (ours, rival, limit) in ROWS.items():
        calls = [(folder, words) for folder in folders for words in (ours, rival)]
        rows = [[cost(*call, cwd, env) for call in calls] for _ in range(rounds + 1)][
            1:
        ]  # the first warms up
        middle = [statistics.median(column) for column in zip(*rows, strict=True)]
        shown = [
            f"{a / b:.2f} ({a:.1f} / {b:.1f} ms)" for a, b in zip(middle[::2], middle[1::2], strict=True)
        ]
        print("|", " | ".join([name, *shown, f"{limit:.2f}"]), "|", flush=True)
        is_good &= middle[-2] <= limit * middle[-1]
    return is_good


def main() -> int:
    words = sys.argv[1:]
    rounds = 41
    if words[:1] == ["--rounds"]:
        rounds, words = int(words[1]), words[2:]
    folder = Path(tempfile.mkdtemp(prefix="qvm-bench-"))
    os.environ["HOME"] = str(folder)  # `list` knows one machine
    where = machine(folder)
    (where / "script.py").write_text("print(sum(range(1000)))\n")
    env = environment()
    env.pop("PYTHONUNBUFFERED", None)
    try:
        return 0 if table([*map(Path, words), BIN], where, env, rounds) else 1
    finally:
        subprocess.run([QVM, "kill"], cwd=where, env=env, check=False)
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
