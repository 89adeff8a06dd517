"""A long session, as one lives in it: beside another shell and a console, over a reboot, until it is left."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shell_screen import Editor, interrupt, stop_job, wait_for_job
from tests.support.tmux_terminal import Terminal, qvm_shell
from tests.support.world import DEADLINE_S, QVM, Vm, create_tiny

BAD = re.compile(r"Traceback|Task was destroyed|Exception|bug in qvm|Unhandled|TypeError|AttributeError")

STOP_R = {"shell": ("stop -r | tail -1", "demo: rebooted")}
REBOOT = {"shell": ("vm reboot | tail -1", "demo: rebooted"), "python": ("reboot().machine", "'demo'")}
BACK = {"shell": ("vm ssh echo back", "back"), "python": ("ssh('echo back')", "'back\\n'")}
LINES = {
    "shell": [
        ("status -s | cat", "demo: running"),
        ("x = $(echo hello); print(x)", "hello"),
        ("cmd info qtree | head -1", "bus: main-system-bus"),
        ("yes | head -2", "y\ny"),
        ("vm ssh 'seq 1 100000' | tail -1", "100000"),
        ("vm ssh 'seq 1 100000' | head -2", "1\n2"),
        ("vm ssh yes | true", ""),
        ("status -s &", "'cmd': 'status -s &'"),
        ("status -s; vm ssh echo in between", "in between"),
        ("vm logs -n 1000 | head -1 | wc -l", "1"),
        ("y = $(vm ssh echo from the guest); print(y)", "from the guest"),
        ("use ../other; status -s", "other: stopped"),
        ("z = $(config VM_MACHINE_NAME); print(z)", "other"),
        ("use ../demo; status -s | tr a-z A-Z", "DEMO: RUNNING"),
    ],
    "python": [
        ("status().state", "'running'"),
        ("import asyncio; await asyncio.sleep(0, 'awaited')", ""),
        ("cmd('info qtree').splitlines()[0]", "'bus: main-system-bus'"),
        ("ssh('seq 1 100000').splitlines()[-1]", "'100000'"),
        ("use('../other').machine", "'other'"),
        ("status().state", "'stopped'"),
        ("use('../demo').machine", "'demo'"),
    ],
}
KINDS = {"xonsh": "shell", "ptpython": "shell", "python": "python"}


class Session:
    """A shell of the kind `ui`, between two looks at the settings of its terminal."""

    def __init__(self, vm: Vm, ui: str, folder: Path) -> None:
        self.kind = KINDS[ui]
        self.before, self.after = folder / f"{ui}-before", folder / f"{ui}-after"
        code = (
            f"trap : INT QUIT; stty -a > {self.before}; {QVM} sh --ui {ui}; "
            f"status=$?; stty -a > {self.after}; echo left with $status; exec cat"
        )
        self.screen = Editor(["sh", "-c", code], vm.directory, vm.world.environ)

    def work(self) -> None:
        """What one types in a day."""
        self.screen.ready()
        for line, answer in LINES[self.kind]:
            assert answer in self.screen.run(line), self.screen.text
        if self.kind == "shell":
            stop_and_resume(self.screen)
        self.screen.state("running")

    def run(self, lines: dict[str, tuple[str, str]]) -> None:
        line, answer = lines[self.kind]
        assert answer in self.screen.run(line), self.screen.text

    def leave(self) -> None:
        self.screen.state("running")
        self.screen.type("exit" if self.kind == "shell" else "exit()")
        self.screen.key("Enter")
        self.screen.wait("^left with 0$")
        assert self.before.read_text() == self.after.read_text()


@contextlib.contextmanager
def sessions(vm: Vm, uis: tuple[str, ...], folder: Path) -> Iterator[list[Session]]:
    """Shells beside one another and a console; at the end there must be none, and nothing bad on them."""
    if not (vm.world.home / "other").exists():
        create_tiny(vm.world, "other")
    vm.ok("ssh", "echo a line of the log | sudo -n tee /dev/console")
    with contextlib.ExitStack() as opened:
        console = Terminal([QVM, "console", "--watch"], vm.directory, vm.world.environ)
        opened.callback(console.close)
        made = []
        for ui in uis:
            session = Session(vm, ui, folder)
            opened.callback(session.screen.close)
            made.append(session)
        yield made
        for each in (console, *(session.screen for session in made)):
            assert not BAD.search(each.text), each.text
    deadline = time.monotonic() + DEADLINE_S
    while shells(vm) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not shells(vm)


def shells(vm: Vm) -> set[str]:
    """What runs, but for the machine and its ssh connection, which outlive a shell."""
    lasting = ("qemu-system", "[mux]", "ControlMaster", "keeper", "console")
    return {line for line in vm.world.processes().values() if not any(word in line for word in lasting)}


def stop_and_resume(screen: Editor) -> None:
    """A command in the guest, in the background, in the foreground, stopped, resumed, and ended."""
    screen.run("vm ssh 'sleep 1000' &")
    assert "'status': 'running', 'cmd': 'vm ssh" in screen.run("jobs")
    screen.begin("fg")
    stop_job(screen)
    assert "'status': 'stopped', 'cmd': 'vm ssh" in screen.run("jobs")
    screen.run("bg")
    assert screen.run("status -s").startswith("demo: running")
    screen.begin("fg")
    wait_for_job(screen)
    interrupt(screen)
    assert screen.run("jobs") == ""


def see_reset(screen: Terminal) -> None:
    screen.wait("^qvm: demo: the guest has reset itself")
    screen.state("running")


def test_sessions_beside_one_another_end_as_they_began(running: Vm, tmp_path: Path) -> None:
    with sessions(running, ("xonsh", "ptpython", "python"), tmp_path) as made:
        for session in made:
            session.work()
        made[0].run(STOP_R)
        for session in made[1:]:
            see_reset(session.screen)
        for session in made:
            session.run(BACK)
            session.leave()


@pytest.mark.long
@pytest.mark.parametrize("ui", KINDS)
def test_long_session_ends_as_it_began(running: Vm, ui: str, tmp_path: Path) -> None:
    """Each alone, and it reboots the guest itself."""
    with (
        sessions(running, (ui,), tmp_path) as (session,),
        qvm_shell(running.world, running.directory) as second,
    ):
        second.ready()
        second.state("running")
        session.work()
        session.run(REBOOT)
        session.run(BACK)
        see_reset(second)
        assert second.run("status -s").startswith("demo: running")
        session.leave()
        assert not BAD.search(second.text), second.text
