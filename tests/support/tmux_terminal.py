"""`qvm sh` on a real terminal: tmux is the terminal, its screen is what a person would see."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.world import DEADLINE_S, QVM, Vm, World

PROMPT = re.compile(
    r"^(?:\[(?P<status>-?\d+)\] )?(?P<name>[\w-]+)(?::(?P<state>[\w ?]+?))?(?: (?P<cwd>[~/(]\S*))?>"
    r"(?: (?P<typed>.*))?$"
)


def is_zombie(pid: int) -> bool:
    """True where the process has ended, and its parent has not asked for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class Terminal:
    """One program on a terminal of 120 columns.

    Args:
        argv: the program.
        env: all of its environment.
    """

    def __init__(self, argv: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.env = env
        self.folder = tempfile.mkdtemp(prefix="qvmt-tmux-")
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "50", "-c", str(cwd), *argv)
        self._tmux("set-option", "-g", "history-limit", "20000")

    def _tmux(self, *words: str) -> str:
        argv = ["tmux", "-S", f"{self.folder}/tmux", *words]
        done = subprocess.run(
            argv, env=self.env, capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    @property
    def text(self) -> str:
        """Everything on the screen and above it, long lines joined."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-").rstrip()

    @property
    def pid(self) -> int:
        """The program's process."""
        pid = self._tmux("display-message", "-p", "#{pane_pid}").strip()
        assert pid, "the window is just being closed"
        return int(pid)

    @property
    def is_open(self) -> bool:
        """False once the program has ended, and its window with it."""
        argv = ["tmux", "-S", f"{self.folder}/tmux", "list-panes", "-F", "#{pane_pid}"]
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False)
        # tmux 3.3a sometimes misses the SIGCHLD, leaves a zombie and the window with it
        return done.returncode == 0 and not is_zombie(int(done.stdout))

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.text.splitlines()]

    def prompts(self) -> list[re.Match[str]]:
        """The prompts so far; the last one is where the cursor is, if nothing runs."""
        return [found for line in self.lines() if (found := PROMPT.match(line))]

    def wait(self, what: str, *, deadline_s: float = DEADLINE_S) -> str:
        """Wait until the screen shows the regular expression `what`; returns the screen."""
        deadline = time.monotonic() + deadline_s
        while True:
            text = self.text
            if re.search(what, text, re.MULTILINE) or re.search(
                what, re.sub(" +$", "", text, flags=re.M), re.M
            ):
                return text
            assert time.monotonic() < deadline, f"no {what!r} on the terminal:\n{text}"
            time.sleep(0.05)

    def ready(self, count: int = 1) -> re.Match[str]:
        """Wait for the prompt number `count`, with nothing typed after it and nothing being drawn."""
        return self._at_rest(count)[1]

    def _at_rest(self, count: int) -> tuple[list[str], re.Match[str]]:
        """Wait as `ready` does; the screen as it was then, and the prompt."""
        deadline = time.monotonic() + DEADLINE_S
        before: list[str] = []
        while True:
            lines = self.lines()
            found = [match for line in lines if (match := PROMPT.match(line))]
            is_last = bool(lines) and PROMPT.match(lines[-1])
            if len(found) >= count and is_last and not found[-1]["typed"] and lines == before:
                return lines, found[-1]
            assert time.monotonic() < deadline, f"no prompt {count}:\n{self.text}"
            before = lines
            time.sleep(0.05)

    def clear(self) -> None:
        """Clear the screen and all that is above it; only the prompt is left. Nothing may run or be typed."""
        deadline = time.monotonic() + DEADLINE_S
        self.key("C-l")
        while not (len(lines := self.lines()) == 1 and PROMPT.match(lines[0])):
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)
            self._tmux("clear-history")
        self.ready()

    def state(self, wanted: str) -> None:
        """Wait until the last prompt shows this state of the machine; it is painted when it is known."""
        deadline = time.monotonic() + DEADLINE_S
        while not (shown := self.prompts()) or shown[-1]["state"] != wanted:  # none: it is being drawn
            assert time.monotonic() < deadline, f"not {wanted}:\n{self.text}"
            time.sleep(0.05)

    def type(self, text: str) -> None:
        """Type `text` as it stands."""
        self._tmux("send-keys", "-l", text)

    def key(self, name: str) -> None:
        """Press a key: `C-c`, `Enter`, `Tab`."""
        self._tmux("send-keys", name)

    def enter(self, line: str, answer: str) -> None:
        """Type a line and Enter, and wait for its answer."""
        self.type(line)
        self.key("Enter")
        self.wait(answer)

    def begin(self, line: str) -> int:
        """Type a line and Enter; returns the number of the prompt that will follow it."""
        count = len(self.prompts())
        self.type(line)
        self.wait(re.escape(line[-40:]))
        self.key("Enter")
        return count + 1

    def run(self, line: str) -> str:
        """Run one line; returns what stands between it and the next prompt."""
        return self._output(self._at_rest(self.begin(line))[0])

    def output(self) -> str:
        """What the last line printed, once there is a prompt after it: it may be drawn again at any time."""
        return self._output(self._at_rest(2)[0])

    def _output(self, lines: list[str]) -> str:
        places = [at for at, line in enumerate(lines) if PROMPT.match(line)]
        return "\n".join(lines[places[-2] + 1 : places[-1]])

    def close(self) -> None:
        """Close the terminal's window and wait for the program's end; xonsh takes its time for that.

        A zombie has ended: its parent is the host's first process by now, which may ask for it seconds later.
        """
        with contextlib.suppress(AssertionError):
            pid = self.pid
            self._tmux("kill-server")
            deadline = time.monotonic() + DEADLINE_S
            while not is_zombie(pid) and time.monotonic() < deadline:
                time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def qvm_shell(world: World, cwd: Path, *words: str, env: dict[str, str] | None = None) -> Iterator[Terminal]:
    """`qvm sh` with `words` on a terminal."""
    made = Terminal([QVM, "sh", *words], cwd, world.environ | (env or {}))
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def qvm_in_shell(vm: Vm, command: str) -> Iterator[Terminal]:
    """`qvm COMMAND` in a shell on a terminal; then its status, and whether the mode is the same."""
    script = f"""
        trap : INT; before=$(stty -g); {QVM} {command}; status=$?
        [ "$before" = "$(stty -g)" ] && mode=same || mode=different
        echo; echo "status $status"; echo "after $mode"; exec cat
    """
    made = Terminal(["sh", "-c", script], vm.directory, vm.world.environ)
    try:
        yield made
    finally:
        made.close()


def wait_for_exit(terminal: Terminal, status: int) -> str:
    """Wait for qvm's end; the terminal must be as it was."""
    screen = terminal.wait(r"^after \S+")
    assert re.search(rf"^status {status}$", screen, re.MULTILINE), screen
    assert "after same" in screen, screen
    return screen


def qvm_below(terminal: Terminal) -> int:
    """Pid of the qvm that runs on the terminal."""
    with open(f"/proc/{terminal.pid}/task/{terminal.pid}/children") as file:
        return int(file.read().split()[0])
