"""The notes of linked clones in the machines that they are backed by."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qvmsh.machine.storage import linked

COUNT = 40


def test_rows_added_and_removed_at_a_time_are_all_kept(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / ".qvm").mkdir(parents=True)
    places = [tmp_path / str(number) for number in range(COUNT)]
    for number, place in enumerate(places):
        (place / ".qvm").mkdir(parents=True)
        (place / ".qvm/uuid").write_text(f"{number}\n")
        (place / linked.ORIGINAL).write_text(json.dumps({str(base): ["base.qcow2"]}))
    with ThreadPoolExecutor(COUNT) as pool:
        list(pool.map(linked.add, map(str, places)))
    rows = [json.loads(line) for line in (base / linked.CLONES).read_text().splitlines()]
    assert sorted(row["directory"] for row in rows) == sorted(map(str, places))
    with ThreadPoolExecutor(COUNT) as pool:
        list(pool.map(linked.forget, map(str, places)))
    assert os.listdir(base / ".qvm") == []
