"""`qvm console` where only the firmware speaks: refusals, pipes, watching."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.firmware import QUICK
from tests.support.tmux_terminal import Terminal, qvm_below, qvm_in_shell, wait_for_exit
from tests.support.world import DEADLINE_S, QVM, Blank, Vm, World, wait_until, write_vmrc

SERIAL = {"VM_QEMU_MACHINE": "pc,graphics=off", "VM_QEMU_EXTRA": QUICK}
"""The firmware writes to the serial console."""


@pytest.fixture
def speaking(blank: Blank) -> Vm:
    """A running machine whose firmware writes to the serial console."""
    vm = blank(**SERIAL)
    vm.ok("start", "--no-wait")
    return vm


TALKER = bytes.fromhex(
    "fa"  # no interrupts: SeaBIOS would read what is typed
    "ba fd 03 ec a8 01 74 fb ba f8 03 ec 3c 21 74 09"  # wait for a byte; "!" leads to 0x19
    "34 20 e8 1b 00 eb e9 90 90"  # else give it back with its case swapped
    "31 db be 04 00 88 d8 24 3f 04 20 e8 09 00 43 75 f4 4e 75 f1 eb d1 90"  # 256 KiB: " " to "_" in turn
    "88 c4 ba fd 03 ec a8 20 74 fb ba f8 03 88 e0 ee c3"  # put a byte: wait for the UART, out
)
"""A boot sector that talks on the first serial port."""

BOOTED = "Booting from Hard Disk"
FLOOD = bytes(range(0x20, 0x60)) * (4 << 10)


@pytest.fixture(scope="module")
def talking(module_world: World) -> Iterator[Vm]:
    """A running machine that answers on its console; tests leave it so, and each says words of its own."""
    vm = make_talker(module_world)
    start_talker(vm)
    yield vm
    vm.kill()


@pytest.fixture
def own(world: World) -> Iterator[Vm]:
    """As `talking`, the test's own: its console is flooded, or it ends."""
    vm = make_talker(world)
    start_talker(vm)
    yield vm
    vm.kill()


