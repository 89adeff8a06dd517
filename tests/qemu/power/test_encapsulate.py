"""`start --encapsulate`: QEMU's text screen in a session of tmux or screen; and `run` with curses."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.tmux_terminal import Terminal
from tests.support.world import DEADLINE_S, QVM, Blank, World, wait_until


@pytest.fixture(params=["tmux", "screen"])
def tool(request: pytest.FixtureRequest, world: World) -> str:
    """The one multiplexer that `PATH` has."""
    name: str = request.param
    if shutil.which(name) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
    return name


def only(world: World, *names: str) -> str:
    """A `PATH` with QEMU and the programs `names`."""
    folder = world.home / "bin"
    folder.mkdir(exist_ok=True)
    for name in ("qemu-system-x86_64", "qemu-img", "ssh", "sh", *names):
        found = shutil.which(name)
        if found and not (folder / name).exists():
            (folder / name).symlink_to(found)
    return str(folder)


def test_start_encapsulate_shows_the_screen_and_ends_its_session(blank: Blank, tool: str) -> None:
    vm = blank()
    started = vm.ok("start", "-e", "--no-wait", env={"PATH": only(vm.world, tool)})
    attach = started.out.splitlines()[1].split("`")[1]
    assert tool in attach
    assert vm.ok("status", "-s").out.startswith(f"demo: running (pid {vm.pid}")
    again = vm.qvm("start", "-e", "--no-wait")
    assert (again.status, "it is already running" in again.err) == (3, True)
    assert attach in vm.ok("logs", "qvm").out
    terminal = Terminal(["sh", "-c", f"{attach}; echo ended $?; exec cat"], vm.directory, vm.world.environ)
    try:
        terminal.wait("SeaBIOS|Boot")
        assert "running" in vm.ok("cmd", "info", "status").out
        vm.ok("kill")
        terminal.wait("^ended")
    finally:
        terminal.close()
    assert vm.qvm("status", "-s").out == "demo: stopped\n"
    deadline = time.monotonic() + DEADLINE_S
    while vm.world.processes():
        assert time.monotonic() < deadline, vm.world.processes()
        time.sleep(0.05)
    assert not list(vm.world.runtime.rglob("*"))[1:]  # but for the folder qvm


def test_start_encapsulate_that_fails_reports_why(blank: Blank, tool: str) -> None:
    vm = blank(VM_QEMU_CPU="nonsense")
    result = vm.qvm("start", "-e", env={"PATH": only(vm.world, tool)})
    assert result.status == 1
    assert "unable to find CPU model 'nonsense'" in result.err
    assert vm.qvm("status", "-s").out == "demo: stopped\n"


def test_start_encapsulate_without_a_multiplexer_is_refused(blank: Blank) -> None:
    vm = blank()
    result = vm.qvm("start", "-e", env={"PATH": only(vm.world)})
    assert result.status == 1
    assert "needs tmux or screen" in result.err
    assert vm.qvm("status", "-s").out == "demo: stopped\n"


def test_start_encapsulate_killed_session_ends_the_machine(blank: Blank) -> None:
    vm = blank()
    started = vm.ok("start", "-e", "--no-wait", env={"PATH": only(vm.world, "tmux")})
    words = shlex.split(started.out.splitlines()[1].split("`")[1])
    subprocess.run([*words[1:4], "kill-server"], env=vm.world.environ, check=True)
    wait_until(lambda: not vm.world.processes())
    vm.ok("start", "--no-wait")  # and it starts again


def test_start_curses_without_encapsulate_is_refused(blank: Blank) -> None:
    vm = blank(VM_QEMU_DISPLAY="curses")
    result = vm.qvm("start", "--no-wait")
    assert result.status == 2
    assert "needs a terminal, which `start` does not provide" in result.err
    assert "--encapsulate" in result.err
    run = vm.qvm("run")
    assert (run.status, "needs a terminal, and there is none here" in run.err) == (2, True)
    other = vm.qvm("--set", "VM_QEMU_DISPLAY=gtk", "start", "-e")
    assert (other.status, "remove one of them" in other.err) == (2, True)


def test_run_curses_draws_and_gives_the_terminal_back(blank: Blank) -> None:
    vm = blank(VM_QEMU_DISPLAY="curses")
    script = f'echo "before $(stty -g)"; {QVM} run; echo "status $?"; echo "after $(stty -g)"; exec cat'
    terminal = Terminal(["sh", "-c", script], vm.directory, vm.world.environ)
    try:
        terminal.wait("SeaBIOS|Boot")
        os.kill(vm.pid, signal.SIGKILL)
        screen = terminal.wait(r"^after \S+")
        assert "status 137" in screen
        modes = [line.split()[1] for line in screen.splitlines() if line.startswith(("before ", "after "))]
        assert modes[-1] == modes[0] or len(modes) == 1
    finally:
        terminal.close()
    assert vm.qvm("status").out.startswith("demo: crashed: ")
    assert not Path(vm.directory / ".qvm/running").exists()
