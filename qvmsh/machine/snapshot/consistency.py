"""Whether a snapshot fits the machine as it is now: its disks, its moment, its base, its hardware.

    mixture(volumes, on, entry)          # ["on disk1 it is another one of the same name, of ..."]
    without(volumes, on, entry)          # disks that were added to the machine later

Equal names prove nothing: `qemu-img` or HMP may have made or removed a snapshot on one disk only. So the
known times (the metadata, else QEMU's dates, which are the same on all disks) are compared before a
snapshot of several disks is used.
"""

from __future__ import annotations

import os
import time

from qvmsh.errors import StateError
from qvmsh.machine.snapshot.reports import word
from qvmsh.machine.storage import chain
from qvmsh.qemu import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.storage.volumes import Volume
    from qvmsh.qemu.qcow2 import Snapshot

APART_S = 1
"""The most by which QEMU's dates, in whole seconds, differ for disks taken together."""


def shown_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def without(
    volumes: Sequence[Volume], on: Mapping[str, Snapshot], entry: Mapping[str, Any] | None
) -> list[Volume]:
    """The disks without the snapshot that were added after it was taken, according to the metadata.

    Args:
        on: the snapshot on each disk, by the disk's id.
    """
    files = (entry or {}).get("disks", ())
    then = _same(volumes, files)
    return [each for each in volumes if each.id not in on and each.id not in then] if files else []


def is_own(volumes: Sequence[Volume], on: Mapping[str, Snapshot], entry: Mapping[str, Any] | None) -> bool:
    """True for a snapshot of this machine: it is on all the disks that the machine had at the time.

    One that is only on some of them is another machine's, which uses those disks too (or only a part is
    left of it).
    """
    missing = [each for each in volumes if each.id not in on]
    return not missing or missing == without(volumes, on, entry)


def may_be_own(
    volumes: Sequence[Volume], on: Mapping[str, Snapshot], entry: Mapping[str, Any] | None
) -> bool:
    """As `is_own`; also true for one that the machine knows, of which only a part is left."""
    return entry is not None or is_own(volumes, on, entry)


def gone(volumes: Sequence[Volume], entry: Mapping[str, Any] | None) -> list[str]:
    """The disks of the snapshot that the machine no longer has."""
    files = (entry or {}).get("disks", ())
    here = _same(volumes, files).values()
    return [path for at, path in enumerate(files) if at not in here]


def require_one_moment(
    vm: BaseMachine,
    volumes: Sequence[Volume],
    on: Mapping[str, Snapshot],
    name: str,
    entry: Mapping[str, Any] | None,
    *,
    is_forced: bool = False,
) -> None:
    """Refuse disks that other tools saved at different moments; warn of a base that has changed.

    Raises:
        StateError: the snapshots of that name do not match; nothing was changed.
    """
    wrong = mixture(volumes, on, entry)
    if wrong and not is_forced:
        raise StateError(
            f"the disks of the snapshot {name} are from different moments: {wrong[0]}",
            machine=vm.name,
            details=wrong[1:],
            hint=f"`qvm snapshot verify {word(name)}` shows more; "
            f"`qvm snapshot restore --force {word(name)}` restores it anyway",
        )
    for each in filter(None, [*wrong, doubt(on, entry), *base_changes(volumes, entry)]):
        vm.io.warn(f"{vm.name}: {name}: {each}")


def mixture(
    volumes: Sequence[Volume], on: Mapping[str, Snapshot], entry: Mapping[str, Any] | None
) -> list[str]:
    """Why the snapshots of one name on several disks are from different moments, a line each."""
    rows = _rows(volumes, entry)
    dates = [row["date_s"] for _, row in rows]
    other = [
        each.id
        for each, row in rows
        if each.id in on
        and (on[each.id].date_s, on[each.id].vmstate_bytes) != (row["date_s"], row["vmstate_bytes"])
    ]
    other += [
        each.id
        for each in volumes
        if dates and each.id in on and not any(each is known for known, _ in rows)
        and not min(dates) - APART_S <= on[each.id].date_s <= max(dates) + APART_S
    ]  # fmt: skip
    if other:
        times = {name: shown_time(on[name].date_s) for name in other}
        return [f"on {name} it is another snapshot of that name, from {times[name]}" for name in other]
    if not any(each.vmstate_bytes for each in on.values()):
        return [] if rows or _apart(on) <= APART_S else [_moments(on)]
    memory = next(each.date_s for each in on.values() if each.vmstate_bytes)
    return [
        f"its memory is from {shown_time(memory)}, but {name} from {shown_time(each.date_s)}"
        for name, each in on.items()
        if each.date_s != memory
    ]


