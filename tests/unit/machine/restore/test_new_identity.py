"""What is said of a new identity: the values that are others now."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvmsh.machine import identity
from qvmsh.machine.restore import new_identity
from tests.support.world import bare_environ, write_vmrc


@pytest.mark.parametrize(
    ("was", "port", "notes"),
    [
        ("auto", "", []),
        ("", "", ["VM_NET_MAC is now auto, it was empty"]),
        ("52:54:00:00:00:01", "", ["VM_NET_MAC is now auto, it was 52:54:00:00:00:01"]),
        ("auto", "7705", ["VM_NET_PORT is now 7700, it was 7705"]),
        ("auto", "7700", []),
    ],
)
def test_notes_are_about_changed_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was: str, port: str, notes: list[str]
) -> None:
    monkeypatch.setattr(identity, "free_id", lambda _: None)  # all 99 numbers are taken
    write_vmrc(tmp_path / "web", "web", VM_NET_MAC=was, VM_NET_PORT=port)
    found: list[str] = []
    new_identity.renew(str(tmp_path / "web"), "mail", bare_environ(tmp_path), found, has_snapshots=False)
    assert [each for each in found if each.startswith("VM_")] == notes
