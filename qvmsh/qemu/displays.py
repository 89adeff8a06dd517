"""Which displays a QEMU has: distributions put those that open a window into packages of their own.

of("/usr/bin/qemu-system-x86_64")     # ("none", "curses", "dbus")
window(("none", "gtk", "sdl"))        # "gtk"
"""

from __future__ import annotations

import subprocess

WINDOWS = ("gtk", "sdl", "cocoa")
"""Displays that open a window, the best first."""

PROBE_S = 20.0


def of(binary: str) -> tuple[str, ...]:
    """The values that `-display` takes, without those of missing modules; none if QEMU does not list them."""
    try:
        done = subprocess.run(
            [binary, "-display", "help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=PROBE_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(word for word in done.stdout.split() if word.islower() and word not in ("display", "types:"))


def window(found: tuple[str, ...]) -> str:
    """The display that opens a window; "" for none."""
    return next((each for each in WINDOWS if each in found), "")
