"""Whether a snapshot fits the machine as it is now: its disks, its moment, its base, its hardware.

May import: `qemu`, `machine`.

    mixture(volumes, on, entry)          # ["on disk1 it is another one of the same name, of ..."]
    without(volumes, on, entry)          # disks that were none of the machine when it was taken

A name says nothing: `qemu-img` or HMP may have made or removed a snapshot on one disk alone. What is
known of the moment (the metadata; else QEMU's own dates, which it makes the same on all disks) is
compared before anything is put together from several disks.
"""

from __future__ import annotations

import os
import time

from qvmsh.machine import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from qvmsh.machine.volumes import Volume
    from qvmsh.qemu.qcow2 import Snapshot

APART_S = 60
"""Snapshots of one name without memory that are so far apart were hardly taken together."""


def shown_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def without(
    volumes: Sequence[Volume], on: Mapping[str, Snapshot], entry: Mapping[str, Any] | None
) -> list[Volume]:
    """The disks without the snapshot that were none of the machine when it was taken, as the metadata tell.

    Args:
        on: the snapshot on each disk, by the disk's id.
    """
    files = (entry or {}).get("disks", ())
    then = _same(volumes, files)
    return [each for each in volumes if each.id not in on and each.id not in then] if files else []


def gone(volumes: Sequence[Volume], entry: Mapping[str, Any] | None) -> list[str]:
    """The disks of then that are none of the machine now."""
    files = (entry or {}).get("disks", ())
    here = _same(volumes, files).values()
    return [path for at, path in enumerate(files) if at not in here]


def mixture(
    volumes: Sequence[Volume], on: Mapping[str, Snapshot], entry: Mapping[str, Any] | None
) -> list[str]:
    """Why the snapshots of one name on several disks are not of one moment, a line each."""
    found = []
    for each, row in _rows(volumes, entry):
        now = on.get(each.id)
        if now and (now.date_s != row["date_s"] or now.vmstate_bytes != row["vmstate_bytes"]):
            found.append(f"on {each.id} it is another one of the same name, of {shown_time(now.date_s)}")
    if found or not any(each.vmstate_bytes for each in on.values()):
        return found
    memory = next(each.date_s for each in on.values() if each.vmstate_bytes)
    return [
        f"its memory is of {shown_time(memory)}, and {name} of {shown_time(each.date_s)}"
        for name, each in on.items()
        if each.date_s != memory
    ]


def doubt(on: Mapping[str, Snapshot], entry: Mapping[str, Any] | None) -> str:
    """Why snapshots of one name that only other tools know of may be of different moments, or ""."""
    dates = [each.date_s for each in on.values()]
    if (entry or {}).get("images") or not dates or max(dates) - min(dates) < APART_S:
        return ""
    return f"its disks were saved between {shown_time(min(dates))} and {shown_time(max(dates))}"


def base_changes(volumes: Sequence[Volume], entry: Mapping[str, Any] | None) -> list[str]:
    """Bases that were written to (or exchanged) since: what the snapshot reads from them may be wrong."""
    found = []
    for each, row in _rows(volumes, entry):
        base = row.get("base") or None
        if base is None:
            continue
        file = chain.base_of(each.path, each.format)
        try:
            is_same = chain.print_of(file) == {key: base[key] for key in ("size_bytes", "mtime_ns")}
        except OSError:
            found.append(f"the base {os.path.basename(base['file'])} of {each.id} is not there any more")
            continue
        if not is_same:
            found.append(
                f"the base {os.path.basename(file)} of {each.id} was written to since: "
                "what the snapshot reads from it may be wrong"
            )
    return found


def _rows(volumes: Sequence[Volume], entry: Mapping[str, Any] | None) -> list[tuple[Volume, dict[str, Any]]]:
    """What the metadata tell of the snapshot on each disk that is one of the machine still."""
    rows = (entry or {}).get("images", ())
    same = _same(volumes, [row.get("file") or row["id"] for row in rows])
    return [(each, rows[same[each.id]]) for each in volumes if each.id in same]


def _same(volumes: Sequence[Volume], files: Sequence[str]) -> dict[str, int]:
    """Which of the files of then each disk is, by the disk's id.

    The directory may have moved: where it is not the whole path, as much of its end as tells it from the
    others; and of several that nothing tells apart the first is the first.
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
