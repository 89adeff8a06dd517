"""What `disk trim` does with a program in the guest that does not end, or fails."""

from __future__ import annotations

import subprocess
from typing import cast

import pytest

from qvmsh.host.ssh_connection import Link
from qvmsh.machine.disk import trim


class Here:
    """A link to this host instead of a guest."""

    def __init__(self, *argv: str) -> None:
        self.argv = argv

    def run(self, _words: object, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.argv, capture_output=True, text=True, check=False, timeout=timeout_s)


def here(*argv: str) -> Link:
    return cast(Link, Here(*argv))


def test_fstrim_that_does_not_end_or_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trim._fstrim(here("true")) == ""
    assert trim._fstrim(here("false")) == "fstrim failed"
    assert trim._fstrim(here("sh", "-c", "echo one >&2; echo two >&2; exit 1")) == "two"
    monkeypatch.setattr(trim, "TRIM_S", 0.01)
    assert trim._fstrim(here("sleep", "60")) == "fstrim did not end within 0 s"
