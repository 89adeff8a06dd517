"""Ratios, not milliseconds: a thing and its rivals, timed in turn in one run.

    rows = [measure.compare("status -s", ours=[...], rivals={"python -c pass": [...]}, allowed=2.0)]

Medians of interleaved rounds: what disturbs the machine disturbs all of them alike. Nothing here
fails a build; a figure above its limit is marked.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

BIN = Path(sys.executable).parent
QVM = str(BIN / "qvm")

Action = Callable[[], None] | Sequence[str]


def environment(**more: str) -> dict[str, str]:
    """The environment of the measured commands: compiled Python files are used."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PATH": f"{BIN}:{os.environ['PATH']}", "VM_QEMU_ACCEL": "tcg"} | more


def seconds(action: Action, cwd: Path | None, env: Mapping[str, str]) -> float:
    """How long one call takes; a command's output is thrown away."""
    began = time.perf_counter()
    if callable(action):
        action()
    else:
        subprocess.run(
            list(action), cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    return time.perf_counter() - began


def compare(
    name: str,
    ours: Action,
    rivals: Mapping[str, Action],
    *,
    allowed: float | None = None,
    rounds: int = 21,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> bool:
    """Time `ours` and its `rivals` in turn and print a line for each rival.

    Args:
        allowed: the most that ours may take, as a ratio to the first rival.

    Returns:
        False if ours is above `allowed`.
    """
    environ = environment() if env is None else env
    actions = {name: ours, **rivals}
    times: dict[str, list[float]] = {key: [] for key in actions}
    for key, action in actions.items():
        seconds(action, cwd, environ)  # once to warm the caches
        del key
    for _ in range(rounds):
        for key, action in actions.items():
            times[key].append(seconds(action, cwd, environ))
    medians = {key: statistics.median(values) for key, values in times.items()}
    is_good = True
    for at, rival in enumerate(rivals):
        ratio = medians[name] / medians[rival]
        verdict = ""
        if at == 0 and allowed is not None:
            is_good = ratio <= allowed
            verdict = f"(allowed {allowed:.2f})" + ("" if is_good else "  ABOVE THE LIMIT")
        line = f"{name:26} {medians[name] * 1000:8.1f} ms   {rival:30} {medians[rival] * 1000:8.1f} ms"
        print(f"{line}   {ratio:5.2f}x {verdict}".rstrip(), flush=True)
    return is_good
