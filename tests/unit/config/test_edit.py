"""Changing one value: it reads back, and every other byte stays."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qvmsh.config import edit
from qvmsh.config.edit import assign, assign_in_file
from qvmsh.config.evaluation import evaluate
from qvmsh.config.grammar import parse
from qvmsh.errors import ConfigError, UsageError

some = settings(max_examples=500, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("text", "value", "changed"),
    [
        ("A=1\n", "2", "A=2\n"),
        ("A=1", "2", "A=2"),
        ("  export A='1 x'   # why\nB=$A\n", "3", "  export A=3   # why\nB=$A\n"),
        ("A=1\nB=2\nA=3\n", "x", "A=1\nB=2\nA=x\n"),
        ("A='1\n2' B=3\n", "x y", "A='x y' B=3\n"),
        ("A=a\\\nb\nB=1\n", "c", "A=c\nB=1\n"),
        ("A=${B:-x}\n", "$B", "A='$B'\n"),
        ("A=1\n", "", "A=\n"),
        ("B=1", "2", "B=1\nA=2\n"),
        ("", "2", "A=2\n"),
        ("# end", "2", "# end\nA=2\n"),
        ("B=1 \\\n", "2", "B=1 \\\n\nA=2\n"),
        ("B=1;A=2;C=3", "x;y", "B=1;A='x;y';C=3"),
        ("A=1\n", "a\nb", "A='a\nb'\n"),
        ("AA=1\nXA=2\n", "3", "AA=1\nXA=2\nA=3\n"),
    ],
)
def test_assign_changes_the_last_value_and_nothing_else(text: str, value: str, changed: str) -> None:
    assert assign(text, "A", value) == changed


pieces = st.sampled_from(
    [
        *(
            "A=1",
            "B='x y'",
            "export A=2",
            'C="$A"',
            "A=${B:-z}",
            "# A=9",
            " ",
            "\t",
            "\n",
            "\n",
            ";",
            "\\\n",
            "é",
        ),
        *("VM_A=5", "A=", "'", '"', "$(x)", "A=b c", "if x", "\r\n", "A+=1", "export"),
    ]
)
texts = st.lists(pieces, max_size=8).map("".join)
new_values = st.text(st.sampled_from("ab \n\t'\"\\$`~#;é=\udc80"), max_size=6)


@some
@given(text=texts, value=new_values)
def test_assign_any_text_keeps_other_bytes_and_reads_back(text: str, value: str) -> None:
    before = parse(text, "f")
    try:
        changed = assign(text, "A", value)
    except ConfigError:
        assume(before.problems)  # only a broken file can refuse
        return
    rows = [row for row in before.assignments if row.name == "A"]
    if rows:
        head, tail = text[: rows[-1].start], text[rows[-1].end :]
        assert changed.startswith(head)
        assert changed.endswith(tail)
    else:
        assert changed.startswith(text)
    after = parse(changed, "f")
    assert len(after.problems) <= len(before.problems)  # those of the old value are gone
    others = [(row.name, row.parts == [], row.is_export) for row in before.assignments]
    kept = [(row.name, row.parts == [], row.is_export) for row in after.assignments]
    assert [row for row in kept if row[0] != "A"] == [row for row in others if row[0] != "A"]
    values: dict[str, str] = {}
    evaluate(after, values)
    assert values["A"] == value


def test_assign_a_bad_name_or_a_nul_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a valid variable name"):
        assign("", "1A", "x")
    with pytest.raises(UsageError, match="NUL"):
        assign("", "A", "x\0y")


def test_assign_where_an_open_quote_would_swallow_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="would hide the new value") as caught:
        assign("B='x\n", "A", "it's")
    assert "an unclosed" in caught.value.details[0]


def test_assign_in_file_keeps_mode_owner_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / ".vmrc"
    path.write_bytes(b"# \xff caf\xe9\nA=1\n")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12345, 23456)
    before = path.stat()
    assign_in_file(str(path), "A", "2")
    after = path.stat()
    assert path.read_bytes() == b"# \xff caf\xe9\nA=2\n"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.listdir(tmp_path) == [".vmrc"]


def test_assign_in_file_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "vmrc", tmp_path / ".vmrc"
    target.write_text("A=1\n")
    link.symlink_to(target)
    assign_in_file(str(link), "A", "2")
    assert link.is_symlink()
    assert target.read_text() == "A=2\n"


def test_assign_in_file_that_cannot_be_written_leaves_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit, "unique", str)
    path = tmp_path / ".vmrc"
    path.write_text("A=1\n")
    part = tmp_path / "..vmrc.part"
    part.mkdir()  # the place where the new text would be written is taken
    with pytest.raises(FileExistsError):
        assign_in_file(str(path), "A", "2")
    assert path.read_text() == "A=1\n"
    assert part.is_dir()


def test_assign_in_file_a_reader_sees_old_or_new_only(tmp_path: Path) -> None:
    path = tmp_path / ".vmrc"
    path.write_text("A=0\n" + "# padding\n" * 5000)
    size = path.stat().st_size
    done = threading.Event()
    seen = set()

    def read() -> None:
        while not done.is_set():
            text = path.read_text()
            assert len(text) == size
            seen.add(text[:4])

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 10):
        assign_in_file(str(path), "A", str(number))
    done.set()
    reader.join()
    assert seen <= {f"A={number}\n" for number in range(10)}
    assert path.read_text().startswith("A=9\n")
