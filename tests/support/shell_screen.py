"""What the tests of the front ends share: a screen with ptpython's toolbar, leaving, breakpoints, jobs."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.tmux_terminal import PROMPT, Terminal, qvm_below
from tests.support.world import DEADLINE_S, QVM, Vm, World, create_blank


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


class Shell(Editor):
    """An interactive shell of a machine, on a terminal.

    Args:
        argv: what opens it.
    """

    def __init__(self, vm: Vm, argv: list[str]) -> None:
        super().__init__(argv, vm.directory, vm.world.environ)
        self.vm = vm


def open_shell(vm: Vm, ui: str) -> Shell:
    return Shell(vm, [QVM, "sh", "--ui", ui])


class Shells:
    """Interactive shells that several tests use in turn: one for each front end, with a machine of its own.

    A test gets a shell at an empty prompt, on a clear screen, in the directory of a machine that is off;
    it leaves it so. A shell that was left otherwise is closed, and the next test gets a new one. Names,
    aliases and the history of earlier tests are still there.

    Args:
        make: opens the shell of a front end.
    """

    def __init__(self, world: World, make: Callable[[Vm, str], Shell] = open_shell) -> None:
        self._world = world
        self._make = make
        self._open: dict[str, Shell] = {}

    def __call__(self, ui: str = "xonsh") -> Shell:
        """The shell of this front end."""
        screen = self._open.get(ui)
        if screen and is_at_rest(screen):
            screen.state("stopped")
            screen.clear()
            return screen
        if screen:
            screen.close()
            screen.vm.kill()
        vm = screen.vm if screen else create_blank(self._world, where=f"{ui}/demo")
        self._open[ui] = screen = self._make(vm, ui)
        screen.ready()
        screen.state("stopped")
        return screen

    def close(self) -> None:
        for screen in self._open.values():
            screen.close()
            screen.vm.kill()


def is_at_rest(screen: Terminal) -> bool:
    """True if the shell is at an empty prompt in the directory where it began."""
    lines = screen.lines() if screen.is_open else []
    prompt = PROMPT.match(lines[-1]) if lines else None
    return bool(prompt and not prompt["typed"] and not prompt["cwd"])


def exit_status(screen: Terminal) -> int:
    """Wait for the program's end (the window must stay: `remain-on-exit`); its exit status."""
    deadline = time.monotonic() + DEADLINE_S
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
    deadline = time.monotonic() + DEADLINE_S
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
    deadline = time.monotonic() + DEADLINE_S
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
    deadline = time.monotonic() + DEADLINE_S
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


def until_foreground(vm: Vm, line: str) -> None:
    """Wait until the program `line` runs and has the terminal."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        for pid, found in vm.world.processes().items():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if found.strip() == line and fields[2] == fields[5]:  # its group, the terminal's
                    return
        time.sleep(0.05)
    raise AssertionError(f"{line} is not in the foreground")


def press(screen: Terminal, key: str, has_worked: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not has_worked():
        assert time.monotonic() < deadline, screen.text
        screen.key(key)
        patience = time.monotonic() + 60  # pressed twice, it would go to what comes after
        while not has_worked() and time.monotonic() < patience:
            time.sleep(0.1)
