"""The tap devices of a process, by which the network traffic of a guest can be counted.

    names(4711)        # ["tap0"]

Linux names the device of each open `/dev/net/tun` in /proc/PID/fdinfo; elsewhere there are none.
Source: the kernel's drivers/net/tun.c, `tun_chr_show_fdinfo`.
"""

from __future__ import annotations

import os


def names(pid: int) -> list[str]:
    """The tap devices that the process `pid` has open; none where that cannot be read."""
    folder, found = f"/proc/{pid}/fd", []
    try:
        numbers = os.listdir(folder)
    except OSError:
        return []
    for number in numbers:
        try:
            if os.readlink(f"{folder}/{number}") != "/dev/net/tun":
                continue
            with open(f"/proc/{pid}/fdinfo/{number}") as file:
                rows = [line.partition(":") for line in file]
        except OSError:  # closed meanwhile
            continue
        found += [value.strip() for name, _, value in rows if name == "iff"]
    return list(dict.fromkeys(each for each in found if each))
