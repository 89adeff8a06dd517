"""The work lock, beside those who only ask whether it is held."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from qvmsh.host import locks, process


def test_lock_that_others_only_ask_about_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file still names an earlier holder that lives: this process."""
    path = tmp_path / "work.lock"
    path.write_text(f"{os.getpid()} 1 start\n")
    asking = [path.open()]
    fcntl.flock(asking[0], fcntl.LOCK_SH)

    def wait(_streams: object, _seconds: float) -> None:
        """The time between two tries, in which the other has its answer."""
        asking.pop().close()

    monkeypatch.setattr(process, "wait_readable", wait)
    with locks.WorkLock(str(path), "stop"):
        assert not asking
        assert path.read_text().endswith(" stop\n")


def test_lock_that_is_held_is_refused_with_its_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "work.lock")
    with locks.WorkLock(path, "start"):
        with pytest.raises(locks.Held, match="`qvm start`"):
            locks.WorkLock(path, "stop").acquire()
        found = locks.working(path)
        assert found is not None
        assert (found.pid, found.what) == (os.getpid(), "start")
    assert locks.working(path) is None