def make_talker(world: World) -> Vm:
    vm = Vm(world, world.home / "demo")
    write_vmrc(vm.directory, **SERIAL)
    raw = vm.directory / "raw"
    raw.write_bytes(TALKER.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    subprocess.run(
        ["qemu-img", "convert", "-O", "qcow2", "raw", "demo-seed.qcow2"], cwd=vm.directory, check=True
    )
    vm.ok("init")
    return vm


def start_talker(vm: Vm) -> None:
    """Start it and wait until its boot sector answers."""
    vm.ok("start", "--no-wait")
    deadline = time.monotonic() + DEADLINE_S
    while BOOTED.encode() not in (vm.directory / ".qvm/log/serial.log").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    log, letter = vm.directory / ".qvm/log/serial.log", "a"
    while letter not in vm.ok("console", "--linger", "0.5", stdin=letter.upper()).out:
        assert time.monotonic() < deadline  # until then the BIOS reads it
        letter = "a" if letter == "z" else chr(ord(letter) + 1)
    wait_until(lambda: log.read_bytes().endswith(letter.encode()))  # also what an earlier one has typed


def answer(vm: Vm, text: str, wanted: bytes) -> bytes:
    """What `console` in a pipe prints, its standard input open until it has printed so much."""
    with subprocess.Popen(
        [QVM, "console"],
        cwd=vm.directory,
        env=vm.world.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(text.encode())
        child.stdin.flush()
        out = child.stdout.read(len(wanted))
        child.stdin.close()
        out += child.stdout.read()
    assert child.returncode == 0
    return out


def say(terminal: Terminal, word: str) -> None:
    """Type a word in capitals; the guest answers in small letters."""
    terminal.type(word.upper())
    terminal.wait(word)


def socket_of(vm: Vm, name: str) -> str:
    note = (vm.directory / ".qvm/running").read_text()
    return f"{dict(line.split(' ', 1) for line in note.splitlines())['runtime']}/{name}"


def test_console_of_a_stopped_machine_is_refused(blank: Blank) -> None:
    result = blank().qvm("console")
    assert result.status == 3
    assert "cannot open the console: it is stopped" in result.err


def test_console_of_a_paused_machine_says_what_was_not_taken(speaking: Vm) -> None:
    speaking.ok("cmd", "stop")
    result = speaking.qvm("console", stdin="x" * 2_000_000)
    assert result.status == 124
    assert "did not read all of standard input" in result.err


def test_console_beside_another_program_gives_both_every_byte(talking: Vm) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(socket_of(talking, "serial"))
        other.settimeout(DEADLINE_S)
        assert answer(talking, "HELLO", b"hello") == b"hello"
        heard = b""
        while len(heard) < 5:
            heard += other.recv(100)
        assert heard == b"hello"
        other.sendall(b"OTHER")
        while len(heard) < 10:
            heard += other.recv(100)
        assert heard == b"helloother"


def test_console_of_a_machine_without_one_is_refused(blank: Blank) -> None:
    vm = blank(VM_SERIAL="no")
    vm.ok("start", "--no-wait")
    for words in (["console"], ["console", "--watch"]):
        result = vm.qvm(*words)
        assert (result.status, "has no serial console" in result.err) == (3, True), str(result)


def test_console_watch_shows_every_byte_and_ends_with_qemu(speaking: Vm) -> None:
    watching = subprocess.Popen(
        [QVM, "console", "--watch"],
        cwd=speaking.directory,
        env=speaking.world.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    assert watching.stdout is not None
    first = watching.stdout.read(1)  # it watches
    log = speaking.directory / ".qvm/log/serial.log"
    deadline = time.monotonic() + DEADLINE_S
    while b"No bootable device" not in log.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    speaking.ok("kill")
    out = first + watching.communicate(timeout=DEADLINE_S)[0]
    assert watching.returncode == 0
    data = log.read_bytes()
    assert data.endswith(out)  # it began with the last lines of what was there
    assert b"No bootable device" in out


def test_console_interrupted_in_a_pipe_frees_the_console(speaking: Vm) -> None:
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        console = subprocess.Popen(
            [QVM, "console"],
            cwd=speaking.directory,
            env=speaking.world.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + DEADLINE_S
        while not Path(socket_of(speaking, "console")).exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        console.send_signal(number)
        console.communicate(timeout=DEADLINE_S)
        assert console.returncode == status
        assert not Path(socket_of(speaking, "console")).exists()


def test_console_usage_mistakes_are_reported(speaking: Vm) -> None:
    for words in (["--json", "console"], ["console", "-e", "x"], ["console", "-w", "-t"]):
        assert speaking.qvm(*words).status == 2
    other = speaking.world.home / "other"
    shutil.copytree(speaking.directory, other, ignore=shutil.ignore_patterns(".qvm"))
    several = speaking.world.run("console", speaking.directory, other)
    assert (several.status, "takes one machine" in several.err) == (2, True)


def test_console_detach_and_come_back(talking: Vm) -> None:
    assert answer(talking, "EARLIER", b"earlier") == b"earlier"
    with qvm_in_shell(talking, "console") as terminal:
        terminal.wait("earlier")  # what came before
        say(terminal, "first")
        terminal.key("C-c")  # is the guest's: 3 ^ 0x20 is "#"
        terminal.wait("#")
        terminal.key("C-]")
        assert "detached" in wait_for_exit(terminal, 0)
    with qvm_in_shell(talking, "console --escape ^B") as terminal:
        terminal.wait("first#")
        terminal.key("C-b")
        wait_for_exit(terminal, 0)


def test_console_in_use_is_refused_watched_and_taken_over(talking: Vm) -> None:
    with qvm_in_shell(talking, "console") as first, qvm_in_shell(talking, "console --watch") as watcher:
        say(first, "one")
        refused = talking.qvm("console")
        assert refused.status == 3
        assert f"pid {qvm_below(first)}" in refused.err
        assert "--take" in refused.err
        watcher.wait("one")
        watcher.type("WATCHER")
        say(first, "two")
        assert "watcher" not in watcher.wait("two")
        with qvm_in_shell(talking, "console --take") as second:
            assert "the console was taken over by root, pid " in wait_for_exit(first, 3)
            say(second, "three")
            watcher.wait("onetwothree")
            watcher.key("C-c")
            wait_for_exit(watcher, 0)
            second.key("C-]")
            wait_for_exit(second, 0)


def test_console_ended_by_a_signal_gives_the_terminal_back(talking: Vm) -> None:
    for number, word in ((signal.SIGTERM, "asked"), (signal.SIGHUP, "closed")):
        with qvm_in_shell(talking, "console") as terminal:
            say(terminal, word)
            os.kill(qvm_below(terminal), number)
            wait_for_exit(terminal, 143)
    with qvm_in_shell(talking, "console") as terminal:  # and the console is free
        say(terminal, "killed")
        os.kill(qvm_below(terminal), signal.SIGKILL)
        terminal.wait("after")  # in raw mode: nothing can be done about SIGKILL
    assert talking.qvm("console").status == 0


def test_console_slow_reader_does_not_hold_the_guest_up(own: Vm) -> None:
    log = own.directory / ".qvm/log/serial.log"
    before = log.stat().st_size
    console = subprocess.Popen(
        [QVM, "console"],
        cwd=own.directory,
        env=own.world.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert console.stdin is not None
    console.stdin.write(b"!")
    console.stdin.flush()
    deadline = time.monotonic() + DEADLINE_S
    while len(said := log.read_bytes()[before:]) < len(FLOOD):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    out, _ = console.communicate(timeout=DEADLINE_S)  # nothing was read until now
    assert console.returncode == 0
    assert said == FLOOD
    assert out == said


def test_console_whose_keeper_is_killed_comes_back(talking: Vm) -> None:
    with qvm_in_shell(talking, "console") as terminal, qvm_in_shell(talking, "console --watch") as watcher:
        say(terminal, "before")
        for pid in talking.world.pids("host/console_keeper.py"):
            os.kill(pid, signal.SIGKILL)
        terminal.wait("interrupted here")
        say(terminal, "behind")
        watcher.wait("interrupted here[^a-z]*some bytes may be missing[^a-z]*behind")
        both = talking.world.pids("host/console_keeper.py")
        assert len(both) == 2
        parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().split()[3]) for pid in both}
        worker = next(pid for pid in both if parents[pid] in both)
        os.kill(worker, signal.SIGKILL)  # the other begins a new one
        terminal.wait(r"behind\s*\[qvm: the log was interrupted here")
        say(terminal, "oncemore")
        terminal.key("C-]")
        wait_for_exit(terminal, 0)
        watcher.key("C-c")
        wait_for_exit(watcher, 0)


def test_doctor_begins_a_new_keeper_and_no_byte_is_lost(own: Vm) -> None:
    log = own.directory / ".qvm/log/serial.log"
    before = log.stat().st_size
    assert "keeps the console" not in own.qvm("doctor").out
    for pid in own.world.pids("host/console_keeper.py"):
        os.kill(pid, signal.SIGKILL)
    Path(socket_of(own, "serial.in")).write_bytes(b"!")  # 256 KiB wait in the FIFO
    assert "the process that keeps the console has ended" in own.qvm("doctor").out
    assert "started a new one" in own.qvm("doctor", "--fix").out
    deadline = time.monotonic() + DEADLINE_S
    while not log.read_bytes().endswith(FLOOD):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert log.read_bytes()[before:].partition(b"missing]\r\n")[2] == FLOOD
    assert "keeps the console" not in own.qvm("doctor", "--fix").out


def test_console_flood_reaches_the_log_and_each_console_whole(own: Vm) -> None:
    log = own.directory / ".qvm/log/serial.log"
    before = log.stat().st_size
    watching = [
        subprocess.Popen(
            [QVM, "console", "--watch"],
            cwd=own.directory,
            env=own.world.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    assert all(each.stdout and each.stdout.read(1) for each in watching)  # they show what there is
    watching[0].send_signal(signal.SIGSTOP)
    assert answer(own, "!!", FLOOD * 2) == FLOOD * 2
    assert log.read_bytes()[before:] == FLOOD * 2
    watching[0].send_signal(signal.SIGCONT)
    own.ok("kill")
    assert all(each.communicate(timeout=DEADLINE_S)[0].endswith(FLOOD * 2) for each in watching)


def test_console_in_a_pipe_answers_and_ends(talking: Vm) -> None:
    assert answer(talking, "HELLO", b"hello") == b"hello"  # only what is new
    assert talking.ok("console", stdin="").out == ""


def test_console_stays_through_a_reset(talking: Vm) -> None:
    with qvm_in_shell(talking, "console") as terminal:
        say(terminal, "resetting")
        talking.ok("cmd", "system_reset")
        terminal.wait(rf"resetting[\s\S]*{BOOTED}")
        deadline = time.monotonic() + DEADLINE_S
        while "running" not in terminal.text:  # until the boot sector begins, the BIOS reads what is typed
            assert time.monotonic() < deadline
            terminal.type("RUNNING")
            time.sleep(0.5)
        terminal.key("C-]")
        wait_for_exit(terminal, 0)


def test_console_ends_with_qemu(own: Vm) -> None:
    with qvm_in_shell(own, "console") as terminal:
        say(terminal, "here")
        os.kill(own.pid, signal.SIGKILL)
        assert "QEMU crashed" in wait_for_exit(terminal, 0)


def test_console_of_run_is_refused_and_can_be_watched(world: World) -> None:
    vm = make_talker(world)
    with qvm_in_shell(vm, "run") as terminal:
        terminal.wait(BOOTED)
        refused = vm.qvm("console")
        assert refused.status == 3
        assert "on the terminal of `qvm run`" in refused.err
        with qvm_in_shell(vm, "console --watch") as watcher:
            say(terminal, "seen")
            watcher.wait("seen")
            vm.ok("kill")
            wait_for_exit(watcher, 0)
        wait_for_exit(terminal, 0)
    vm.kill()


HURRIED = """
import sys
from qvmsh.machine.terminal import console
console.LINGERS = 10
from qvmsh.__main__ import main
sys.exit(main())
"""
"""A `console` that waits 10 s for silence, not a minute."""


def test_console_in_a_pipe_ends_although_the_guest_still_writes(own: Vm) -> None:
    deadline = time.monotonic() + DEADLINE_S
    words = [sys.executable, "-c", HURRIED, "console", "--linger", "1"]
    status = 0
    while status == 0:  # a starved guest may be silent for a second
        assert time.monotonic() < deadline, "but not always"
        done = subprocess.run(
            words,
            cwd=own.directory,
            env=own.world.environ,
            input=b"!" * 400,  # 100 MiB
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        status = done.returncode
    assert status == 124, done.stderr
    assert b"hint: a longer --linger waits longer" in done.stderr
    own.ok("kill")
