"""What the tests of the front ends share: a screen with ptpython's toolbar, leaving, breakpoints, jobs."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.tmux_terminal import Terminal, qvm_below
from tests.support.world import QVM, World


class Editor(Terminal):
    """A terminal whose last line may be ptpython's toolbar."""

    def lines(self) -> list[str]:
        found = [line for line in super().lines() if "[F4]" not in line and "[F6]" not in line]
        while found and not found[-1]:
            found.pop()
        return found


@contextlib.contextmanager
def screen_of(
    world: World, cwd: Path, *words: str | Path, env: dict[str, str] | None = None
) -> Iterator[Editor]:
    made = Editor([QVM, "sh", *map(str, words)], cwd, world.environ | (env or {}))
    try:
        yield made
    finally:
        made.close()


def exit_status(screen: Terminal) -> int:
    """Wait for the program's end (the window must stay: `remain-on-exit`); its exit status."""
    deadline = time.monotonic() + 30
    pid = screen.pid
    while True:
        with contextlib.suppress(OSError):  # tmux 3.3a sometimes misses the SIGCHLD and leaves a zombie
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z":
                return os.waitstatus_to_exitcode(int(fields[-1]))
        status = screen._tmux("display-message", "-p", "#{pane_dead_status}").strip()
        if status:
            return int(status)
        assert time.monotonic() < deadline, screen.text
        time.sleep(0.05)


def leave(screen: Terminal, line: str) -> int:
    """Type a line that ends the program; its exit status."""
    screen._tmux("set-option", "-g", "remain-on-exit", "on")
    screen.type(line)
    screen.wait(re.escape(line))
    screen.key("Enter")
    return exit_status(screen)


AT = re.compile(r"^\S+:(\d+) (?:\[\d+\] )?demo:(\w+)> ?$")


def wait_for_breakpoint(screen: Terminal, line: int, *, state: str = "stopped") -> None:
    """Wait for the prompt of a breakpoint in this line."""
    deadline = time.monotonic() + 60
    while True:
        found = screen.lines()
        match = AT.match(found[-1]) if found else None
        if match and (int(match[1]), match[2]) == (line, state):
            return
        assert time.monotonic() < deadline, screen.text
        time.sleep(0.05)


def run_at_breakpoint(screen: Terminal, line: int, text: str, *, state: str = "stopped") -> str:
    """Run one input at a breakpoint; what it printed."""
    screen.type(text)
    screen.wait(re.escape(text))
    before = len(screen.lines())
    screen.key("Enter")
    deadline = time.monotonic() + 60
    while len(screen.lines()) <= before:
        assert time.monotonic() < deadline, screen.text
        time.sleep(0.05)
    wait_for_breakpoint(screen, line, state=state)
    return "\n".join(screen.lines()[before:-1])


def has_terminal(screen: Terminal) -> bool:
    """True once the terminal has been given to the job in the foreground."""
    shell = qvm_below(screen)
    fields = Path(f"/proc/{shell}/stat").read_text().rpartition(")")[2].split()
    return fields[5] != fields[2]  # the terminal's group, and that of the shell


def wait_for_job(screen: Terminal) -> None:
    deadline = time.monotonic() + 90
    while not has_terminal(screen):
        assert time.monotonic() < deadline, screen.text
        time.sleep(0.05)


def stop_job(screen: Terminal) -> None:
    """Press Ctrl-Z once the job has the terminal."""
    wait_for_job(screen)
    count = len(screen.prompts())
    press(screen, "C-z", lambda: len(screen.prompts()) > count)
    screen.ready()


def interrupt(screen: Terminal) -> None:
    """Press Ctrl-C until it has an effect."""
    count = len(screen.prompts())
    press(screen, "C-c", lambda: len(screen.prompts()) > count)
    screen.ready()


def press(screen: Terminal, key: str, has_worked: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not has_worked():
        assert time.monotonic() < deadline, screen.text
        screen.key(key)
        patience = time.monotonic() + 5
        while not has_worked() and time.monotonic() < patience:
            time.sleep(0.1)
