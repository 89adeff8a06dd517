#!/usr/bin/env python3
"""Tell how all machines of a user are, for cron or a monitoring system; exit status 1 if one is not well.

    ./health.py [DIRECTORY ...]       the known machines where none is named

A program of its own, with qvm as a library: `pip install qvmsh`.
"""

import os
import sys

from qvmsh import Machine
from qvmsh.errors import QvmError
from qvmsh.machine import registry as known

FULL = 90
"""Percent of the guest's disk in use from which on it is not well."""


def health(directory: str) -> tuple[str, bool]:
    """What there is to say about one machine, and whether it is well."""
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
    is_well = True
    for directory in sys.argv[1:] or known.directories(os.environ):
        try:
            line, is_good = health(directory)
        except QvmError as error:
            line, is_good = f"{directory}: {error}", False
        print(line if is_good else f"{line}  <-- look at it")
        is_well = is_well and is_good
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
