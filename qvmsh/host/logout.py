"""Does a machine survive the end of the login session? Asks systemd-logind, if there is one.

Source: logind.conf(5), KillUserProcesses; loginctl(1), enable-linger.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.io import Io

_MANAGER = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")


def warn(io: Io, machine: str) -> None:
    """Warn if logind will end the machine together with this login session."""
    if ends_at_logout():
        io.warn(
            f"{machine}: this host ends all processes at logout (KillUserProcesses=yes); "
            "`loginctl enable-linger` keeps the machine running"
        )


def ends_at_logout(proc: str = "/proc/self/cgroup", linger: str = "/var/lib/systemd/linger") -> bool:
    """True if this process belongs to a login session that logind kills at logout."""
    try:
        with open(proc) as file:
            in_session = "/session-" in file.read()
    except OSError:
        return False
    if not in_session or os.geteuid() == 0:
        return False
    from qvmsh.host import process

    if os.path.exists(os.path.join(linger, process.user_name(os.geteuid()))):
        return False
    return _kills_user_processes()


def _kills_user_processes() -> bool:
    import subprocess

    argv = ["busctl", "--system", "get-property", *_MANAGER, "KillUserProcesses"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=2, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "b true"
