"""Errors as a user sees them."""

from __future__ import annotations

from tests.support.world import Result


def require_error(result: Result, *status: int, says: str = "") -> None:
    """One line and a hint; no traceback, nothing that drives a terminal."""
    assert result.status in status, str(result)
    lines = result.err.splitlines()
    assert lines[0].startswith("qvm: "), str(result)
    assert says in result.err, str(result)
    assert sum(line.startswith("hint: ") for line in lines) == 1, str(result)
    assert "Traceback" not in result.err
    assert "\x1b" not in result.err
