"""`qvm top`: what the machines take of the host, live."""

from __future__ import annotations

import os

from qvmsh.commands import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Annotated

    from qvmsh.commands import Opt
    from qvmsh.io import Io
    from qvmsh.machine.overview.top_frame import Frame


@command(group="monitor", terminal=True)
def top(
    seconds: Annotated[str | None, Opt(complete="machine")] = None,
    *machines: Annotated[str, Opt(complete="machine")],
    sort: Annotated[str, Opt("-s", metavar="KEY", choices=("cpu", "mem", "io", "net", "name"))] = "cpu",
    frames: Annotated[int | None, Opt("-n", metavar="N")] = None,
    io: Io,
) -> Frame:
    """Show how much processor, memory, disk and network the machines use.

    On a terminal a live table: the keys `c`, `m`, `i` and `n` sort it by processor, memory, disk I/O
    and name, `q` or Ctrl-C ends it. Without a terminal one frame of plain text after one interval;
    with `-n` so many; with `--json` an object for each frame, until Ctrl-C. It only looks.

    100 %cpu is one processor of the host. The rates rx/s and tx/s are what the guest receives and
    sends; they are known only for a network of the host (a tap device), not for user networking.

    Args:
        seconds: time from one frame to the next (3; at least 0.5). A first word that is not a number
            is a machine.
        machines: only these: names, patterns of names (`web*`), or directories.
        sort: cpu, mem, io, net or name.
        frames: write N frames one below the other, on a terminal too, and end.

    Raises:
        UsageError: there is no such machine, or the interval is too short.
    """
    from qvmsh.machine.overview import top

    words = machines if seconds is None else (seconds, *machines)
    return top.show(io, words, sort=sort, frames=frames, environ=os.environ)
