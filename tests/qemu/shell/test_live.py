"""The live prompt: the state and the events of a machine, shown while a person types."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pexpect
import pytest

from tests.support.firmware import QUICK
from tests.support.shell_screen import Shell, Shells
from tests.support.tmux_terminal import Terminal, is_zombie, qvm_shell
from tests.support.world import DEADLINE_S, QVM, Vm, World, create_blank, write_vmrc

ALL = ("xonsh", "ptpython", "python")


def at_prompt(screen: Terminal, state: str, typed: str = "") -> None:
    """Wait until the last prompt shows `state` and `typed` behind it; a menu may stand below."""
    wanted = re.compile(rf"demo:{re.escape(state)}> ?{re.escape(typed)}")
    deadline = time.monotonic() + DEADLINE_S
    while not wanted.fullmatch(([line for line in screen.lines() if line.startswith("demo:")] or [""])[-1]):
        assert time.monotonic() < deadline, f"no {state!r} with {typed!r}:\n{screen.text}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def other(module_world: World) -> Iterator[Vm]:
    """Another machine, off."""
    made = create_blank(module_world, "other", VM_MACHINE_ID="44")
    yield made
    made.kill()


def empty_line(screen: Terminal) -> None:
    """Delete what is typed."""
    screen.key("C-u")
    screen.ready()


@pytest.mark.parametrize("ui", ALL)
def test_prompt_is_repainted_at_a_change_and_typed_text_stays(shells: Shells, ui: str) -> None:
    screen = shells(ui)
    vm = screen.vm
    at_prompt(screen, "stopped")
    screen.type("echo half a li")
    at_prompt(screen, "stopped", "echo half a li")
    vm.ok("start", "--no-wait")
    at_prompt(screen, "running", "echo half a li")
    for command, state in (("stop", "paused"), ("cont", "running")):
        vm.ok("cmd", command)
        at_prompt(screen, state, "echo half a li")
    vm.kill()
    at_prompt(screen, "stopped", "echo half a li")
    vm.ok("start", "--no-wait")  # another QEMU: it is followed as the first was
    at_prompt(screen, "running", "echo half a li")
    vm.ok("cmd", "stop")
    at_prompt(screen, "paused", "echo half a li")
    if ui == "python":
        screen.key("C-u")
        screen.type("'half a ' + 'li")
    screen.type("ne" if ui != "python" else "ne'")
    screen.key("Enter")
    screen.wait("^'?half a line'?$")
    assert "Unhandled" not in screen.text
    vm.kill()
    at_prompt(screen, "stopped")


@pytest.mark.parametrize("ui", ALL)
def test_events_appear_above_the_prompt_as_they_come(shells: Shells, ui: str) -> None:
    screen = shells(ui)
    vm = screen.vm
    vm.ok("start", "--no-wait")
    at_prompt(screen, "running")
    screen.type("unfinished")
    vm.ok("qmp", "system_reset")
    screen.wait(r"^qvm: demo: it was reset \(\d\d:\d\d:\d\d\)$")
    options = '{"driver": "file", "filename": "%s", "size": 512}'
    vm.ok("qmp", "blockdev-create", "job-id=made", "options=" + options % "f")
    screen.wait(r"^qvm: demo: the job made is done")
    vm.ok("qmp", "blockdev-create", "job-id=bad", "options=" + options % "/nosuch/f")
    screen.wait(r"^qvm: demo: the job bad failed: .*nosuch")
    vm.ok("qmp", "quit")
    screen.wait(r"^qvm: demo: QEMU was asked to quit")
    at_prompt(screen, "stopped", "unfinished")
    empty_line(screen)


def test_panic_reset_and_shutdown_of_the_guest_are_reported(blank: Callable[..., Vm]) -> None:
    """The guest's part is played by QEMU's monitor, which writes to the same I/O ports."""
    vm = blank(VM_QEMU_EXTRA=f"{QUICK} -device pvpanic -action panic=pause")
    vm.ok("start", "--no-wait")
    with qvm_shell(vm.world, vm.directory) as screen:
        at_prompt(screen, "running")
        vm.ok("cmd", "o /b 0xcf9 6")
        screen.wait(r"^qvm: demo: the guest has reset itself")
        vm.ok("cmd", "o /b 0x505 1")
        screen.wait(r"^qvm: demo: the guest's kernel panicked, the guest is paused")
        at_prompt(screen, "crashed")
        vm.ok("qmp", "system_reset")
        vm.ok("cmd", "cont")
        at_prompt(screen, "running")
        screen.type("mine")
        vm.ok("qmp", "system_powerdown")
        deadline = time.monotonic() + DEADLINE_S
        while vm.qvm("cmd", "o /w 0x604 0x2000").status == 0:  # nothing answers until the firmware has run
            assert time.monotonic() < deadline
            time.sleep(0.2)
        screen.wait(r"^qvm: demo: the guest has shut down")
        at_prompt(screen, "stopped", "mine")


def test_qemu_that_dies_is_reported(screen: Shell) -> None:
    vm = screen.vm
    vm.ok("start", "--no-wait")
    at_prompt(screen, "running")
    pid = vm.pid
    os.kill(pid, signal.SIGKILL)
    screen.wait(rf"^qvm: demo: QEMU \(pid {pid}\) ended unexpectedly")
    at_prompt(screen, "crashed")
    vm.ok("start", "--no-wait")  # it clears away what the dead one left
    vm.kill()


def test_io_error_is_reported_and_the_state_shown(blank: Callable[..., Vm]) -> None:
    """A disk whose writes fail pauses the guest: QEMU reports it with BLOCK_IO_ERROR."""
    extra = (
        "-blockdev driver=blkdebug,node-name=bad,inject-error.0.event=none,inject-error.0.iotype=read,"
        "inject-error.0.errno=28,image.driver=null-co,image.size=1048576 "
        "-device virtio-blk-pci,drive=bad,id=bad0,rerror=stop,bootindex=0 " + QUICK
    )
    vm = blank(VM_QEMU_EXTRA=extra)
    with qvm_shell(vm.world, vm.directory) as screen:
        at_prompt(screen, "stopped")
        vm.ok("start", "--no-wait")  # the firmware reads the disk
        screen.wait(r"^qvm: demo: read error on bad.*no space left on the host.*the guest is paused")
        at_prompt(screen, "paused")


@pytest.mark.parametrize(
    ("ui", "line", "answer"),
    [
        ("xonsh", "vm kill", "killed by quit"),
        ("xonsh", "vm.kill().by", "'quit'"),
        ("ptpython", "kill().by", "'quit'"),
        ("python", "vm.kill().by", "'quit'"),
    ],
)
def test_command_of_this_session_reports_its_effect_once(
    shells: Shells, ui: str, line: str, answer: str
) -> None:
    screen = shells(ui)
    screen.vm.ok("start", "--no-wait")
    at_prompt(screen, "running")
    assert answer in screen.run(line)
    at_prompt(screen, "stopped")
    screen.run("'later'")
    assert "asked to quit" not in screen.text


@pytest.mark.parametrize("ui", ALL)
def test_machine_that_is_used_now_is_the_one_that_is_followed(shells: Shells, other: Vm, ui: str) -> None:
    screen = shells(ui)
    vm = screen.vm
    screen.run(f"use({str(other.directory)!r})")
    screen.type("mine")
    other.ok("start", "--no-wait")
    screen.wait(r"^other:running> mine")
    vm.ok("start", "--no-wait")
    vm.ok("qmp", "system_reset")
    other.ok("qmp", "system_reset")
    screen.wait("^qvm: other: it was reset")
    assert "qvm: demo:" not in screen.text
    other.kill()
    vm.kill()
    screen.wait(r"^other:stopped> mine")
    empty_line(screen)
    screen.run(f"use({str(vm.directory)!r})")


def test_two_terminals_show_events_also_after_one_has_left(vm: Vm) -> None:
    vm.ok("start", "--no-wait")
    with qvm_shell(vm.world, vm.directory) as one, qvm_shell(vm.world, vm.directory) as two:
        at_prompt(one, "running")
        at_prompt(two, "running")
        vm.ok("cmd", "stop")
        for screen in (one, two):
            at_prompt(screen, "paused")
        vm.ok("qmp", "system_reset")
        for screen in (one, two):
            screen.wait("^qvm: demo: it was reset")
        one.close()
        vm.ok("cmd", "cont")
        at_prompt(two, "running")
        vm.ok("qmp", "quit")
        two.wait("^qvm: demo: QEMU was asked to quit")
        at_prompt(two, "stopped")


def test_events_during_a_program_come_before_the_next_prompt(screen: Shell) -> None:
    vm = screen.vm
    vm.ok("start", "--no-wait")
    at_prompt(screen, "running")
    count = screen.begin("bash -c 'echo begun; until test -e go; do sleep 0.1; done'")
    screen.wait("^begun")
    vm.ok("cmd", "stop")
    vm.ok("qmp", "system_reset")
    (vm.directory / "go").touch()
    screen.ready(count)
    assert re.search(r"^qvm: demo: it was reset", screen.output(), re.MULTILINE), screen.text
    at_prompt(screen, "paused")
    vm.kill()


def test_async_prompt_of_the_users_rc_keeps_the_live_one(vm: Vm) -> None:
    """xonsh 0.25: with ENABLE_ASYNC_PROMPT a prompt that is repainted fails, since it has no `updator`."""
    rc = vm.world.home / ".config/xonsh/rc.xsh"
    rc.parent.mkdir(parents=True)
    rc.write_text("$ENABLE_ASYNC_PROMPT = True\n$UPDATE_PROMPT_ON_KEYPRESS = True\n")
    with qvm_shell(vm.world, vm.directory) as screen:
        at_prompt(screen, "stopped")
        assert "ENABLE_ASYNC_PROMPT stays off" in screen.text
        screen.type("echo a")
        vm.ok("start", "--no-wait")
        at_prompt(screen, "running", "echo a")
        screen.key("Enter")
        at_prompt(screen, "running")
        assert "updator" not in screen.text
        assert "Error" not in screen.text


def test_directory_that_is_removed_is_shown_at_once(vm: Vm) -> None:
    with qvm_shell(vm.world, vm.directory) as screen:
        at_prompt(screen, "stopped")
        shutil.rmtree(vm.directory)
        screen.wait(r"^demo:gone( \(gone\))?>")


def test_dumb_terminal_shows_events_before_the_next_prompt(vm: Vm) -> None:
    env = vm.world.environ | {"TERM": "dumb"}
    child = pexpect.spawn(QVM, ["sh"], cwd=vm.directory, env=env, encoding="utf-8", timeout=DEADLINE_S)
    child.expect("demo:stopped> ")
    vm.ok("start", "--no-wait")
    child.sendline("echo one")
    child.expect("one\r\n")
    child.expect("demo:running> ")
    vm.ok("qmp", "system_reset")
    child.sendline("echo two")
    deadline = time.monotonic() + DEADLINE_S
    while child.expect(["qvm: demo: it was reset", "demo:running> "]) == 1:  # it takes a moment
        assert time.monotonic() < deadline, child.before
        child.sendline("echo two")
    child.expect("demo:running> ")
    child.sendline("exit")
    child.expect(pexpect.EOF)
    child.close()


def test_session_leaves_no_thread_waiting_when_qemu_hangs(vm: Vm) -> None:
    vm.ok("start", "--no-wait")
    with qvm_shell(vm.world, vm.directory) as screen:
        at_prompt(screen, "running")
        os.kill(vm.pid, signal.SIGSTOP)
        try:
            pid = screen.pid
            screen.type("exit")
            screen.key("Enter")
            deadline = time.monotonic() + DEADLINE_S
            while not is_zombie(pid):
                assert time.monotonic() < deadline, screen.text
                time.sleep(0.05)
        finally:
            os.kill(vm.pid, signal.SIGCONT)


def test_tab_at_the_prompt_completes_what_qvm_and_qemu_know(vm: Vm) -> None:
    subprocess.run(
        ["qemu-img", "snapshot", "-c", "fresh one", vm.directory / "demo-backing.qcow2"], check=True
    )
    (vm.directory / "nested").mkdir()
    write_vmrc(vm.directory / "inner", "inner")
    with qvm_shell(vm.world, vm.directory) as screen:
        at_prompt(screen, "stopped")

        def tab(text: str, becomes: str) -> None:
            screen.key("C-u")
            screen.type(text)
            at_prompt(screen, screen.prompts()[-1]["state"], text)
            screen.key("Tab")
            at_prompt(screen, screen.prompts()[-1]["state"], becomes)

        tab("start --lo", "start --loadvm")
        tab("start --loadvm f", "start --loadvm 'fresh one'")
        tab("vm stat", "vm status")
        tab("img b", "img build")
        tab("config VM_DISK_BUS=vi", "config VM_DISK_BUS=virtio")
        tab("img build -o nes", "img build -o nested/")
        tab("use inn", "use inner")
        tab("use ../de", "use ../demo/")
        tab("vm logs ser", "vm logs serial")
        tab("disk resize dis", "disk resize disk0")
        tab("qmp.device_del(i", "qmp.device_del(i")  # the arguments are unknown while QEMU is off
        vm.ok("start", "--no-wait")
        at_prompt(screen, "running", "qmp.device_del(i")
        tab("qmp.device_del(i", "qmp.device_del(id=")
        tab("x = qmp.chardev_remove(i", "x = qmp.chardev_remove(id=")
        tab("qmp.set_link(name='net0', u", "qmp.set_link(name='net0', up=")
        tab("start --loadvm f", "start --loadvm 'fresh one'")
        tab("cmd info chard", "cmd info chardev")
        tab("cmd device_del ni", "cmd device_del nic0")
        tab("qmp query-ver", "qmp query-version")
        tab("qmp device_del id=ni", "qmp device_del id=nic0")
        tab("status -s | cat nes", "status -s | cat nested/")
        screen.key("C-u")
        screen.type("qmp.query_vers")
        screen.key("Tab")
        screen.wait(r"qmp\.query_version")


def test_qmp_is_a_word_a_function_and_an_object(vm: Vm) -> None:
    vm.ok("start", "--no-wait")
    code = """
print(qmp("query-status")["status"], qmp.query_status()["running"])
print(qmp.qom_get(path="/machine", property="type")[:3])
print(qmp("qom-get", path="/machine", property="type").value[:3])
qmp query-name | cat
try:
    qmp.device_del(id="nosuch")
except Exception as error:
    print(type(error).__name__, error)
try:
    qmp.no_such()
except Exception as error:
    print(error)
print("query_status" in dir(qmp), repr(qmp)[:12])
"""
    result = vm.qvm("sh", stdin=code)
    assert result.status == 0, str(result)
    assert result.out.splitlines() == [
        "running True",
        "pc-",
        "pc-",
        '{"name": "demo"}',
        "QmpError demo: device_del: Device 'nosuch' not found",
        "QEMU has no command 'no_such'",
        "True <command qmp",
    ]
