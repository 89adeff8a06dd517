"""The history's database: one, private, ready for several shells from its first moment."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from qvmsh.io import QUIET
from qvmsh.shell.xonsh.history import database


def test_history_of_shells_that_begin_at_once_is_one_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    begin = threading.Barrier(12)
    found: list[tuple[str, int]] = []

    def shell() -> None:
        begin.wait()
        path = database("history.sqlite", QUIET)
        found.append((path, Path(path).stat().st_ino))

    threads = [threading.Thread(target=shell) for _ in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 12
    assert len(set(found)) == 1
    path = Path(found[0][0])
    assert path.stat().st_mode & 0o077 == 0
    # connections that close at the same moment may each leave SQLite's own files to the other
    left = {each.name.removesuffix("-wal").removesuffix("-shm") for each in path.parent.iterdir()}
    assert left == {"history.sqlite"}
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_history_that_is_there_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    path = Path(database("history.sqlite", QUIET))
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE kept (line TEXT)")
    connection.commit()
    connection.close()
    before = path.stat().st_ino
    assert database("history.sqlite", QUIET) == str(path)
    assert path.stat().st_ino == before
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("kept",)]
    connection.close()
