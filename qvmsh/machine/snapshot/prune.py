"""Removing old snapshots of a series, as `snapshot save --keep` and `snapshot prune` ask.

    prune(vm, "nightly", Keep(count=7))      # keeps the newest seven called TIME-nightly

A series is the snapshots of this machine with the same name after the time stamp; those that another machine
made on a disk that both use are not counted. The tree decides what is spared: one that a snapshot made by
hand, several branches, or the current state descend from. (Each snapshot of a series descends from the one
before, of whichever series that is, so a single one of those does not count.)
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from qvmsh.errors import QvmError, StateError, UsageError
from qvmsh.machine import log, snapshot_names
from qvmsh.machine.snapshot import consistency, delete
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.reports import Pruned
from qvmsh.machine.snapshot.store import opened
from qvmsh.machine.work.lock import work_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.snapshot.store import Store

DAY_S = 86400
HERE = "the current state"


@dataclass(frozen=True)
class Keep:
    """What is kept of a series: what one of the two keeps.

    Args:
        count: the newest of them.
        days: those that are younger.
        has_parents: False: also remove what others descend from.
    """

    count: int | None = None
    days: float | None = None
    has_parents: bool = True

    def require_sense(self, verb: str) -> None:
        """Refuse to keep none at all.

        Raises:
            UsageError: with what is wrong.
        """
        if self.count is not None and self.count < 1:
            raise UsageError(f"{verb}: --keep {self.count}: must be at least 1")

    @property
    def is_asked(self) -> bool:
        return self.count is not None or self.days is not None


EVERYTHING = Keep()
"""Nothing is removed."""


@log.failures
def prune(vm: BaseMachine, name: str, keep: Keep) -> Pruned:
    """Remove old snapshots of a series; see `commands.snapshot`."""
    keep.require_sense("snapshot prune")
    if not keep.is_asked:
        raise UsageError(
            "snapshot prune: nothing says what to keep",
            hint="`--keep N` keeps the newest N, `--keep-days DAYS`",
        )
    with work_lock(vm, "snapshot prune"):
        return within(vm, name, keep)


def within(vm: BaseMachine, name: str, keep: Keep, saved: str = "") -> Pruned:
    """The same, for a caller that holds the work lock.

    Args:
        saved: the snapshot that was just saved: the newest, whatever the clock said at the time of others.

    Raises:
        StateError: there is no such series.
        QmpError, ImageError: one cannot be removed; those before it are gone.
    """
    with opened(vm, "delete a snapshot") as (store, _, _seen):
        known = Catalogue.read(vm)
        dates = dates_of(store, known)
        series = [each for each in dates if snapshot_names.series(each) == name]
        if not series:
            raise _unknown(vm, name, dates)
        going = old(series, dates, keep, time.time(), saved)
        spared = spare(going, dates, known) if keep.has_parents else {}
        removed = [each for each in going if each not in spared]
        for each in removed:
            store.require_one(each)
        delete.remove(store, known, removed)
    if removed:
        log.note(vm, f"removed the old snapshots {', '.join(removed)}")
    return Pruned(vm.name, removed, spared)


def after_save(vm: BaseMachine, saved: str, keep: Keep) -> Pruned:
    """Remove the old ones of the series of a snapshot that was just saved, which stays.

    Raises:
        QvmError: one cannot be removed; it says that the new one was saved.
    """
    try:
        return within(vm, snapshot_names.series(saved) or "", keep, saved)
    except QvmError as error:
        error.what = f"the snapshot {saved} was saved, but an old one cannot be removed: {error.what}"
        error.machine = vm.name
        raise


def dates_of(store: Store, known: Catalogue) -> dict[str, int]:
    """Name and date of each snapshot of this machine, in seconds since the epoch."""
    return {
        name: min(each.date_s for each in on.values())
        for name, on in store.by_name().items()
        if not name.endswith(snapshot_names.INTERNAL)
        and consistency.is_own(store.volumes, on, known.entries.get(name))
    }


def old(series: list[str], dates: Mapping[str, int], keep: Keep, now_s: float, saved: str = "") -> list[str]:
    """Those of a series that are not kept, the oldest first; never the newest, or the one just saved."""

    def age(name: str) -> tuple[bool, int, str]:
        return name == saved, dates[name], name

    found = []
    for at, each in enumerate(sorted(series, key=age, reverse=True)):
        is_kept = at == 0 or (keep.count is not None and at < keep.count)
        is_young = keep.days is not None and now_s - dates[each] < keep.days * DAY_S
        if not is_kept and not is_young:
            found.append(each)
    return found[::-1]


def spare(going: list[str], dates: Mapping[str, int], known: Catalogue) -> dict[str, list[str]]:
    """Those that stay although they are old, the oldest first, each with what descends from it.

    Args:
        going: the old ones, the oldest first. What is removed of them is no branch of those before it.
    """
    parents = {each: entry.get("parent") for each, entry in known.entries.items() if each in dates}
    found = {}
    for name in reversed(going):
        below = children(name, parents, known.head)
        if below:
            found[name] = below
            continue
        above = parents.pop(name, None)
        parents = {each: above if parent == name else parent for each, parent in parents.items()}
    return dict(reversed(found.items()))


def children(name: str, parents: Mapping[str, str | None], head: str) -> list[str]:
    """What descends from a snapshot directly, and keeps it.

    That is what somebody named, and the current state (`head` is what it descends from); and several
    snapshots called after their time: somebody went back to this one, and each is a branch. One of them
    alone only continues it.
    """
    below = [each for each, parent in parents.items() if parent == name]
    found = [each for each in below if snapshot_names.series(each) is None]
    found += [HERE] if head == name else []
    return found or (below if len(below) > 1 else [])


def _unknown(vm: BaseMachine, name: str, names: Mapping[str, int]) -> StateError:
    counts: dict[str, int] = {}
    for each in names:
        series = snapshot_names.series(each)
        if series is not None:
            counts[series or "(without a name)"] = counts.get(series or "(without a name)", 0) + 1
    there = ", ".join(f"{each}: {count}" for each, count in sorted(counts.items()))
    what = (
        f"there is no snapshot called TIME-{name}"
        if name
        else "there is no snapshot called after its time alone"
    )
    hint = f"series that are there: {there}" if there else "`qvm snapshot save NAME --keep N` begins one"
    return StateError(what, machine=vm.name, hint=hint)
