"""What `disk trim` does with a program in the guest that does not end, or fails."""

from __future__ import annotations

import pytest

from qvmsh.machine import disk_size


def test_fstrim_that_does_not_end_or_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk_size._fstrim(["true"]) == ""
    assert disk_size._fstrim(["false"]) == "fstrim failed"
    assert disk_size._fstrim(["sh", "-c", "echo one >&2; echo two >&2; exit 1"]) == "two"
    monkeypatch.setattr(disk_size, "TRIM_S", 0.01)
    assert disk_size._fstrim(["sleep", "60"]) == "fstrim has not ended within 0 s"
