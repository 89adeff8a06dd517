"""One frame of `qvm top`: the machines with what they take of the host, as a table and as JSON.

print(Frame(machines, 3.0, "cpu"))
"""

from __future__ import annotations

import time

from qvmsh.errors import printable
from qvmsh.machine.progress import size
from qvmsh.machine.reports import Report, lasting, stamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.machine.overview.list import Listed
    from qvmsh.machine.overview.top_measuring import Rates

HEAD = (
    "name", "state", "pid", "%cpu", "rss", "vcpus", "mem", "accel", "rd/s", "wr/s", "rx/s", "tx/s", "uptime",
)  # fmt: skip
_LEFT = ("name", "state", "accel")
"""The columns of words; numbers are aligned at the right."""


class Measured(Report):
    """One machine of a frame.

    Args:
        machine: its name.
        state: as in `list`; `unknown` while QEMU has not answered yet.
        directory: where it is.
        pid: QEMU's, or None.
        cpu_percent: processor time of QEMU during the interval; 100 is one processor.
        rss_bytes: memory of the host that QEMU uses.
        vcpus, memory_mib, accelerator, uptime_s: as in `list`.
        read_bytes_per_second, written_bytes_per_second: the guest's disks.
        received_bytes_per_second, sent_bytes_per_second: the guest's network; None without a tap device.
    """

    __slots__ = (
        "accelerator", "cpu_percent", "directory", "machine", "memory_mib", "pid",
        "read_bytes_per_second", "received_bytes_per_second", "rss_bytes", "sent_bytes_per_second", "state",
        "uptime_s", "vcpus", "written_bytes_per_second",
    )  # fmt: skip

    def __init__(self, row: Listed, rates: Rates) -> None:
        self.machine = row.machine
        self.state = row.state
        self.directory = row.directory
        self.pid = row.pid
        self.vcpus = row.vcpus
        self.memory_mib = row.memory_mib
        self.accelerator = row.accelerator
        self.uptime_s = row.uptime_s
        self.cpu_percent = rates.cpu_percent
        self.rss_bytes = rates.rss_bytes
        self.read_bytes_per_second = rates.read
        self.written_bytes_per_second = rates.written
        self.received_bytes_per_second = rates.received
        self.sent_bytes_per_second = rates.sent

    def cells(self) -> tuple[str, ...]:
        """Its row of the table."""
        rates = (
            self.read_bytes_per_second, self.written_bytes_per_second,
            self.received_bytes_per_second, self.sent_bytes_per_second,
        )  # fmt: skip
        return (
            printable(self.machine),
            printable(self.state),
            str(self.pid or "-"),
            "-" if self.cpu_percent is None else f"{self.cpu_percent:.1f}",
            _size(self.rss_bytes),
            str(self.vcpus or "-"),
            f"{self.memory_mib} MiB" if self.memory_mib else "-",
            self.accelerator or "-",
            *map(_size, rates),
            "-" if self.uptime_s is None else lasting(self.uptime_s),
        )

    def rank(self, sort: str) -> tuple[float, str, str]:
        """Its place in a frame that is sorted by `sort`: the largest first, then by name."""
        value: float | None = 0
        if sort == "cpu":
            value = self.cpu_percent
        elif sort == "mem":
            value = self.rss_bytes
        elif sort == "io":
            value = _sum(self.read_bytes_per_second, self.written_bytes_per_second)
        elif sort == "net":
            value = _sum(self.received_bytes_per_second, self.sent_bytes_per_second)
        return (1 if value is None else -value), self.machine, self.directory


class Frame(Report):
    """Result of `top`: all machines at one moment; with `--json` one such object for each frame.

    Args:
        time: when it was measured.
        interval_seconds: how long the measuring took; 0 for the first frame of a live table.
        running: how many have a QEMU.
        machines: a dict for each, sorted.
    """

    __slots__ = ("interval_seconds", "is_streamed", "machines", "running", "time")

    def __init__(
        self, machines: Sequence[Measured], interval_s: float, sort: str, *, is_streamed: bool = False
    ) -> None:
        self.time = stamp(time.time())
        self.interval_seconds = round(interval_s, 3)
        self.machines = sorted(machines, key=lambda each: each.rank(sort))
        self.running = sum(each.pid is not None for each in self.machines)
        self.is_streamed = is_streamed

    def __iter__(self) -> Any:
        return iter(self.machines)

    def __len__(self) -> int:
        return len(self.machines)

    def as_json(self) -> dict[str, Any]:
        machines = [each.as_json() for each in self.machines]
        return {
            "time": self.time, "interval_seconds": self.interval_seconds, "running": self.running,
            "machines": machines,
        }  # fmt: skip

    def title(self, wanted_s: float) -> str:
        """The line above the table."""
        count = len(self.machines)
        machines = f"{self.running} running, {count} machine{'' if count == 1 else 's'}"
        return f"qvm top - {self.time[11:19]}  {machines}  every {wanted_s:g} s"

    def shown(self) -> list[str]:
        if self.is_streamed:
            return []
        return [self.title(round(self.interval_seconds, 1)), *table(self.machines)]


def table(machines: Sequence[Measured], width: int | None = None) -> list[str]:
    """The head and a line for each machine; of columns beyond `width` only whole ones are shown."""
    from rich.cells import cell_len, set_cell_size  # late: nothing else needs it

    rows = [HEAD, *(each.cells() for each in machines)]
    widths = [max(cell_len(row[at]) for row in rows) for at in range(len(HEAD))]
    count = len(HEAD)
    while width is not None and count > 1 and sum(widths[:count]) + 2 * (count - 1) > width:
        count -= 1
    lines = []
    for row in rows:
        cells = []
        for cell, wide, title in zip(row[:count], widths, HEAD, strict=False):
            space = " " * (wide - cell_len(cell))
            cells.append(cell + space if title in _LEFT else space + cell)
        line = "  ".join(cells).rstrip()
        lines.append(line if width is None or cell_len(line) <= width else set_cell_size(line, width))
    return lines


def _size(count: float | None) -> str:
    return "-" if count is None else size(int(count))


def _sum(*values: float | None) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) if known else None
