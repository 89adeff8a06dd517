"""What was typed in a session: numbers, ranges, the script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qvmsh.errors import UsageError
from qvmsh.io import QUIET
from qvmsh.machine.overview.session import SessionLines
from qvmsh.shell.session.context import Context
from qvmsh.shell.session.lines import Lines


def typed(*rows: tuple[str, int], is_python: bool = False) -> Lines:
    made = Lines(Context(None, QUIET, {}), is_python=is_python)
    for text, status in rows:
        made.begin(text)
        made.end(status)
    return made


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ([], [1, 2, 3, 4]), (["2"], [2]), (["2-3"], [2, 3]), (["3-"], [3, 4]), (["-2"], [1, 2]),
        (["4", "1-2", "2"], [1, 2, 4]),
    ],
)  # fmt: skip
def test_ranges_name_lines(words: list[str], numbers: list[int]) -> None:
    lines = typed(("a", 0), ("b", 0), ("c", 1), ("d", 0))
    assert [row.number for row in lines.chosen(words)] == numbers


@pytest.mark.parametrize("word", ["0", "5", "2-5", "5-", "3-2", "x", "-", "", "1-x", "²"])
def test_range_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="lines"):
        typed(("a", 0), ("b", 0), ("c", 1), ("d", 0)).chosen([word])


def test_words_about_the_session_are_not_kept() -> None:
    lines = typed(
        ("session list", 0), ("vm session save x", 0), ("x = session.list()", 0), ("session = 5", 0),
        (" \n", 0), ("echo session list", 0), ("y = 1; session list", 0),
    )  # fmt: skip
    assert [row.text for row in lines.chosen([])] == ["session = 5", "echo session list"]
    with pytest.raises(UsageError, match="nothing was typed"):
        typed().chosen([])


def test_list_shows_numbers_statuses_and_continued_lines() -> None:
    rows = [row.as_row() for row in typed(("a", 0), ("for i in x:\n    b", 130)).chosen([])]
    assert str(SessionLines(rows)) == "   1        a\n   2  [130] for i in x:\n                b"


def test_saved_script_holds_failed_lines_as_comments(tmp_path: Path) -> None:
    lines = typed(("a", 0), ("for i in x:\n    b", 130), ("c", 0))
    path = tmp_path / "s.xsh"
    assert lines.save(str(path), ["1-2"], is_forced=False) == (str(path), 2, 1)
    text = path.read_text()
    assert text == "#!/usr/bin/env -S qvm sh\na\n# status 130:\n#   for i in x:\n#       b\n"
    assert os.access(path, os.X_OK)
    with pytest.raises(UsageError, match="already exists"):
        lines.save(str(path), [], is_forced=False)
    assert path.read_text() == text
    lines.save(str(path), ["3"], is_forced=True)
    assert path.read_text().endswith("\nc\n")
    assert not list(tmp_path.glob("s.xsh?*"))


@pytest.mark.parametrize(
    ("name", "is_python", "head"),
    [
        ("s.xsh", False, "#!/usr/bin/env -S qvm sh"),
        ("s", False, "#!/usr/bin/env -S qvm sh --xonsh"),
        ("s.py", False, "#!/usr/bin/env -S qvm sh --xonsh"),
        ("s.py", True, "#!/usr/bin/env -S qvm sh"),
        ("s", True, "#!/usr/bin/env -S qvm sh"),
    ],
)
def test_first_line_says_which_language_it_is(tmp_path: Path, name: str, is_python: bool, head: str) -> None:
    typed(("x = 1", 0), is_python=is_python).save(str(tmp_path / name), [], is_forced=False)
    assert (tmp_path / name).read_text().splitlines()[0] == head


def test_await_at_the_prompt_becomes_a_script_that_runs(tmp_path: Path) -> None:
    lines = typed(
        ("import asyncio", 0),
        ("x = await asyncio.sleep(0, 'ä') + (await  (asyncio.sleep(0, 'b')))", 0),
        ("async def f():\n    return await asyncio.sleep(0, 'c')", 0),
        ("y = [await f(), await f()]", 0),
        ("print(x, y)", 0),
        is_python=True,
    )
    lines.save(str(tmp_path / "s.py"), [], is_forced=False)
    done = subprocess.run([sys.executable, tmp_path / "s.py"], capture_output=True, text=True, check=True)
    assert done.stdout == "äb ['c', 'c']\n"
