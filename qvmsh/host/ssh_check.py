"""What ssh itself says of options, without connecting: `ssh -G`.

complaint(["-o", "Foo=1"])          # "Bad configuration option: foo"
keywords()                          # ["user", "hostname", "port", ...]
"""

from __future__ import annotations

import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_PLACES = ("command-line: line 0: ", "command-line line 0: ")
ANSWER_S = 10.0


def complaint(words: Sequence[str]) -> str:
    """Why ssh refuses these options; "" if it takes them, or is not installed."""
    status, _, said = _asked(words)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if status in (0, None) or not lines:
        return ""
    for place in _PLACES:
        lines = [line.removeprefix(place) for line in lines]
    return lines[0].rstrip(".")


def keywords() -> list[str]:
    """The keywords of ssh_config that this ssh has, in small letters."""
    return [line.partition(" ")[0] for line in _asked(())[1].splitlines()]


def _asked(words: Sequence[str]) -> tuple[int | None, str, str]:
    argv = ["ssh", "-G", "-F", "none", *words, "127.0.0.1"]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ANSWER_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, "", ""
    return done.returncode, done.stdout, done.stderr
