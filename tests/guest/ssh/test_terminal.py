"""`qvm ssh` on a terminal, as a job of bash: what is typed goes to it in the foreground only."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tmux_terminal import Terminal
from tests.support.world import DEADLINE_S, QVM, Vm

pytestmark = pytest.mark.guest


class Bash(Terminal):
    """An interactive bash in the machine's directory; `qvm` is this qvm."""

    def __init__(self, vm: Vm) -> None:
        path = f"{Path(QVM).parent}:{os.environ['PATH']}"
        environ = vm.world.environ | {"PS1": "ready> ", "HISTFILE": "", "PATH": path}
        super().__init__(["bash", "--norc", "--noprofile", "-i"], vm.directory, environ)
        self.wait("ready>")
        self.count = 0
        self.say("before=$(stty -g)")

    def line(self, text: str) -> None:
        self.type(text)
        self.key("Enter")

    def say(self, text: str) -> str:
        """Run a line in bash; what it printed."""
        self.count += 1
        self.line(f"{text}; echo end-$?-{self.count}")
        return self.wait(rf"^end-\d+-{self.count}").rpartition(f"end-$?-{self.count}")[2]

    def prompt(self) -> None:
        """Wait for bash: what is typed before goes to the program that ends."""
        self.wait(r"^ready>\Z")

    def require_as_before(self) -> None:
        assert "same" in self.say('[ "$before" = "$(stty -g)" ] && echo sa""me || stty -a')


@pytest.fixture
def bash(running: Vm) -> Iterator[Bash]:
    made = Bash(running)
    yield made
    made.require_as_before()
    made.close()


def begin(vm: Vm, bash: Bash, line: str, name: str) -> None:
    """Type a line that makes the guest write what it reads to /tmp/NAME, and wait until it does."""
    vm.ok("ssh", f"rm -f /tmp/{name}")
    bash.line(line)
    vm.ok("ssh", f"until test -e /tmp/{name}; do usleep 50000; done")


def require_typed_for_bash(bash: Bash) -> None:
    """A password is typed, and bash gets it."""
    bash.line("read -r -s -p 'secret? ' secret; echo; echo got-$secret-")
    bash.wait(r"^secret\?")  # what is typed while readline has the terminal still ends with a CR
    bash.line("hunter2")
    bash.wait("^got-hunter2-")


def test_ssh_in_background_never_reads_the_terminal(running: Vm, bash: Bash) -> None:
    begin(running, bash, "qvm ssh 'cat > /tmp/one' &", "one")
    require_typed_for_bash(bash)
    assert "Running" in bash.say("jobs")
    bash.line("fg")
    bash.wait("^qvm ssh")
    bash.line("for the guest")
    bash.key("C-d")
    bash.say("true")
    assert running.ok("ssh", "cat /tmp/one").out == "for the guest\n"


def test_ssh_stopped_by_ctrl_z_reads_again_after_fg(running: Vm, bash: Bash) -> None:
    begin(running, bash, "qvm ssh 'cat > /tmp/two'", "two")
    bash.line("first")
    running.ok("ssh", "until grep -q first /tmp/two; do usleep 50000; done")  # Ctrl-Z drops unread input
    bash.key("C-z")
    bash.wait("Stopped")
    require_typed_for_bash(bash)
    bash.line("fg")
    bash.wait("^qvm ssh")
    bash.line("second")
    bash.key("C-d")
    bash.say("true")
    assert running.ok("ssh", "cat /tmp/two").out == "first\nsecond\n"


def test_ssh_reader_that_leaves_ends_it(running: Vm, bash: Bash) -> None:
    bash.line("qvm ssh 'seq 1000000' | less")
    bash.wait("^40$")
    bash.key("q")
    bash.prompt()
    require_typed_for_bash(bash)
    assert not [line for line in running.world.processes().values() if "seq 1000000" in line]


def test_ssh_ctrl_c_is_130_without_a_word(running: Vm, bash: Bash) -> None:
    begin(running, bash, "qvm ssh 'touch /tmp/three; sleep 600'", "three")
    bash.key("C-c")
    bash.wait(r"\^C")
    assert "status-130" in bash.say("echo status-$?")
    assert "qvm:" not in bash.text


def test_ssh_login_shell_has_size_status_and_mode(running: Vm, bash: Bash) -> None:
    bash.line("qvm ssh")
    bash.wait(r"^\S*[$#] ?$")
    bash.line("stty size")
    bash.wait("^50 120")
    bash._tmux("resize-window", "-x", "100", "-y", "40")
    bash.line("until stty size | grep '^40 100'; do usleep 50000; done")
    bash.wait("^40 100")
    bash.line("exit 4")
    bash.prompt()
    assert "status-4" in bash.say("echo status-$?")
    assert not re.search("(?i)connection to", bash.text)


def test_ssh_with_a_terminal_in_background_waits_for_it(running: Vm, bash: Bash) -> None:
    bash.line("qvm ssh -t 'echo begun; cat' &")
    deadline = time.monotonic() + DEADLINE_S
    while "Stopped" not in bash.say("jobs"):
        assert time.monotonic() < deadline, bash.text
    require_typed_for_bash(bash)
    bash.line("fg")
    bash.wait("^begun")
    bash.line("to the guest")
    bash.wait("^to the guest\nto the guest")
    bash.key("C-d")
    bash.prompt()
