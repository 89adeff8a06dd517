"""When a line of a pipe goes to a guest that logs somebody in."""

from __future__ import annotations

import pytest

from qvmsh.machine.terminal.console import SETTLE_S, STUCK_S, _Pace


def later(pace: _Pace, seconds: float) -> _Pace:
    """The same as if so much time had passed."""
    pace.heard_at -= seconds
    pace.began_at -= seconds
    return pace


@pytest.mark.parametrize(
    ("tail", "given"),
    [
        (b"demo login: ", b"root\n"),
        (b"\r\nPassword: ", b"root\n"),
        (b"Password for root: ", b"root\n"),
        (b"demo login: [   12.345678] a message\r\n[  OK  ] Started something.\r\n", b"root\n"),
        (b"root@demo:~# ", b"root\nuname -a\n"),
        (b"Last login: Sat Nov 28\r\n$ ", b"root\nuname -a\n"),
    ],
)
def test_prompt_of_a_log_in_gets_one_line_once_it_is_quiet(tail: bytes, given: bytes) -> None:
    pace = _Pace(tail, 60)
    assert pace.take(b"root\nuname -a\n", is_all=True) == b""
    assert later(pace, SETTLE_S).take(b"root\nuname -a\n", is_all=True) == given


def test_next_line_waits_for_the_next_prompt() -> None:
    pace = later(_Pace(b"login: ", 1), 1)
    line = pace.take(b"root\nls\n", is_all=True)
    pace.sent(line)
    for echo in (b"ro", b"ot\r\n"):  # what is echoed is no prompt
        pace.heard(echo)
        assert later(pace, 1).take(b"ls\n", is_all=True) == b""
    pace.heard(b"\r\n# ")
    assert later(pace, SETTLE_S).take(b"ls\n", is_all=True) == b"ls\n"


def test_guest_without_a_prompt_is_given_all_in_the_end() -> None:
    pace = _Pace(b"no prompt\r\n", 1)
    assert pace.take(b"x", is_all=True) == b""
    assert later(pace, 1).take(b"x", is_all=True) == b"x"
    busy = _Pace(b"", 60)
    busy.began_at -= STUCK_S
    busy.heard(b"it writes all the time\r\n")
    assert busy.take(b"x", is_all=True) == b"x"


def test_line_that_comes_in_pieces_goes_as_one() -> None:
    pace = later(_Pace(b"login: ", 1), 1)
    assert pace.take(b"ro", is_all=False) == b""
    assert pace.take(b"root\n", is_all=False) == b"root\n"
    assert pace.take(b"root", is_all=True) == b"root"
