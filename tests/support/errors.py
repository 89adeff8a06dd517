"""Errors as a user sees them."""

from __future__ import annotations

from tests.support.world import Result


def require_one_error(result: Result, *status: int, says: str = "") -> None:
    """Require an error in one line, and one hint; no traceback, nothing that drives a terminal."""
    assert result.status in status, str(result)
    lines = result.err.splitlines()
    assert lines[0].startswith("qvm: "), str(result)
    assert says in result.err, str(result)
    assert sum(line.startswith("hint: ") for line in lines) == 1, str(result)
    assert "Traceback" not in result.err
    assert "\x1b" not in result.err


def require_error(result: Result, status: int, says: str, hint: str = "", who: str = "") -> None:
    """Require the exit status, a line `qvm: WHO...` with the text, and a hint; no traceback."""
    assert result.status == status, str(result)
    lines = result.err.splitlines()
    assert any(line.startswith(f"qvm: {who}") and says in line for line in lines), str(result)
    assert any(line.startswith("hint: ") and hint in line for line in lines), str(result)
    assert "Traceback" not in result.err
