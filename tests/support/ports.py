"""Ports of this host: taken by the test, or listened on by a process."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@contextmanager
def taken(protocol: str = "tcp") -> Iterator[int]:
    """A port of 127.0.0.1 that this process has."""
    with socket.socket(type=KINDS[protocol]) as other:
        other.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            other.listen()
        yield other.getsockname()[1]


def listeners(pid: int, protocol: str) -> set[str]:
    """Addresses on which the process listens."""
    inodes: set[str] = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        found = re.fullmatch(r"socket:\[(\d+)\]", str(fd.readlink()))
        inodes.update(found.groups() if found else ())
    rows = [line.split() for line in Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]]
    mine = [row[1] for row in rows if row[9] in inodes and row[3] in ("0A", "07")]
    return {
        f"{int(a[6:8], 16)}.{int(a[4:6], 16)}.{int(a[2:4], 16)}.{int(a[:2], 16)}:{int(a[9:], 16)}"
        for a in mine
    }