def doubt(on: Mapping[str, Snapshot], entry: Mapping[str, Any] | None) -> str:
    """Why snapshots of one name made by other tools may be from different moments, or ""."""
    if (entry or {}).get("images") or _apart(on) != APART_S:
        return ""
    return f"{_moments(on)}, which may be two moments"


def _apart(on: Mapping[str, Snapshot]) -> int:
    dates = [each.date_s for each in on.values()]
    return max(dates, default=0) - min(dates, default=0)


def _moments(on: Mapping[str, Snapshot]) -> str:
    shown = sorted((each.date_s, name) for name, each in on.items())
    return "another tool saved " + ", ".join(f"{name} at {shown_time(date)}" for date, name in shown)


def doubles(volume: Volume, found: Sequence[Snapshot]) -> str:
    """That several snapshots of one disk have one name."""
    dates = ", ".join(shown_time(each.date_s) for each in found)
    return f"{volume.id} has {len(found)} snapshots named {found[0].name}, from {dates}"


def base_changes(volumes: Sequence[Volume], entry: Mapping[str, Any] | None) -> list[str]:
    """Bases that have changed: what the snapshot reads from them may be wrong."""
    found = []
    for each, base, now, name in _bases(volumes, entry):
        if now is None:
            found.append(f"the base {os.path.basename(base['file'])} of {each.id} is missing")
        elif now["size_bytes"] != base["size_bytes"] or now["mtime_ns"] != base["mtime_ns"]:
            what = "size" if now["size_bytes"] != base["size_bytes"] else "date"
            found.append(
                f"the {what} of the base {name} of {each.id} has changed since: "
                "data that the snapshot reads from it may be wrong"
            )
    return found


def base_doubts(volumes: Sequence[Volume], entry: Mapping[str, Any] | None) -> list[str]:
    """Bases that may have been written to although size and date are the same."""
    found = []
    for each, base, now, name in _bases(volumes, entry):
        if now is None:
            continue
        if now["ctime_ns"] != base.get("ctime_ns"):
            found.append(
                f"the base {name} of {each.id} has the same size and date, but its file was touched since; "
                "its content was not compared"
            )
        kind = image.header(each.path, each.format).backing_format
        if chain.base_of(chain.base_of(each.path, each.format), kind):
            found.append(
                f"the base {name} of {each.id} is backed by another image, which may have been "
                "written to since"
            )
    return found


def _bases(
    volumes: Sequence[Volume], entry: Mapping[str, Any] | None
) -> Iterator[tuple[Volume, dict[str, Any], dict[str, int] | None, str]]:
    """Each disk with a base: what is known of it, what it is now (None: gone), and its name."""
    for each, row in _rows(volumes, entry):
        base = row.get("base") or None
        if base is None:
            continue
        file = chain.base_of(each.path, each.format)
        try:
            yield each, base, chain.print_of(file), os.path.basename(file)
        except OSError:
            yield each, base, None, os.path.basename(file)


def _rows(volumes: Sequence[Volume], entry: Mapping[str, Any] | None) -> list[tuple[Volume, dict[str, Any]]]:
    """The metadata of the snapshot on each disk that the machine still has."""
    rows = (entry or {}).get("images", ())
    same = _same(volumes, [row.get("file") or row["id"] for row in rows])
    return [(each, rows[same[each.id]]) for each in volumes if each.id in same]


def _same(volumes: Sequence[Volume], files: Sequence[str]) -> dict[str, int]:
    """Which of the recorded files each disk is, by the disk's id.

    The directory may have moved, so the longest unique end of the path counts; files that cannot be
    distinguished are matched in order.
    """
    found: dict[str, int] = {}
    paths = {each.id: each.path.split("/") for each in volumes}
    then = {at: path.split("/") for at, path in enumerate(files)}
    for many in range(max(map(len, [*paths.values(), *then.values()]), default=0), 0, -1):
        ends: dict[tuple[str, ...], tuple[list[str], list[int]]] = {}
        for name, words in paths.items():
            if name not in found:
                ends.setdefault(tuple(words[-many:]), ([], []))[0].append(name)
        for at, words in then.items():
            if at not in found.values():
                ends.setdefault(tuple(words[-many:]), ([], []))[1].append(at)
        for names, places in ends.values():
            if len(names) == len(places) == 1 or many == 1:
                found.update(zip(names, places, strict=False))
    return found
