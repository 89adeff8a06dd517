"""A long session, as one lives in it: beside another shell and a console, over a reboot, until it is left."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shell_screen import Editor, interrupt, stop_job, wait_for_job
from tests.support.tmux_terminal import Terminal, qvm_shell
from tests.support.world import QVM, Vm, create_tiny

BAD = re.compile(r"Traceback|Task was destroyed|Exception|bug in qvm|Unhandled|TypeError|AttributeError")

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
        ("vm reboot | tail -1", "demo: rebooted"),
        ("vm ssh echo back", "back"),
    ],
    "python": [
        ("status().state", "'running'"),
        ("import asyncio; await asyncio.sleep(0, 'awaited')", ""),
        ("cmd('info qtree').splitlines()[0]", "'bus: main-system-bus'"),
        ("ssh('seq 1 100000').splitlines()[-1]", "'100000'"),
        ("use('../other').machine", "'other'"),
        ("status().state", "'stopped'"),
        ("use('../demo').machine", "'demo'"),
        ("reboot().machine", "'demo'"),
        ("ssh('echo back')", "'back\\n'"),
    ],
}


@pytest.fixture
def screen(running: Vm, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Editor]:
    """A shell of the kind `ui`, between two looks at the settings of its terminal."""
    code = (
        f"trap : INT QUIT; stty -a > {tmp_path}/before; {QVM} sh --ui {request.getfixturevalue('ui')}; "
        f"echo left with $?; stty -a > {tmp_path}/after; exec cat"
    )
    made = Editor(["sh", "-c", code], running.directory, running.world.environ)
    yield made
    made.close()


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


@pytest.mark.parametrize("ui", ["xonsh", "ptpython", "python"])
def test_long_session_ends_as_it_began(running: Vm, ui: str, screen: Editor, tmp_path: Path) -> None:
    if not (running.world.home / "other").exists():
        create_tiny(running.world, "other")
    running.ok("ssh", "echo a line of the log | sudo -n tee /dev/console")
    with qvm_shell(running.world, running.directory) as second:
        console = Terminal([QVM, "console", "--watch"], running.directory, running.world.environ)
        try:
            screen.ready()
            second.ready()
            second.state("running")
            for line, answer in LINES["python" if ui == "python" else "shell"]:
                assert answer in screen.run(line), screen.text
            if ui != "python":
                stop_and_resume(screen)
            screen.state("running")
            second.wait("^qvm: demo: the guest has reset itself")
            second.state("running")
            assert second.run("status -s").startswith("demo: running")
            screen.type("exit" if ui != "python" else "exit()")
            screen.key("Enter")
            screen.wait("^left with 0$")
            for each in (screen, second, console):
                assert not BAD.search(each.text), each.text
        finally:
            console.close()
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()
    screen.close()
    deadline = time.monotonic() + 60
    while shells(running) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not shells(running)
