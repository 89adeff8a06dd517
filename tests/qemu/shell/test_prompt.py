"""The prompt on a real terminal (tmux): what a person types and sees."""

from __future__ import annotations

import os
import shutil
import signal
import time
from itertools import product
from pathlib import Path

import pexpect
import pytest

from tests.support.busy_shell import BUSY, ENDS, by_default, end, end_of, until_busy
from tests.support.shell_screen import Shell, until_foreground
from tests.support.tmux_terminal import Terminal, qvm_shell
from tests.support.world import DEADLINE_S, QVM, Vm, World, write_vmrc


def interrupt(screen: Terminal, line: str, *, when: str) -> str:
    """Type a line, wait until the screen shows `when`, press Ctrl-C; the status that the prompt shows."""
    count = screen.begin(line)
    screen.wait(when)
    time.sleep(0.3)
    screen.key("C-c")
    return str(screen.ready(count)["status"])


def test_prompt_shows_name_state_and_where_it_is(screen: Shell) -> None:
    first = screen.ready()
    assert (first["name"], first["cwd"]) == ("demo", None)
    screen.state("stopped")
    assert "QEMU runs; did not wait" in screen.run("start --no-wait")
    screen.state("running")
    screen.run("cmd stop")
    screen.state("paused")
    assert screen.run("status -s").startswith("demo: paused")
    screen.run("cd /tmp")
    assert screen.prompts()[-1]["cwd"] == "/tmp"
    assert "demo: killed by quit" in screen.run("vm kill")
    screen.state("stopped")
    screen.run("stop")
    assert screen.prompts()[-1]["status"] == "3"
    screen.run(f"cd {screen.vm.directory}")


def test_prompt_does_not_wait_for_a_qemu_that_hangs(vm: Vm) -> None:
    vm.ok("start", "--no-wait")
    with qvm_shell(vm.world, vm.directory) as screen:
        screen.ready()
        os.kill(vm.pid, signal.SIGSTOP)
        try:
            for number in range(3):  # a prompt that waited for the monitor would know the state
                assert screen.run(f"echo {number}") == str(number)
                assert screen.prompts()[-1]["state"] != "paused"
            screen.wait(r"^demo:(\w+\?|broken)>")
        finally:
            os.kill(vm.pid, signal.SIGCONT)


def test_words_and_functions_at_the_prompt(screen: Shell) -> None:
    assert screen.run("status -s") == "demo: stopped"
    assert screen.run("status -s | tr a-z A-Z") == "DEMO: STOPPED"
    assert screen.run("x = status(); x.state") == "'stopped'"
    assert screen.run("s = 3; status -s") == "demo: stopped"
    screen.run("del s")
    assert screen.run("stop && echo never").splitlines()[0] == "qvm: demo: cannot stop: it is stopped"
    assert screen.run("cmd('info status')").splitlines() == [
        "qvm: demo: cannot send a monitor command: it is stopped",
        "hint: `start` starts it",
    ]
    assert screen.prompts()[-1]["status"] == "3"
    assert screen.run("1/0") == "ZeroDivisionError: division by zero"
    assert screen.run("env | grep ^VM_MACHINE_NAME") == "VM_MACHINE_NAME=demo"
    assert screen.run("settings.VM_MACHINE_MEM") == "64"
    screen.run("config VM_MACHINE_MEM=65")
    assert screen.run("settings.VM_MACHINE_MEM, vm.settings.integer('VM_MACHINE_MEM')") == "(65, 65)"
    assert screen.run("reboot").splitlines()[0].startswith("qvm: reboot: refused")
    assert screen.run(f"kill -0 {os.getpid()} && echo host") == "host"
    assert "vm kill" in screen.run("vm")
    screen.run("config VM_MACHINE_MEM=64")


def test_ctrl_c_ends_the_wait_but_not_the_shell(screen: Shell) -> None:
    count = screen.begin("start")
    screen.wait(r"starting QEMU: [\d.]+ s, pid")  # the stages are shown as they happen
    screen.wait(r"waiting for ssh \.\.\.$")
    screen.key("C-c")
    assert screen.ready(count)["status"] == "130"
    assert "ending the machine that was starting" in screen.output(), screen.text
    for line in (
        "start || echo never",
        "start; echo never",
        "start | cat",
        "for i in range(3): start",
        "aliases['s'] = 'start'; s",
    ):
        screen.clear()
        assert interrupt(screen, line, when=r"waiting for ssh \.\.\.$") == "130", screen.text
        assert "ending the machine that was starting" in screen.output(), screen.text
        assert "\nnever" not in screen.text
    assert interrupt(screen, "print('begun', 1); start()", when="^begun 1") == "130"
    assert interrupt(screen, "echo begun 2; sleep 60 || echo never", when="^begun 2") == "130"
    assert interrupt(screen, "for i in [1, 2]: ![echo begun 3] and ![sleep 60]", when="^begun 3") == "130"
    assert "\nnever" not in screen.text
    assert screen.run("status -s") == "demo: stopped"
    assert screen.run("echo $LAST_RETURN_CODE") == "1"


