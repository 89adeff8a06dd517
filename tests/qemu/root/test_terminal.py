"""Root's terminal is not the owner's: what root begins as another account gets one of its own."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.owner import Owner, give
from tests.support.pty_terminal import PtyTerminal
from tests.support.world import DEADLINE_S, QVM, Vm

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root works as another account")

EVIL = """#!/usr/bin/python3 -I
# what a hostile account may let run as its QEMU: it types on the terminal, and stays behind to read from it
import fcntl, os, sys, termios
if "--version" in sys.argv or "-version" in sys.argv or "help" in sys.argv:
    os.execv("/usr/bin/qemu-system-x86_64", ["qemu-system-x86_64", *sys.argv[1:]])
sys.stdout = open(os.ttyname(0), "w")  # its own standard output is a log
print("size", os.get_terminal_size(0), os.ttyname(0), flush=True)
print("typed:", sys.stdin.readline().strip(), flush=True)
for character in b"pwned\\n":
    try:
        fcntl.ioctl(0, termios.TIOCSTI, bytes([character]))
    except OSError as error:
        print("TIOCSTI:", error.strerror, flush=True)
if os.fork() == 0:
    os.setsid()
    with open("heard", "wb", buffering=0) as heard:
        heard.write(b"begun\\n")
        try:
            while data := os.read(0, 100):
                heard.write(data)
        except OSError:
            pass
        heard.write(b"end\\n")
    os._exit(0)
"""


@pytest.fixture
def vm(theirs: Callable[..., Vm], owner: Owner) -> Vm:
    made = theirs(VM_QEMU_DISPLAY="none")
    give(made, owner)
    return made


def test_terminal_of_root_is_out_of_the_owners_reach(vm: Vm) -> None:
    evil = vm.directory / "evil"
    evil.write_text(EVIL)
    evil.chmod(0o755)
    vm.set(VM_QEMU_BIN="./evil")
    script = f'tty; {QVM} run; printf "NEXT\\n"; read -r line; echo "GOT <$line>"'
    terminal = PtyTerminal(vm, "-c", script, program="sh")
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    own = terminal.until(r"/dev/pts/\d+")[0]
    other = terminal.until(r"columns=(\d+), lines=(\d+)\) (/dev/pts/\d+)")
    assert (other[1], other[2]) == ("77", "33")
    assert other[3] != own
    os.write(terminal.master, b"hello\n")
    terminal.until(r"typed: hello")
    terminal.until(r"NEXT")
    os.write(terminal.master, b"secret\n")
    assert terminal.until(r"GOT <(.*)>")[1] == "secret"
    assert terminal.end() == 0
    heard = vm.directory / "heard"
    deadline = time.monotonic() + DEADLINE_S
    while not heard.read_bytes().endswith(b"end\n"):  # its terminal has gone
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert b"secret" not in heard.read_bytes()


def test_interrupt_typed_by_root_ends_the_command_in_order(vm: Vm) -> None:
    vm.set(VM_PRE_START='sh -c "echo > begun; sleep 600"')
    terminal = PtyTerminal(vm, "start")
    deadline = time.monotonic() + DEADLINE_S
    while not (vm.directory / "begun").exists():
        assert time.monotonic() < deadline
        terminal.read(0.05)
    terminal.interrupt()
    assert terminal.end() == 130
    assert vm.qvm("status").out == "demo: stopped\n"


def test_output_on_roots_terminal_is_as_the_owner_sees_it(vm: Vm) -> None:
    terminal = PtyTerminal(vm, "-v", "start", "--no-wait")
    assert terminal.end() == 0
    assert re.search(r"starting QEMU.*\r\n", terminal.text)
    assert re.search(r"demo: started \(pid \d+\)\r+\n", terminal.text)
    vm.ok("kill")
    assert vm.qvm("status", stdin="").out == "demo: stopped\n"
    with (vm.directory.parent / "out").open("wb") as out:
        subprocess.run([QVM, "status"], cwd=vm.directory, env=vm.world.environ, stdout=out, check=False)
    assert Path(out.name).read_text() == "demo: stopped\n"


def test_shell_of_root_in_the_owners_machine_is_the_owners(vm: Vm, owner: Owner) -> None:
    assert vm.qvm("sh", "-c", "import os; print(os.geteuid(), os.environ['HOME'])").out == (
        f"{owner.row.pw_uid} {owner.row.pw_dir}\n"
    )
    script = "$(id -un)"
    assert vm.qvm("sh", "-", stdin=f"print({script}.strip())\nprint(status().state)\n").out == (
        f"{owner.name}\nstopped\n"
    )
    terminal = PtyTerminal(vm, "sh")
    terminal.until(r":stopped>")
    os.write(terminal.master, b"id -un\r")
    terminal.until(owner.name)
    os.write(terminal.master, b"exit\r")
    assert terminal.end() == 0


def test_session_of_root_does_not_open_the_owners_machine(
    vm: Vm,
    owner: Owner,
    blank: Callable[..., Vm],
) -> None:
    own = blank(name="own")
    for line in (f"use {vm.directory}", f"status -C {vm.directory}"):
        refused = own.qvm("sh", "-c", line)
        assert refused.status == 1, str(refused)
        assert (
            f"{vm.directory} belongs to {owner.name}: root does not open it with its own rights"
            in refused.err
        )
    program = f"from qvmsh import Machine; Machine.open({str(vm.directory)!r}).status()"
    refused = own.qvm("sh", "-c", program)
    assert refused.status == 1
    assert f"belongs to {owner.name}" in refused.err


def test_list_shows_the_owners_machines_to_root(vm: Vm, owner: Owner) -> None:
    vm.set(VM_LABELS="web db")
    vm.ok("start", "--no-wait")
    row = vm.world.run("list").out.splitlines()[1].split()
    assert [*row[:3], row[-1]] == ["demo", "running", str(vm.pid), str(vm.directory)]
    assert re.search(r"^ +labels +web db$", vm.world.run("list", "-l").out, re.MULTILINE)
    assert vm.world.run("status", "-s", "--label", "web").out == f"demo: running (pid {vm.pid})\n"
    vm.ok("kill")
    (vm.directory / ".vmrc").unlink()
    os.mkfifo(vm.directory / ".vmrc")
    assert vm.world.run("list").out.splitlines()[1].split()[:2] == ["demo", "broken"]
