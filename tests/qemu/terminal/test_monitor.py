"""`qvm monitor` on a terminal and in a pipe, with the monitor of a real QEMU."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.firmware import QUICK
from tests.support.tmux_terminal import Terminal
from tests.support.world import DEADLINE_S, QVM, Blank, Vm, World, create_blank


@pytest.fixture(scope="module")
def machine(module_world: World) -> Iterator[Vm]:
    made = create_blank(module_world, VM_QEMU_EXTRA=f"{QUICK} -boot reboot-timeout=-1")
    yield made
    made.kill()


@pytest.fixture
def live(machine: Vm) -> Vm:
    """A running machine without a guest, shared: a QEMU that a test has ended is started again."""
    if machine.qvm("status", "-s").status != 0:
        machine.ok("start", "--no-wait")
    return machine


@pytest.fixture
def hmp(live: Vm) -> Iterator[Terminal]:
    made = Terminal([QVM, "monitor"], live.directory, live.world.environ)
    made.wait("^demo hmp>")
    yield made
    made.close()


def complete(terminal: Terminal, begun: str, menu: str) -> str:
    """Type, press Tab, wait for what is offered; the line is cleared afterwards."""
    terminal.type(begun)
    terminal.key("Tab")
    screen = terminal.wait(menu)
    terminal.key("C-u")
    return screen


def test_monitor_answers_and_shows_events_as_they_come(live: Vm, hmp: Terminal) -> None:
    hmp.enter("info status", "^VM status: running")
    hmp.enter("nonsense", "^unknown command: 'nonsense'")
    hmp.enter("stop", r"^\d\d:\d\d:\d\d STOP")
    live.ok("cmd", "cont")  # another command's doing
    hmp.wait(r"^\d\d:\d\d:\d\d RESUME")
    assert live.ok("status", "-s").out.startswith("demo: running")  # the monitor blocks no other command
    hmp.key("C-d")
    hmp_ends(hmp)
    assert live.ok("status", "-s").out.startswith("demo: running")


def hmp_ends(terminal: Terminal) -> None:
    """The terminal closes with its program."""
    deadline = time.monotonic() + DEADLINE_S
    while terminal.is_open:
        assert time.monotonic() < deadline, terminal.text
        time.sleep(0.05)


def test_monitor_completes_commands_and_arguments_of_qemu(live: Vm, hmp: Terminal) -> None:
    assert "savevm" in complete(hmp, "sav", "savevm")
    complete(hmp, "info stat", r"status +show the current VM status")
    complete(hmp, "help info regi", r"help info registers")
    complete(hmp, "device_add virtio-blk-p", r"device_add virtio-blk-pci")
    complete(hmp, "device_del ni", "device_del nic0")
    complete(hmp, "chardev-remove qg", "chardev-remove qga")
    complete(hmp, "netdev_del ne", "netdev_del net0")
    complete(hmp, "sendkey ctrl-alt-del", "sendkey ctrl-alt-delete")
    complete(hmp, "set_link net0 o", r"\boff\b")
    complete(hmp, "commit disk", "commit disk0")
    complete(hmp, "screendump .vm", r"screendump \.vmrc")
    complete(hmp, "migrate_set_capability postcopy-r", "migrate_set_capability postcopy-ram")
    live.ok("cmd", "savevm", "tagged")
    complete(hmp, "delvm tag", "delvm tagged")
    live.ok("cmd", "delvm", "tagged")


def test_monitor_remembers_lines_but_no_secrets(live: Vm, hmp: Terminal) -> None:
    hmp.enter("info name", "^demo$")
    hmp.enter("set_password vnc hunter2", r"hmp> set_password vnc hunter2\n\S")
    hmp.enter(" info uuid", r"^[0-9a-f-]{36}$")
    hmp.key("C-d")
    hmp_ends(hmp)
    again = Terminal([QVM, "monitor"], live.directory, live.world.environ)
    try:
        again.wait("^demo hmp>")
        again.key("Up")
        again.wait("^demo hmp> info name")
    finally:
        again.close()
    path = Path(live.world.environ["XDG_DATA_HOME"]) / "qvm/history-hmp"
    assert path.stat().st_mode & 0o077 == 0
    text = path.read_text()
    assert "info name" in text
    assert "hunter2" not in text
    assert "uuid" not in text


def test_monitor_that_is_the_second_works_without_events(live: Vm, hmp: Terminal) -> None:
    second = Terminal([QVM, "monitor"], live.directory, live.world.environ)
    try:
        second.wait("events are not shown: another session receives them")
        second.enter("info status", "^VM status: running")
    finally:
        second.close()


def test_monitor_ends_with_qemu_at_the_prompt(live: Vm) -> None:
    script = f'echo "before $(stty -g)"; {QVM} monitor; echo "status $?"; echo "after $(stty -g)"; exec cat'
    terminal = Terminal(["sh", "-c", script], live.directory, live.world.environ)
    try:
        terminal.wait("^demo hmp>")
        terminal.type("half a li")
        os.kill(live.pid, signal.SIGKILL)
        screen = terminal.wait("^after")
        assert "[demo: QEMU crashed]" in screen
        assert "status 0" in screen
        before, after = re.findall(r"^(?:before|after) (\S+)", terminal.wait("^after .+"), re.MULTILINE)
        assert before == after
    finally:
        terminal.close()


def test_monitor_quit_ends_qemu_and_the_monitor(live: Vm, hmp: Terminal) -> None:
    hmp.type("quit")
    hmp.key("Enter")
    hmp_ends(hmp)
    assert live.qvm("status", "-s").out == "demo: stopped\n"


def test_monitor_qmp_on_a_terminal_completes_and_answers(live: Vm) -> None:
    terminal = Terminal([QVM, "monitor", "--qmp"], live.directory, live.world.environ)
    try:
        terminal.wait("^demo qmp>")
        complete(terminal, "query-stat", "query-status")
        complete(terminal, "device_del ", "device_del id=")
        complete(terminal, "set_link name=net0 up=t", "up=true")
        complete(terminal, "screendump format=p", "format=png")
        terminal.enter("query-status", r'^  "status": "running"')
        terminal.enter("set_link name=net0 up=off", r"^\{\}")
        terminal.enter('{"execute": "query-name"}', r'^  "name": "demo"')
        terminal.enter("device_del", "^device_del: .*id.*missing")
        terminal.enter("device_del net0", "must be key=value")
        terminal.type("query-version")
        terminal.key("C-c")  # clears the line
        terminal.enter("stop", r"^\d\d:\d\d:\d\d STOP")
        live.ok("cmd", "cont")
        live.ok("cmd", "set_link", "net0", "on")
    finally:
        terminal.close()


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_monitor_on_a_dumb_terminal_works(live: Vm, term: str) -> None:
    terminal = Terminal(["env", f"TERM={term}", QVM, "monitor"], live.directory, live.world.environ)
    try:
        terminal.wait("demo hmp>")
        terminal.enter("info status", "VM status: running")
    finally:
        terminal.close()


def test_monitor_in_a_pipe_answers_line_by_line(live: Vm) -> None:
    good = live.ok("monitor", stdin="info status\n\n# a remark\ninfo name\n")
    assert good.out == "VM status: running\ndemo\n"
    bad = live.qvm("monitor", stdin="info name\nnonsense\ninfo status\n")
    assert bad.status == 1
    assert bad.out == "demo\nVM status: running\n"
    assert bad.err == "qvm: demo: line 2: unknown command: 'nonsense'\n"
    qmp = live.qvm("monitor", "--qmp", stdin='query-status\nquery-nothing\n{"execute":"query-name"}\n{no\n')
    assert qmp.status == 1
    documents = [json.loads(line) for line in qmp.out.splitlines()]
    assert [documents[0]["status"], documents[1]["name"]] == ["running", "demo"]
    assert "line 2: query-nothing: The command query-nothing has not been found" in qmp.err
    assert "line 4: this is not JSON" in qmp.err
    assert live.qvm("--json", "monitor").status == 2


def test_monitor_in_a_pipe_keeps_the_chosen_processor(blank: Blank) -> None:
    vm = blank()
    vm.ok("--set", "VM_MACHINE_CPUS=2", "start", "--no-wait")
    result = vm.ok("monitor", stdin="cpu 1\ninfo cpus\ninfo registers\n")
    assert "* CPU #1" in result.out
    assert "CPU#1" in result.out


def test_monitor_of_a_stopped_machine_is_refused(blank: Blank) -> None:
    result = blank().qvm("monitor", stdin="info status\n")
    assert result.status == 3
    assert "cannot open the monitor: it is stopped" in result.err


def test_monitor_in_the_shell_owns_the_terminal(live: Vm) -> None:
    terminal = Terminal([QVM, "sh"], live.directory, live.world.environ)
    try:
        terminal.ready()
        terminal.begin("monitor")
        terminal.wait("^demo hmp>")
        terminal.enter("info status", "^VM status: running")
        terminal.key("C-d")
        assert terminal.ready(2)["name"] == "demo"
    finally:
        terminal.close()


def test_monitor_imports_no_prompt_toolkit_in_a_pipe(live: Vm) -> None:
    program = (
        "import sys; from qvmsh.cli.main import main; status = main(['monitor']);"
        "print([m for m in sys.modules if m.startswith(('prompt_toolkit', 'asyncio'))])"
    )
    done = subprocess.run(
        [str(Path(QVM).with_name("python")), "-c", program],
        cwd=live.directory,
        env=live.world.environ,
        input="info name\n",
        capture_output=True,
        text=True,
    )
    assert done.stdout == "demo\n[]\n", done.stderr
