"""`ssh` many times at once: every exit status is the command's own, or 125 with its reason."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guests import debian as debian_guest
from tests.support.world import DEADLINE_S, QVM, Vm, create_debian, wait_until

pytestmark = pytest.mark.guest

PROCESSES = 40
THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor

def one(i):
    done = vm.ssh(f"echo {i}; echo {i} >&2; exit {i}", check=False)
    return (done.stdout, done.stderr, done.status) == (f"{i}\\n", f"{i}\\n", i)

def all_of(i):
    return guest["echo"](i) == f"{i}\\n"

for each in (one, all_of):
    with ThreadPoolExecutor(6) as pool:
        print([i for i, is_right in enumerate(pool.map(each, range(24))) if not is_right])
"""


@pytest.fixture(scope="module")
def debian_running(module_world: object, debian: debian_guest.DebianImage) -> Iterator[Vm]:
    vm = create_debian(module_world, debian, "big")  # type: ignore[arg-type]  # the fixture's
    vm.ok("start", "--ssh-attempts", "120", timeout=300)
    yield vm
    vm.kill()


def round_of_processes(vm: Vm) -> list[str]:
    """Forty at once, each with output and a status of its own; those that were wrong."""
    children = [
        vm.world.popen("ssh", f"echo {i}; echo {i} >&2; exit {i}", cwd=vm.directory) for i in range(PROCESSES)
    ]
    wrong = []
    for i, child in enumerate(children):
        out, err = child.communicate(timeout=DEADLINE_S)
        is_right = (child.returncode, out, err) == (i, f"{i}\n", f"{i}\n")
        is_told = child.returncode == 125 and err.startswith(f"qvm: {vm.directory.name}: ")
        if is_told:
            print(err)
        elif not is_right:
            wrong.append(f"{i}: {child.returncode} {out!r} {err!r}")
    return wrong


def require_threads(vm: Vm) -> None:
    script = Path(vm.directory, "threads.py")
    script.write_text(THREADS)
    assert vm.ok("sh", script.name).out == "[]\n[]\n"


def test_ssh_in_threads_every_result_is_right(running: Vm) -> None:
    require_threads(running)


def test_ssh_forty_at_once_every_status_is_right(running: Vm) -> None:
    assert round_of_processes(running) == []


@pytest.mark.long
def test_ssh_twenty_rounds_every_status_is_right(running: Vm) -> None:
    for _ in range(20):
        assert round_of_processes(running) == []
        require_threads(running)


@pytest.mark.long
def test_ssh_twenty_rounds_on_debian_every_status_is_right(debian_running: Vm) -> None:
    for _ in range(20):
        assert round_of_processes(debian_running) == []
        require_threads(debian_running)


def test_ssh_first_commands_at_once_make_their_connections(running: Vm) -> None:
    """None is there when they begin; later, one is used for commands one after the other."""
    note = (running.directory / ".qvm/running").read_text()
    folder = Path(next(line.partition(" ")[2] for line in note.splitlines() if line.startswith("runtime ")))
    for path in folder.glob("ssh*"):
        if path.is_socket():
            subprocess.run(["ssh", "-O", "exit", "-S", path, "x"], capture_output=True)
    wait_until(lambda: not [path for path in folder.glob("ssh*") if path.is_socket()])
    children = [running.world.popen("ssh", f"exit {i}", cwd=running.directory) for i in range(6)]
    for i, child in enumerate(children):
        assert (child.wait(DEADLINE_S), child.communicate()) == (i, ("", ""))
    before = {path for path in folder.glob("ssh*") if path.is_socket()}
    for _ in range(3):
        running.ok("ssh", "true")
    assert {path for path in folder.glob("ssh*") if path.is_socket()} <= before
    assert Path(folder, "ssh").is_socket()


def test_ssh_beside_a_long_command_gets_its_own_connection(running: Vm) -> None:
    long = subprocess.Popen(
        [QVM, "ssh", "echo begun; cat; exit 9"],
        cwd=running.directory,
        env=running.world.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert long.stdout is not None
    assert long.stdout.readline() == "begun\n"
    for _ in range(3):
        assert running.qvm("ssh", "exit 3").status == 3
    running.answering()
    assert long.communicate("more\n", timeout=DEADLINE_S)[0] == "more\n"
    assert long.returncode == 9
