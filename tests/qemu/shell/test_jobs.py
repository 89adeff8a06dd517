"""Words as jobs at the prompt: `&`, Ctrl-Z, `jobs`, `fg`, `bg`, pipes; the session outlives all of them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shell_screen import Editor, Shell, Shells, interrupt, press, stop_job, wait_for_job
from tests.support.tmux_terminal import Terminal
from tests.support.world import DEADLINE_S, QVM, Vm, World, wait_until

UIS = ("xonsh", "ptpython")


def open_in_sh(vm: Vm, ui: str) -> Shell:
    """A session on a terminal in a shell of its own, which prints status and mode at the end."""
    script = f"""
        trap : INT; before=$(stty -g); {QVM} sh --ui {ui}; status=$?
        [ "$before" = "$(stty -g)" ] && mode=same || mode=different
        echo; echo "status $status"; echo "after $mode"; exec cat
    """
    return Shell(vm, ["sh", "-c", script])


@pytest.fixture(scope="module")
def shells(module_world: World) -> Iterator[Shells]:
    made = Shells(module_world, open_in_sh)
    yield made
    made.close()


@pytest.fixture
def screen(shells: Shells) -> Iterator[Shell]:
    """The shell with xonsh's own editor, without jobs."""
    made = shells()
    yield made
    assert "Traceback" not in made.text, made.text


def leave(screen: Terminal) -> None:
    """Leave the session: the terminal is as it was."""
    screen.type("exit")
    screen.wait("exit$")
    screen.key("Enter")
    text = screen.wait(r"^after \S+")
    assert "after same" in text, text


def jobs(screen: Terminal, wanted: str) -> str:
    """Ask for the jobs until one line of them fits; what a job is can take a moment to be known."""
    deadline = time.monotonic() + DEADLINE_S
    while not re.search(wanted, found := screen.run("jobs")):
        assert time.monotonic() < deadline, screen.text
    return found


def stopped(vm: Vm) -> None:
    """Wait until the machine is off and no process of a `start` is left."""
    deadline = time.monotonic() + DEADLINE_S
    while vm.qvm("status", "-s").out != "demo: stopped\n":
        assert time.monotonic() < deadline, vm.qvm("status")


@pytest.mark.parametrize("ui", UIS)
def test_word_in_the_background_prints_above_what_is_typed(shells: Shells, ui: str) -> None:
    screen = shells(ui)
    count = screen.begin("start --no-wait &")
    screen.type("print('half a ' +")
    screen.wait(r"^demo: QEMU runs; did not wait for the guest")
    screen.type(" 'line')")
    screen.wait(r"demo:running> ?print\('half a ' \+ 'line'\)$")
    screen.key("Enter")
    screen.ready(count + 1)
    assert re.search(r"^half a line$", screen.text, re.M), screen.text
    for line, shown in (
        ("status -s", r"^demo: running \(pid \d+\)$"),
        ("status -s && print(6 * 7)", "^42$"),
        ("x = $(status -s)", "^$"),
        ("x", r"^'demo: running \(pid \d+\)\\?n?'?$"),
        ("echo done", "^done$"),
    ):
        assert re.search(shown, screen.run(line), re.M), screen.text
    assert screen.run("jobs") == ""
    assert "killed by quit" in screen.run("vm kill")
    assert "Traceback" not in screen.text, screen.text
    if ui == "ptpython":
        leave(screen)


def test_word_in_the_background_is_a_job(screen: Shell) -> None:
    screen.run("start &")  # nothing in it answers ever
    jobs(screen, "'status': 'running', 'cmd': 'start &'")
    screen.begin("fg")
    screen.wait(r"'cmd': 'start &'.*\n(?s:.)*'cmd': 'start &'")
    stop_job(screen)
    jobs(screen, "'status': 'stopped', 'cmd': 'start &'")
    screen.run("bg")
    jobs(screen, "'status': 'running', 'cmd': 'start &'")
    wait_until(lambda: "running" in screen.run("status -s"))
    screen.begin("fg")
    wait_for_job(screen)
    interrupt(screen)
    screen.wait("qvm: demo: interrupted; ending the machine that was starting$")
    stopped(screen.vm)
    assert screen.run("jobs") == ""


def test_word_in_a_pipe_is_a_job(screen: Shell) -> None:
    screen.begin("start | cat")
    screen.wait("waiting for ssh")
    stop_job(screen)
    jobs(screen, "'status': 'stopped', 'cmd': 'start [|] cat'")
    assert re.search("starting|running", screen.vm.qvm("status", "-s").out)
    screen.begin("fg")
    wait_for_job(screen)
    interrupt(screen)
    screen.wait("qvm: demo: interrupted; ending the machine that was starting$")
    stopped(screen.vm)
    assert screen.run("list | head -1").startswith("name ")


