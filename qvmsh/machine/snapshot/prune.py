"""Removing old snapshots of a series, as `snapshot save --keep` and `snapshot prune` ask.

    prune(vm, "nightly", Keep(count=7))      # keeps the newest seven called TIME-nightly

A series is the snapshots with the same name after the time stamp. The tree decides what is spared: one that
a snapshot of another series, or the current state, descends from. (Each of a series descends from the one
before, so those do not count.)
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from qvmsh.errors import QvmError, StateError, UsageError
from qvmsh.machine import log, snapshot_names
from qvmsh.machine.snapshot import delete
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


def within(vm: BaseMachine, name: str, keep: Keep) -> Pruned:
    """The same, for a caller that holds the work lock.

    Raises:
        StateError: there is no such series.
        QmpError, ImageError: one cannot be removed; those before it are gone.
    """
    with opened(vm, "delete a snapshot") as (store, _, _seen):
        known = Catalogue.read(vm)
        dates = dates_of(store)
        series = [each for each in dates if snapshot_names.series(each) == name]
        if not series:
            raise _unknown(vm, name, dates)
        going = old(series, dates, keep, time.time())
        spared = {each: names for each in going if (names := children(each, dates, known))}
        removed = [each for each in going if not keep.has_parents or each not in spared]
        for each in removed:
            store.require_one(each)
        delete.remove(store, known, removed)
    if removed:
        log.note(vm, f"removed the old snapshots {', '.join(removed)}")
    return Pruned(vm.name, removed, {} if not keep.has_parents else spared)


def after_save(vm: BaseMachine, saved: str, keep: Keep) -> Pruned:
    """Remove the old ones of the series of a snapshot that was just saved, which stays.

    Raises:
        QvmError: one cannot be removed; it says that the new one was saved.
    """
    try:
        return within(vm, snapshot_names.series(saved) or "", keep)
    except QvmError as error:
        error.what = f"the snapshot {saved} was saved, but an old one cannot be removed: {error.what}"
        error.machine = vm.name
        raise


def dates_of(store: Store) -> dict[str, int]:
    """Name and date of each snapshot on any disk, in seconds since the epoch."""
    found: dict[str, int] = {}
    for volume in store.volumes:
        for each in store.every(volume):
            if not each.name.endswith(snapshot_names.INTERNAL):
                found[each.name] = min(each.date_s, found.get(each.name, each.date_s))
    return found


def old(series: list[str], dates: Mapping[str, int], keep: Keep, now_s: float) -> list[str]:
    """Those of a series that are not kept, the oldest first; never the newest."""
    newest_first = sorted(series, key=lambda each: (dates[each], each), reverse=True)
    found = []
    for at, each in enumerate(newest_first):
        is_kept = at == 0 or (keep.count is not None and at < keep.count)
        is_young = keep.days is not None and now_s - dates[each] < keep.days * DAY_S
        if not is_kept and not is_young:
            found.append(each)
    return found[::-1]


def children(name: str, dates: Mapping[str, int], known: Catalogue) -> list[str]:
    """What descends from a snapshot directly, and is not of its own series."""
    own = snapshot_names.series(name)
    found = [
        each
        for each, entry in known.entries.items()
        if entry.get("parent") == name and each in dates and snapshot_names.series(each) != own
    ]
    return [*found, *([HERE] if known.head == name else [])]


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
