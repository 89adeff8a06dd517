"""`qvm top`: what each machine takes of the host, measured again and again.

    show(io, ["1", "web*"], sort="cpu", frames=None, environ=os.environ)

On a terminal a live table (`top_screen`); else, and for a number of frames, plain text, or a line of JSON
for each frame.
"""

from __future__ import annotations

import re
import time

from qvmsh.errors import UsageError
from qvmsh.host import process
from qvmsh.io import isatty
from qvmsh.machine.overview.top_frame import Frame, Measured
from qvmsh.machine.overview.top_measuring import Sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qvmsh.io import Io

INTERVAL_S = 3.0
LEAST_S = 0.5
MOST_S = 86400.0
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")


def interval_and_machines(words: Sequence[str]) -> tuple[float, list[str]]:
    """The seconds of the first word, if it is a number, and the words that name machines.

    Raises:
        UsageError: the interval is too short.
    """
    if not words or not _NUMBER.fullmatch(words[0]):
        return INTERVAL_S, list(words)
    interval_s = float(words[0])
    if not LEAST_S <= interval_s <= MOST_S:
        raise UsageError(
            f"top: an interval of {words[0]} s: must be from {LEAST_S:g} seconds to a day",
            hint="`qvm top 3` measures every 3 seconds; a machine of that name is `./NAME`",
        )
    return interval_s, list(words[1:])


def show(io: Io, words: Sequence[str], *, sort: str, frames: int | None, environ: Mapping[str, str]) -> Frame:
    """Measure, and show it; see `commands.top`.

    Returns:
        The last frame that is not shown yet; an empty one if all are.
    """
    interval_s, names = interval_and_machines(words)
    if frames is not None and frames < 1:
        raise UsageError(f"top: --frames {frames}: must be at least 1")
    try:
        sampler = Sampler(environ, names)
    except UsageError as error:
        if len(names) == len(words):  # no number came first
            hint = f"{error.hint}; " if error.hint else ""
            error.hint = f"{hint}the first word may also be a number of seconds, as in `qvm top 3`"
        raise
    has_terminal = isatty(io.stdin) and io.is_on_terminal and environ.get("TERM", "dumb") != "dumb"
    try:
        if io.capture or not has_terminal or frames is not None:
            return _in_pipe(io, sampler, interval_s, sort, frames)
        from qvmsh.machine.overview.top_screen import Screen

        Screen(io, sampler, interval_s, sort).show()
    except KeyboardInterrupt:
        if io.capture and not io.json:  # a program calls it
            raise
    return Frame([], 0, sort, is_streamed=True)


def _in_pipe(io: Io, sampler: Sampler, interval_s: float, sort: str, frames: int | None) -> Frame:
    """Write frame after frame, as text or as JSON; the last one is returned instead."""
    left = 1 if frames is None and not io.json else frames
    before = time.monotonic()
    sampler.measure()
    while True:
        process.wait_readable([], before + interval_s - time.monotonic(), io.checkpoint)
        now = time.monotonic()
        frame = Frame([Measured(*each) for each in sampler.measure()], now - before, sort)
        before = now
        if left is not None:
            left -= 1
            if left == 0:
                return frame
        if io.json:
            from qvmsh.qemu.qmp import dumps

            io.write(dumps({"version": 1, "command": "top", **frame.as_json()}) + "\n")
        elif not io.capture:
            io.write(f"{frame}\n\n")