def test_word_in_the_foreground_refuses_ctrl_z_with_a_message(screen: Shell) -> None:
    screen.begin("start")
    screen.wait("waiting for ssh")
    screen.key("C-z")
    screen.wait("^qvm: `start` cannot be stopped by Ctrl-Z: Ctrl-C ends it, `start &` starts it in the back")
    interrupt(screen)
    screen.wait("qvm: demo: interrupted; ending the machine that was starting$")
    stopped(screen.vm)
    screen.begin("while True: pass")
    screen.key("Enter")
    press(screen, "C-z", lambda: "qvm: this cannot be stopped by Ctrl-Z: Ctrl-C ends it\n" in screen.text)
    interrupt(screen)
    assert screen.run("status -s") == "demo: stopped"


def test_parts_of_the_shell_are_refused_in_the_background(screen: Shell) -> None:
    screen.run("aliases['mine'] = lambda args, stdin=None: print('mine', 'was run')")
    for line in ("use . &", "cd / &", "session list &", "vm &", "mine &", "status | mine &"):
        name = "mine" if "mine" in line else line.split()[0]
        assert screen.run(line) == (
            f"qvm: {name}: cannot run in the background: it is part of this shell, "
            "not a program\nhint: type it without the `&`"
        )
    assert "mine was run" not in screen.text
    assert screen.run("mine") == "mine was run"
    assert screen.run("status -s") == "demo: stopped"


def test_word_that_outlives_its_line_leaves_the_session_whole(screen: Shell) -> None:
    screen.run("p = !(start)")
    assert screen.run("1 + 1") == "2"
    wait_until(lambda: "running" in screen.run("status -s"))
    assert "killed" in screen.run("vm kill")
    for number in range(3):
        assert screen.run(f"print({number}, 'printed')") == f"{number} printed"
        assert screen.run("status -s") == "demo: stopped"
    assert "QEMU ended while the guest was starting" in screen.run("print(p.err)")


def test_captured_program_leaves_ctrl_z_to_the_terminal(screen: Shell) -> None:
    screen.run("x = $(sh -c true)")
    assert "susp = ^Z" in screen.run("stty -a")
    screen.run("y = !(sh -c true)")
    assert "susp = ^Z" in screen.run("stty -a")
    screen.begin("sleep 1000")
    stop_job(screen)
    jobs(screen, "'status': 'stopped', 'cmd': 'sleep 1000'")
    screen.begin("fg")
    wait_for_job(screen)
    interrupt(screen)


def test_failed_word_in_the_background_says_why(screen: Shell) -> None:
    count = screen.begin("resume &")
    screen.wait(r"^hint: .*qvm start")
    assert "qvm: demo: cannot resume: it is stopped" in screen.text
    screen.ready(count)
    count = screen.begin("status | cat &")
    screen.wait(r"^demo: stopped$")
    screen.ready(count)
    leave(screen)  # with a job: in xonsh 0.25 a `cat` behind a pipe in the background never ends


def test_captured_program_of_c_leaves_ctrl_z_to_the_terminal(shared: Vm) -> None:
    code = "'x = $(sh -c true)'"
    screen = Editor(
        ["sh", "-c", f"before=$(stty -g); {QVM} sh -c {code}; stty -a; "
         '[ "$before" = "$(stty -g)" ] && echo after same || echo after different; exec cat'],
        shared.directory, shared.world.environ,
    )  # fmt: skip
    try:
        assert "susp = ^Z" in screen.wait("^after same$")
    finally:
        screen.close()


def test_words_without_a_program_of_the_host_are_words(vm: Vm, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "logs").write_text("#!/bin/sh\necho the logs of the host\n")
    (tools / "logs").chmod(0o755)
    code = (
        "list | head -1\nlogs\nvm logs --lines 1 || echo none\n"
        "suspend || status -s && resume || echo nothing\nx = list((1, 2))\nprint(x)\nlist\nlist = 5\nlist"
    )
    env = {"PATH": f"{tools}:{os.environ['PATH']}"}
    done = vm.qvm("sh", "--xonsh", "-c", code, env=env)
    head, logs, none, *rest = done.out.splitlines()
    assert head.startswith("name "), str(done)
    assert (logs, none) == ("the logs of the host", "none"), str(done)
    assert rest[:2] == ["demo: stopped", "nothing"], str(done)
    assert rest[2] == "[1, 2]", str(done)
    assert rest[3].startswith("name "), str(done)
    assert rest[4].startswith("demo "), str(done)
    assert not rest[5:], str(done)
