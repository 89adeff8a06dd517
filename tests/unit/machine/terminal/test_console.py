"""The console: when a line of a pipe goes to a guest at its login, what is shown, and escape keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvmsh.errors import UsageError
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.terminal import console
from qvmsh.machine.terminal.pace import QUIET_S, STUCK_S, UNSURE_S, Pace


def later(pace: Pace, seconds: float) -> Pace:
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
    pace = Pace(tail, 60)
    assert pace.take(b"root\nuname -a\n", is_all=True) == b""
    assert later(pace, QUIET_S).take(b"root\nuname -a\n", is_all=True) == given


def test_next_line_waits_for_the_next_prompt() -> None:
    pace = later(Pace(b"login: ", 1), 1)
    line = pace.take(b"root\nls\n", is_all=True)
    pace.sent(line)
    for echo in (b"ro", b"ot\r\n"):  # what is echoed is not a prompt
        pace.heard(echo)
        assert later(pace, 1).take(b"ls\n", is_all=True) == b""
    pace.heard(b"\r\n# ")
    assert later(pace, QUIET_S).take(b"ls\n", is_all=True) == b"ls\n"


@pytest.mark.parametrize(
    "prompt", [b"~ # ", b"demo:~$ \x1b[6n", b"Password: ", b"Continue? ", b"(initramfs) "]
)
def test_message_that_stops_in_the_middle_is_not_a_prompt(prompt: bytes) -> None:
    """A guest on a busy host pauses in the middle of a line."""
    pace = later(Pace(b"login: ", 60), 1)
    pace.sent(pace.take(b"root\nls\n", is_all=True))
    pace.heard(b"\r\nroot logged in on 'tty")
    assert later(pace, UNSURE_S - 0.5).take(b"ls\n", is_all=True) == b""
    pace.heard(b"S0'\r\n" + prompt)
    assert later(pace, QUIET_S).take(b"ls\n", is_all=True) == b"ls\n"


def test_prompt_of_an_unknown_form_gets_the_next_line_later() -> None:
    assert later(Pace(b"ready", 60), UNSURE_S).take(b"ls\n", is_all=True) == b"ls\n"


def test_guest_without_a_prompt_is_given_all_in_the_end() -> None:
    pace = Pace(b"no prompt\r\n", 1)
    assert pace.take(b"x", is_all=True) == b""
    assert later(pace, 1).take(b"x", is_all=True) == b"x"
    busy = Pace(b"", 60)
    busy.began_at -= STUCK_S
    busy.heard(b"it writes all the time\r\n")
    assert busy.take(b"x", is_all=True) == b"x"


def test_line_that_comes_in_pieces_goes_as_one() -> None:
    pace = later(Pace(b"login: ", 1), 1)
    assert pace.take(b"ro", is_all=False) == b""
    assert pace.take(b"root\n", is_all=False) == b"root\n"
    assert pace.take(b"root", is_all=True) == b"root"


def test_console_shows_the_log_and_falls_back_on_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = BaseMachine(tmp_path)
    log = Path(vm.state_folder()) / "log/serial.log"
    log.write_bytes(b"before\n")
    output = console._Output(vm, 24)
    assert output.read() == b"before\n"
    output.heard(b"both")
    assert output.read() == b""  # the log gets it in a moment
    with log.open("ab") as file:
        file.write(b"both")
    assert output.read() == b"both"
    assert output.read() == b""
    monkeypatch.setattr(console, "_DARK_S", 0.0)
    output.heard(b"only here")  # the disk is full
    assert output.read() == b"only here"
    assert output.read() == b""
    with log.open("ab") as file:
        file.write(b"again")
    output.heard(b"again")
    assert output.read() == b"again"
    assert output.read() == b""
    output.close()


def test_terminal_is_not_asked_again_by_the_history(tmp_path: Path) -> None:
    """It would answer the guest's questions of then by typing into the guest of now."""
    vm = BaseMachine(tmp_path)
    log = Path(vm.state_folder()) / "log/serial.log"
    asked = b"\x1b[31m# \x1b[6n\x1b[>0c\x1bZ\x05\n"
    for is_terminal, shown in ((True, b"\x1b[31m# \n"), (False, asked)):
        log.write_bytes(asked)
        output = console._Output(vm, 24, is_terminal=is_terminal)
        assert output.read() == shown
        with log.open("ab") as file:
            file.write(b"# \x1b[6n")
        assert output.read() == b"# \x1b[6n"
        output.close()


@pytest.mark.parametrize(("name", "key"), [("^]", b"\x1d"), ("^a", b"\x01"), ("^@", b"\0"), ("^_", b"\x1f")])
def test_key_of_an_escape(name: str, key: bytes) -> None:
    assert console.key_of(name) == key


@pytest.mark.parametrize("name", ["", "x", "^", "^1", "^^^"])
def test_key_of_anything_else_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        console.key_of(name)