def test_ctrl_z_stops_a_host_program_and_fg_resumes_it(screen: Shell) -> None:
    count = screen.begin("sleep 60")
    until_foreground(screen.vm, "sleep 60")
    screen.key("C-z")
    screen.ready(count)
    assert "sleep 60" in screen.run("jobs")
    count = screen.begin("fg")
    until_foreground(screen.vm, "sleep 60")
    screen.key("C-c")
    screen.ready(count)
    assert "sleep 60" not in screen.run("jobs")


def test_no_machine_and_wrong_configuration_still_open_a_prompt(world: World) -> None:
    with qvm_shell(world, world.home) as screen:
        assert screen.ready()["name"] == "qvm"
        assert "no .vmrc in" in screen.run("status")
        assert screen.prompts()[-1]["status"] == "2"
        assert screen.run("echo ok") == "ok"
    bad = world.home / "bad"
    write_vmrc(bad, "bad", VM_MACHINE_MEM="lots")
    with qvm_shell(world, bad) as screen:
        assert screen.ready()["name"] == "bad"
        assert "VM_MACHINE_MEM is 'lots'" in screen.text
        screen.run("config VM_MACHINE_MEM=64")
        assert screen.run("settings.VM_MACHINE_MEM") == "64"


def test_machine_that_vanishes_is_shown_by_the_shell(vm: Vm) -> None:
    with qvm_shell(vm.world, vm.directory) as screen:
        screen.ready()
        shutil.rmtree(vm.directory)
        screen.run("cd /")
        screen.state("gone")
        assert "there is no directory" in screen.run("status -s")
        assert screen.run("echo ok") == "ok"


def test_program_that_does_not_exist_leaves_the_terminal_as_is(screen: Shell) -> None:
    assert "command not found: 'nosuch'" in screen.run("nosuch")
    assert "qvm: `" not in screen.text
    hint = "qvm: `ssh` is the host's here; the machine's is `vm ssh`"
    assert "qvm: `ssh`" not in screen.run("ssh -V")
    failing = "ssh -o BatchMode=yes -p 9 127.0.0.1 true"
    assert screen.run(failing).endswith(hint)
    assert "qvm: `ssh`" not in screen.run(failing)  # known by now
    assert screen.run("ssh").endswith(hint)
    assert screen.run("true && ssh").endswith(hint)
    screen.run("nosuch | cat")
    assert screen.run("echo still") == "still"
    assert screen.run("echo $(cat /proc/self/status | grep SigIgn)").endswith("0000000000000000")


def test_users_rc_is_read_and_may_use_our_words(vm: Vm) -> None:
    rc = vm.world.home / ".config/xonsh/rc.xsh"
    rc.parent.mkdir(parents=True)
    rc.write_text("aliases['st'] = 'status -s'\nmine = vm.name\n")
    with qvm_shell(vm.world, vm.directory) as screen:
        screen.ready()
        assert screen.run("st") == "demo: stopped"
        assert screen.run("mine") == "'demo'"


def test_word_that_hides_a_host_program_is_reported_once(vm: Vm, tmp_path: Path) -> None:
    hidden = tmp_path / "bin/status"
    hidden.parent.mkdir()
    hidden.write_text("#!/bin/sh\n")
    hidden.chmod(0o755)
    env = {"PATH": f"{hidden.parent}:{vm.world.environ['PATH']}"}
    with qvm_shell(vm.world, vm.directory, env=env) as screen:
        screen.ready()
        assert f"qvm: `status` is qvm's here; the host's is {hidden}" in screen.text.replace("\n", "")
        assert screen.run("status -s") == "demo: stopped"


def test_two_terminals_and_a_shell_in_the_shell(vm: Vm) -> None:
    with qvm_shell(vm.world, vm.directory) as one:
        one.ready()
        one.run("start --no-wait")
        count = one.begin("vm sh")
        one.ready(count)
        assert one.run("status -s").startswith("demo: running")
        one.type("exit 5")
        one.key("Enter")
        deadline = time.monotonic() + DEADLINE_S
        while one.prompts()[-1]["status"] != "5":
            assert time.monotonic() < deadline, one.text
            time.sleep(0.05)
        assert one.run("status -s").startswith("demo: running")


