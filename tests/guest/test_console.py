"""`qvm console` on real terminals, with a real guest's getty on the other side."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
from conftest import DEADLINE_S, QVM, Vm
from shell_terminal import Terminal, ended, qvm_below, shell

pytestmark = pytest.mark.guest


def log_in(terminal: Terminal) -> None:
    """Log in as root, or find oneself logged in already."""
    terminal.wait("detaches")
    terminal.key("Enter")
    terminal.wait(r"login: *$|# *$")
    if not re.search(r"# *$", terminal.text):
        terminal.type("root")
        terminal.key("Enter")
    terminal.wait(r"# *$")


def say(terminal: Terminal, command: str, answer: str) -> None:
    terminal.type(command)
    terminal.key("Enter")
    terminal.wait(answer)


def test_console_log_in_detach_and_come_back(running: Vm) -> None:
    with shell(running, "console") as terminal:
        terminal.wait("login:")  # what came before is shown
        log_in(terminal)
        say(terminal, "echo $((6*7))x; sleep 100", "^42x")
        terminal.key("C-c")  # is the guest's
        terminal.wait(r"\^C")
        say(terminal, "echo still $((40+3))", "^still 43")
        terminal.key("C-]")
        assert "detached" in ended(terminal, 0)
    with shell(running, "console --escape ^B") as terminal:
        terminal.wait("^still 43")
        say(terminal, "echo again $((40+4))", "^again 44")
        terminal.key("C-b")
        ended(terminal, 0)


def test_console_in_use_is_refused_watched_and_taken_over(running: Vm) -> None:
    with shell(running, "console") as first, shell(running, "console --watch") as watcher:
        log_in(first)
        refused = running.qvm("console")
        assert refused.status == 3
        assert f"the console is in use (root, pid {qvm_below(first)}" in refused.err
        assert "--take" in refused.err
        watcher.wait("watching the console")
        watcher.type("echo watcher writes\r")
        say(first, "echo first $((1+1))", "^first 2")
        assert "watcher writes" not in watcher.wait("^first 2")
        with shell(running, "console --take") as second:
            assert "the console was taken over by root, pid " in ended(first, 3)
            say(second, "echo second $((1+2))", "^second 3")
            watcher.wait("^second 3")
            assert "second 3" not in first.text
            watcher.key("C-c")
            ended(watcher, 0)
            second.key("C-]")
            ended(second, 0)


def test_console_whose_terminal_is_closed_ends(running: Vm) -> None:
    with shell(running, "console") as terminal:
        log_in(terminal)
        pid = qvm_below(terminal)
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert running.qvm("console").status == 0


def test_console_of_a_holder_that_is_stopped_is_not_taken(running: Vm) -> None:
    with shell(running, "console") as terminal:
        log_in(terminal)
        pid = qvm_below(terminal)
        os.kill(pid, signal.SIGSTOP)
        refused = running.qvm("console", "--take")
        os.kill(pid, signal.SIGCONT)
        assert refused.status == 3
        assert "does not leave" in refused.err
        assert "stopped" in refused.err
        ended(terminal, 3)  # it was asked, and leaves as soon as it can


def test_console_in_a_pipe_answers_and_ends(running: Vm) -> None:
    result = running.ok("console", stdin="\nroot\n\n")
    for number in (1, 2):
        result = running.ok("console", "--linger", "3", stdin=f"echo answer $(({number}+40))\n")
        assert f"answer {40 + number}" in result.out
    assert "login:" not in result.out  # only what is new
    assert running.ok("console").out.count("answer") == 0
    both = running.qvm("--json", "console")
    assert (both.status, "--json" in both.err) == (2, True)
    assert running.qvm("console", "--escape", "x").status == 2


def test_console_in_the_shell_owns_the_terminal(running: Vm) -> None:
    terminal = Terminal([QVM, "sh"], running.directory, running.world.environ)
    try:
        terminal.ready()
        terminal.begin("console")
        log_in(terminal)
        say(terminal, "echo in the guest $((2+2))", "^in the guest 4")
        terminal.key("C-]")
        terminal.wait("detached")
        assert terminal.ready(2)["name"] == "demo"
        assert "4" in terminal.run("echo @(2+2)")
    finally:
        terminal.close()


def test_console_ends_when_the_guest_powers_off_or_qemu_is_killed(guest: Vm) -> None:
    guest.ok("start")
    with shell(guest, "console") as terminal, shell(guest, "console --watch") as watcher:
        log_in(terminal)
        terminal.type("poweroff")
        terminal.key("Enter")
        assert "QEMU has ended" in ended(terminal, 0)
        ended(watcher, 0)
    assert guest.qvm("status").out == "demo: stopped\n"
    guest.ok("start")
    with shell(guest, "console") as terminal:
        log_in(terminal)
        os.kill(guest.pid, signal.SIGKILL)
        assert "QEMU crashed" in ended(terminal, 0)


def test_console_stays_through_a_reboot_as_the_log_does(guest: Vm) -> None:
    guest.ok("start")
    following = guest.world.popen("logs", "serial", "-f", "-n", "0", cwd=guest.directory)
    with shell(guest, "console") as terminal:
        terminal.wait("login:")
        count = terminal.text.count("login:")
        guest.ok("reboot")
        deadline = time.monotonic() + DEADLINE_S
        while terminal.text.count("login:") <= count:
            assert time.monotonic() < deadline, terminal.text
            time.sleep(0.1)
        terminal.key("C-]")
        ended(terminal, 0)
    following.send_signal(signal.SIGINT)
    out, _ = following.communicate(timeout=60)
    assert following.returncode == 130
    assert "built-in guest" in out
