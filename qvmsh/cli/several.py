"""A command for several machines, or for one that its words name: what is to be run, and how.

perform(bound, io)       # the joint exit status; None if the command is for one machine, noted in `bound`
"""

from __future__ import annotations

import os

from qvmsh.errors import UsageError, printable
from qvmsh.io import isatty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.cli.parse import Bound
    from qvmsh.io import Io

LEAST_PARALLEL = 4


def perform(bound: Bound, io: Io) -> int | None:
    """Run the command for the machines that are named.

    Raises:
        UsageError: a word means no machine, or the command takes one machine only.
    """
    entry, common = bound.entry, bound.common
    if entry.words == "first" and len(bound.words) > len(entry.positionals):
        _take_first(bound)
    if entry.verb == "freeze":
        _take_seconds(bound)
    most = common.pop("parallel", None)
    if entry.words != "machines" or not (bound.words or common.get("label") or common.get("all")):
        return None
    from qvmsh.cli import targets

    snapshots = targets.take_snapshots(bound, os.environ) if entry.verb == "delete" else []
    found = targets.directories(bound, os.environ)
    is_list = bool(common.get("label") or common.get("all") or len(bound.words) > 1) and io.json
    for name in ("label", "all"):
        common.pop(name, None)
    if len(found) == 1 and not snapshots and (not is_list or entry.terminal):
        common["directory"], bound.words = found[0], []
        return None
    if not found and not snapshots:
        io.warn(f"{entry.verb}: nothing to do for any of the machines that are meant")
    elif entry.terminal:
        raise UsageError(f"{entry.verb}: takes one machine", hint="use a terminal for each machine")
    from qvmsh.cli import fanout

    jobs = [*targets.jobs(bound, found, os.environ, io.warn), *snapshots]
    if entry.verb == "delete" and not bound.options.get("yes"):
        names = "".join(
            f"{printable(f'snapshot {name} of {job.name}')}\n" for job in snapshots for name in job.snapshots
        )
        if snapshots:
            io.require_yes(f"{names}Delete this?", is_given=False, what="delete")
        if found and isatty(io.stdin):
            return fanout.run_one_by_one(bound, jobs)
    return fanout.run(bound, jobs, io, most or max(LEAST_PARALLEL, os.cpu_count() or 1))


def _take_seconds(bound: Bound) -> None:
    """`freeze 120 web`: a number is the time, as after `--timeout`."""
    given = [word for word in bound.words if word.isdecimal()]
    if not given:
        return
    if len(given) > 1 or "timeout" in bound.options:
        raise UsageError(
            f"freeze: {given[-1]}: the seconds are given twice",
            hint=f"`./{given[-1]}` is the machine in the directory {given[-1]}",
        )
    bound.options["timeout"] = float(given[0])
    bound.words.remove(given[0])


def _take_first(bound: Bound) -> None:
    """`rename web mail`: the first word is the machine."""
    from qvmsh.machine import registry

    for name, flag in (("directory", "-C"), ("machine", "-M")):
        if bound.common.get(name) is not None:
            raise UsageError(
                f"{bound.entry.verb}: which machine: {flag} {bound.common[name]}, or {bound.words[0]}?",
                hint=f"leave out {flag} or the word",
            )
    bound.common["directory"] = registry.resolve(bound.words.pop(0), os.environ)
