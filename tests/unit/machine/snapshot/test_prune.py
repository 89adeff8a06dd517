"""Which snapshots of a series are old, and which of them stay nevertheless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qvmsh.errors import QvmError, UsageError
from qvmsh.machine import snapshot_names
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.snapshot import prune
from qvmsh.machine.snapshot.catalogue import Catalogue
from qvmsh.machine.snapshot.prune import DAY_S, HERE, Keep

NIGHTS = [f"2026-11-2{day}T03-00-00-nightly" for day in range(5)]
DATES = {name: 1_000_000 + day * DAY_S for day, name in enumerate(NIGHTS)}
NOW_S = DATES[NIGHTS[-1]] + 60.0


@pytest.fixture
def vm(tmp_path: Path) -> BaseMachine:
    return BaseMachine(tmp_path)


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("2026-11-21T10-00-00-nightly", "nightly"),
        ("2026-11-21T10-00-00-a-b c", "a-b c"),
        ("2026-11-21T10-00-00", ""),
        ("nightly", None),
        ("2026-11-21T10-00-00nightly", None),
        ("x2026-11-21T10-00-00-nightly", None),
        ("2026-11-21T10-00-00-", None),
    ],
)
def test_series_is_what_follows_the_time(name: str, series: str | None) -> None:
    assert snapshot_names.series(name) == series


@pytest.mark.parametrize("name", ["nightly", "", None])
def test_stamped_name_is_of_its_series(name: str | None) -> None:
    assert snapshot_names.series(snapshot_names.stamped(name)) == (name or "")


def test_meant_is_the_name_itself_or_the_only_one_of_its_series(vm: BaseMachine) -> None:
    there = [*NIGHTS, "2026-11-21T10-00-00-mail", "auto", "2026-11-21T10-00-00-auto", "2026-11-22T10-00-00"]
    assert snapshot_names.meant(vm, "mail", there) == "2026-11-21T10-00-00-mail"
    assert snapshot_names.meant(vm, "auto", there) == "auto"
    assert snapshot_names.meant(vm, NIGHTS[0], there) == NIGHTS[0]
    assert snapshot_names.meant(vm, "nosuch", there) == "nosuch"  # refused where it is used
    assert snapshot_names.meant(vm, "", there) == ""
    with pytest.raises(QvmError, match="5 snapshots are called nightly after their time") as raised:
        snapshot_names.meant(vm, "nightly", there)
    assert (raised.value.status, list(raised.value.details)) == (1, NIGHTS)


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Keep(3), 3),
        (Keep(1), 1),
        (Keep(9), 5),
        (Keep(days=2), 2),
        (Keep(days=0), 1),  # the newest stays
        (Keep(1, days=3.5), 4),  # what either keeps
        (Keep(4, days=1), 4),
    ],
)
def test_old_are_those_beyond_the_newest_and_the_young(keep: Keep, left: int) -> None:
    assert prune.old(NIGHTS[::-1], DATES, keep, NOW_S) == NIGHTS[: 5 - left]


def test_old_of_one_second_go_by_name() -> None:
    names = ["2026-11-21T10-00-01-x", "2026-11-21T10-00-00-x"]
    assert prune.old(names, dict.fromkeys(names, 7), Keep(1), NOW_S) == [names[1]]


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        (Keep(1), [*NIGHTS[:4], "2036"]),
        (Keep(2), NIGHTS[:4]),
        (Keep(3), NIGHTS[:3]),
        (Keep(days=1.5), NIGHTS[:3]),
    ],
)
def test_old_are_counted_from_the_one_just_saved(keep: Keep, gone: list[str]) -> None:
    dates = DATES | {"2036": DATES[NIGHTS[-1]] + 3650 * DAY_S}  # the clock was wrong
    assert prune.old([*NIGHTS, "2036"], dates, keep, NOW_S, saved=NIGHTS[-1]) == gone


def entries(parents: dict[str, str | None]) -> dict[str, dict[str, Any]]:
    return {name: {"name": name, "parent": parent} for name, parent in parents.items()}


def spared(
    vm: BaseMachine, going: list[str], parents: dict[str, str | None], head: str
) -> dict[str, list[str]]:
    dates = dict.fromkeys([*going, *(name for name in parents if name != "gone")], 1)
    return prune.spare(going, dates, Catalogue(vm, entries(parents), head))


def test_a_named_child_and_the_current_state_keep_an_old_one(vm: BaseMachine) -> None:
    a, b, c, d, _ = NIGHTS
    tree = {a: None, b: a, c: b, d: c, "mine": b, "gone": a}
    assert spared(vm, [a, b, c], tree, c) == {b: ["mine"], c: [HERE]}


def test_a_snapshot_of_another_series_only_continues_it(vm: BaseMachine) -> None:
    a, b, c, *_ = NIGHTS
    one, two, three = (f"2026-11-2{day}T04-00-00-hourly" for day in range(3))
    tree = {a: None, one: a, b: one, two: b, c: two, three: c}
    assert spared(vm, [a, b], tree, three) == {}
    assert spared(vm, [one, two], tree, three) == {}


def test_several_branches_keep_an_old_one_while_they_stay(vm: BaseMachine) -> None:
    a, b, c, d, _ = NIGHTS
    hour = "2026-11-20T04-00-00-hourly"
    assert spared(vm, [a], {a: None, hour: a, b: a}, b) == {a: [hour, b]}
    assert spared(vm, [a, b, c], {a: None, b: a, c: a, d: c}, d) == {}  # b goes, so a is no fork any more
    assert spared(vm, [a, b], {a: None, b: a, hour: b, c: a, d: c}, d) == {a: [hour, c]}


def test_keep_of_none_is_refused() -> None:
    with pytest.raises(UsageError, match="snapshot save: --keep 0: must be at least 1"):
        Keep(0).require_sense("snapshot save")
