"""Log files: rotated, read from their end, and never through a link."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvmsh.host import console_keeper as keeper
from qvmsh.host import logfiles
from qvmsh.host.tty_mode import Cleaner


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
@pytest.mark.parametrize(
    "text", [b"", b"a", b"a\n", b"\n\n", b"a\nb\nc\n", b"a\n\nlogin: ", b"x" * 70000 + b"\ny\n"]
)
def test_last_lines_are_those_of_tail(tmp_path: Path, text: bytes, count: int) -> None:
    (tmp_path / "log").write_bytes(text)
    lines = text.splitlines(keepends=True)
    with logfiles.opened(str(tmp_path / "log")) as file:
        found = logfiles.last_lines(file.fileno(), count)
    assert found == b"".join(lines[max(0, len(lines) - count) :] if count else [])


def test_last_lines_of_a_long_line_take_no_long_time(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * (20 << 20))
    began = time.process_time()
    with logfiles.opened(str(tmp_path / "log")) as file:
        assert len(logfiles.last_lines(file.fileno(), 10)) == 1 << 20
    assert time.process_time() - began < 10  # not each block with all that follow it


def test_rotate_keeps_five_in_their_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for number in range(8):
        logfiles.rotate(str(log))
        log.write_text(f"run {number}")
    assert log.read_text() == "run 7"
    assert [(tmp_path / f"log.{n}").read_text() for n in range(1, 6)] == [f"run {n}" for n in (6, 5, 4, 3, 2)]
    assert len(list(tmp_path.iterdir())) == 6


def test_rotate_leaves_an_empty_or_short_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    logfiles.rotate(str(log))
    log.write_text("short")
    logfiles.rotate(str(log), least=100)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_rotate_of_a_long_log_keeps_its_beginning_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "HEAD_BYTES", 10_000)
    monkeypatch.setattr(keeper, "TAIL_BYTES", 100_000)
    log = tmp_path / "log"
    log.write_bytes(b"a" * 10_000 + b"b" * 50_000 + b"c" * 100_000)
    log.chmod(0o640)
    logfiles.rotate(str(log))
    old = tmp_path / "log.1"
    assert old.read_bytes() == b"a" * 10_000 + keeper.LEFT_OUT % 50_000 + b"c" * 100_000
    assert old.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["log.1"]


def test_rotate_of_a_link_removes_the_link_and_leaves_its_target(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "log").symlink_to(target)
    logfiles.rotate(str(tmp_path / "log"))
    assert not (tmp_path / "log").is_symlink()
    assert target.read_text() == "precious"


@pytest.mark.parametrize("open_it", [logfiles.opened, logfiles.append_to])
def test_open_of_a_link_or_a_pipe_is_refused(tmp_path: Path, open_it: object) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to("target")
    __import__("os").mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match=r"symbolic links|regular file|No such device"):
            open_it(str(tmp_path / name))  # type: ignore[operator]
    assert (tmp_path / "target").read_text() == "precious"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain \xc3\xa4\n", "plain \u00e4\n"),
        (b"a\r\nb\r\r\nc", "a\nb\nc"),
        (b"10%\r20%\n", "10%^M20%\n"),
        (b"\rbanner\r\n\r\r\n\rlogin: \r", "banner\n\nlogin: ^M"),
        (b"\x1b[0;32m  OK  \x1b[0m up", "\x1b[0;32m  OK  \x1b[0m up"),
        (b"\x1bc\x1b[?7l\x1b[2J", "^[c^[[?7l^[[2J"),
        (b"\x1b]0;title\x07", "^[]0;title^G"),
        (b"\xc2\x9b31m", "M-^[31m"),
        ("\u202eevil".encode(), "<U+202E>evil"),
        (b"\xff\x00", "\ufffd^@"),
        (b"a\tb\x7f", "a\tb^?"),
    ],
)
def test_cleaner_lets_only_text_and_colours_through(data: bytes, shown: str) -> None:
    assert Cleaner().text(data, is_last=True) == shown
    cleaner = Cleaner()  # byte by byte it is the same
    pieces = [cleaner.text(data[at : at + 1]) for at in range(len(data))]
    assert "".join(pieces) + cleaner.text(b"", is_last=True) == shown


@given(st.binary())
def test_cleaner_lets_no_other_control_character_through(data: bytes) -> None:
    text = Cleaner().text(data, is_last=True)
    for at, character in enumerate(text):
        if character == "\x1b":
            assert text[at + 1] == "["
            assert text[at + 2 :].lstrip("0123456789;").startswith("m")
        else:
            assert character.isprintable() or character in "\n\t"
