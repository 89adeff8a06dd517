"""Every time in the output of `--json` names its zone (real QEMU)."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime, timedelta

from tests.support.world import Blank

TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?([+-]\d\d:\d\d)?")
ZONE = {"TZ": "XXX-05:45"}  # east of Greenwich, with minutes


def times(found: object, key: str = "") -> list[tuple[str, object]]:
    """The values in a document that are times, or are called so."""
    if isinstance(found, dict):
        return [row for name, value in found.items() for row in times(value, name)]
    if isinstance(found, list):
        return [row for value in found for row in times(value, key)]
    is_one = key == "time" or (isinstance(found, str) and TIME.search(found))
    return [(key, found)] if is_one else []


def test_json_times_of_every_verb_are_iso_8601_with_the_zone(blank: Blank) -> None:
    vm = blank()
    began = time.time()
    vm.ok("snapshot", "save", "first")
    vm.ok("archive")
    catalogue = vm.directory / ".qvm/snapshots.json"
    old = re.sub(r'("time": "[^"]*)[+-]\d\d:\d\d"', r'\1"', catalogue.read_text())
    assert old != catalogue.read_text()
    catalogue.write_text(old)  # as it was written before, without a zone
    vm.ok("snapshot", "save", "second", env=ZONE)
    vm.ok("start", "--no-wait")
    count = 0
    for line in (
        "status", "list", "config", "doctor", "disk list", "disk check", "snapshot list", "dryrun",
        "img list", "snapshot show first", "snapshot show second", "snapshot verify",
        "snapshot diff first second", "archive --list", "snapshot save third", "archive --full",
        "archive --verify", "stop --force --timeout 1", "kill", "snapshot restore first",
        "snapshot delete third", "disk resize +1M",
    ):  # fmt: skip
        result = vm.qvm("--json", *line.split(), env=ZONE)
        for key, value in times(json.loads(result.out)):
            if key in ("message", "output", "finding", "hint"):  # text for people
                continue
            found = datetime.fromisoformat(str(value))
            assert found.utcoffset() is not None, (line, key, value)
            assert "show" in line or found.utcoffset() == timedelta(hours=5, minutes=45), (line, key, value)
            is_local = "first" not in line and key == "time"
            moment = found.timestamp()
            assert not is_local or began - 6 * 3600 < moment < time.time() + 600, (line, value)
            count += 1
    assert count > 5
    table = vm.ok("snapshot", "list").out
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", table)
    assert "+0" not in table