def test_dumb_terminal_has_a_prompt_too(vm: Vm) -> None:
    child = pexpect.spawn(
        QVM,
        ["sh"],
        cwd=vm.directory,
        env=vm.world.environ | {"TERM": "dumb"},
        encoding="utf-8",
        timeout=DEADLINE_S,
    )
    child.expect("demo:stopped> ")
    child.sendline("status -s")
    child.expect("demo: stopped\r\n")
    child.expect("demo:stopped> ")
    child.sendline("exit 4")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 4


@pytest.mark.parametrize(
    ("editor", "how", "busy"),
    by_default(
        product(("prompt_toolkit", "readline"), ENDS, BUSY),
        {
            ("prompt_toolkit", "terminal closed", "idle"),
            ("prompt_toolkit", "terminal closed", "word"),
            *(("prompt_toolkit", "SIGTERM", busy) for busy in BUSY),
            ("readline", "terminal closed", "idle"),
            ("readline", "terminal closed", "program"),
            ("readline", "SIGTERM", "idle"),
        },
    ),
)
def test_closed_terminal_and_sigterm_end_session_and_wait(vm: Vm, busy: str, how: str, editor: str) -> None:
    env = vm.world.environ | {"SHELL_TYPE": editor, "PROMPT_TOOLKIT_NO_CPR": "1"}
    child = pexpect.spawn(QVM, ["sh"], cwd=vm.directory, env=env, encoding="utf-8", timeout=DEADLINE_S)
    child.expect(r"demo.{0,8}:\S*stopped")
    if BUSY[busy]:
        child.send(BUSY[busy] + "\r")
        until_busy(vm, busy)
    end(child, how)
    assert end_of(child) == ENDS[how]
    assert not vm.world.leftovers()


def test_machine_of_c_option_is_where_the_session_stands(vm: Vm, tmp_path: Path) -> None:
    made = Terminal([QVM, "-C", str(vm.directory), "sh"], tmp_path, vm.world.environ)
    try:
        made.ready()
        assert made.run("pwd") == str(vm.directory)
        assert made.run("echo $VM_CALLING_DIR") == str(tmp_path)
    finally:
        made.close()


def test_machine_of_vm_home_and_cd_into_another_changes_nothing(vm: Vm) -> None:
    other = vm.world.home / "other"
    write_vmrc(other, "other", VM_MACHINE_ID="44", VM_EXTRA_OF_OTHER="x")
    with qvm_shell(vm.world, vm.world.home, env={"VM_HOME": str(vm.directory)}) as screen:
        first = screen.ready()
        assert (first["name"], first["cwd"]) == ("demo", None)
        screen.state("stopped")
        screen.run(f"cd {other}")
        last = screen.prompts()[-1]
        assert (last["name"], last["state"]) == ("demo", "stopped")
        assert screen.run("status -s") == "demo: stopped"
        assert screen.run("print(vm.name, settings.VM_MACHINE_ID, $VM_MACHINE_NAME)") == "demo 33 demo"
        assert screen.run("env | grep -c OF_OTHER") == "0"


def test_history_can_be_searched(screen: Shell) -> None:
    for word in ("needle", "hay"):
        screen.run(f"echo {word} here")
    screen.key("C-r")
    screen.type("needl")
    screen.wait("search backward: needl$")
    screen.wait("echo needle here\n(.*\n)*.*echo hay here\n(.*\n)*.*> echo needle here$")
    screen.key("Enter")
    screen.key("Enter")
    deadline = time.monotonic() + DEADLINE_S
    while screen.text.count("\nneedle here") < 2:
        assert time.monotonic() < deadline, screen.text
        time.sleep(0.05)
    screen.ready()


def test_preloaded_names_are_there_and_explain_themselves(screen: Shell) -> None:
    shown = screen.run("vm")
    for word in ("start", "vm kill", "qmp", "settings", "guest", "local", "$VM_"):
        assert word in shown
    assert screen.run("print(type(vm).__name__, vm.name)") == "Machine demo"
    assert screen.run("local['echo']('one')") == "'one\\n'"
    assert screen.run("str(sh.echo('two'))") == "'two\\n'"
    assert screen.run("guest") == "<guest of demo>"
    assert "it is stopped" in screen.run("qmp.query_status()")
    assert "Start the machine and wait until its guest answers ssh." in screen.run("start?")
