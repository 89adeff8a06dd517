"""Archives of machines, and what is in their disks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.support.world import Vm


def make_archive(vm: Vm, *words: str, **kw: Any) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(vm.ok("--json", "archive", *words, **kw).out)
    return report


def make_frozen_archive(vm: Vm) -> dict[str, Any]:
    """An archive of a running guest that has an agent, however long that takes to answer."""
    report: dict[str, Any] = json.loads(vm.patiently("--json", "archive").out)
    assert report["consistency"] == "frozen"
    return report


def state_name(report: dict[str, Any]) -> str:
    return f"{report['archive']}/{report['stamp']}"


def archived_states(vm: Vm) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(vm.ok("--json", "archive", "--list").out)["states"]
    return found


def require_nothing_left(vm: Vm) -> None:
    """No incomplete file, no journal of interrupted work."""
    left = [
        str(path) for path in vm.directory.rglob("*") if ".part" in path.name or "restore-new" in path.name
    ]
    left += [
        str(path)
        for path in vm.directory.glob(".qvm/*")
        if path.name.startswith(("cut-", "staged-", "verify-"))
    ]
    assert not left
    assert not (vm.directory / ".qvm/archive.unfinished").exists()


def state_names(vm: Vm) -> list[str]:
    return [f"{row['archive']}/{row['stamp']}" for row in archived_states(vm)]


def damage(path: Path) -> None:
    """As a bad disk does it: the size stays, a byte changes."""
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 0xFF]))
