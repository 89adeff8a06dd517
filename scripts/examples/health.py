#!/usr/bin/env python3
"""Check all machines of a user, for cron or a monitoring system; exit status 1 if one is not healthy.

    ./health.py [DIRECTORY ...]       default: the known machines

A standalone program that uses qvm as a library: `pip install qvmsh`.
"""

import os
import sys

from qvmsh import Machine
from qvmsh.errors import QvmError
from qvmsh.machine import registry

FULL = 90
"""A guest is not healthy if this percentage of its disk is in use."""


def health(directory: str) -> tuple[str, bool]:
    """A line about one machine, and whether it is healthy."""
    vm = Machine.open(directory)
    status = vm.status()
    if status.state == "stopped":
        return f"{vm.name}: off", True
    if not status:
        return f"{vm.name}: {status.state}, does not answer", False
    used = int(vm.ssh("df -P / | awk 'NR == 2 { print $5 }'").strip().rstrip("%"))
    uptime_s = float(vm.ssh("cut -d' ' -f1 /proc/uptime"))
    return f"{vm.name}: up {uptime_s / 3600:.1f} h, disk {used}% full", used < FULL


def main() -> int:
    is_healthy = True
    for directory in sys.argv[1:] or registry.directories(os.environ):
        try:
            line, is_fine = health(directory)
        except QvmError as error:
            line, is_fine = f"{directory}: {error}", False
        print(line if is_fine else f"{line}  <-- look at it")
        is_healthy = is_healthy and is_fine
    return 0 if is_healthy else 1


if __name__ == "__main__":
    sys.exit(main())
