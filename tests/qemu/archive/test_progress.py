"""archive on a terminal: the line of progress, and Ctrl-C in the middle of a copy."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.support.archives import archived_states, make_archive, require_nothing_left, state_name
from tests.support.disks import read_byte, write_live
from tests.support.programs import qemu_img, write_script
from tests.support.tmux_terminal import Terminal, qvm_below, qvm_in_shell, qvm_shell, wait_for_exit
from tests.support.world import DEADLINE_S, Blank, Vm, World

LINE = r"archiving data\.raw: [\d.]+ [KM]iB of 16\.0 MiB, \d+ %, [\d.]+ [KM]iB/s, \d+:\d\d left"

SLOW = """\
#!/usr/bin/python3 -IS
# As the real one, but in the middle of a large file it waits for another file.
import os, signal, subprocess, sys, time

signal.signal(signal.SIGINT, signal.SIG_DFL)
head, is_whole, argv = b"", False, [{real!r}, *sys.argv[1:]]
while not is_whole and not os.path.exists({go!r}):
    if len(head) < 4 << 20:
        data = os.read(0, (4 << 20) - len(head))
        head, is_whole = head + data, not data
    else:
        time.sleep(0.1)
try:
    os.lseek(0, 0, os.SEEK_SET)
except OSError:  # a pipe
    if is_whole:
        sys.exit(subprocess.run(argv, input=head).returncode)
os.execv(argv[0], argv)
"""


@pytest.fixture
def go(world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is not there, compressors stop in the middle of their work."""
    found = world.home / "go"
    (world.home / "bin").mkdir()
    for name, real in (("pigz", "gzip"), ("gzip", "gzip"), ("xz", "xz")):
        path = shutil.which(real)
        write_script(world.home / "bin", name, SLOW.format(go=str(found), real=path))
    monkeypatch.setenv("PATH", f"{world.home / 'bin'}:{os.environ['PATH']}")
    return found


@pytest.fixture
def vm(go: Path, blank: Blank) -> Vm:
    """With a disk of noise."""
    made = blank(VM_DISKS="data.raw")
    (made.directory / "data.raw").write_bytes(os.urandom(16 << 20))
    return made


def hashes(vm: Vm) -> dict[str, str]:
    names = ("data.raw", "demo-base.qcow2", "demo-backing.qcow2", ".vmrc")
    return {name: hashlib.sha1((vm.directory / name).read_bytes()).hexdigest() for name in names}


def interrupt(terminal: Terminal) -> str:
    """Ctrl-C while the line of the large disk moves."""
    terminal.wait(LINE)
    terminal.key("C-c")
    return wait_for_exit(terminal, 130)


def told_that_nothing_changed(screen: str) -> None:
    assert "archiving data.raw: interrupted" in screen
    assert "qvm: demo: interrupted; the machine and its archives did not change" in screen
    assert "failed" not in screen


def test_line_is_there_for_a_compressed_copy_and_gone_at_the_end(vm: Vm, go: Path) -> None:
    with qvm_in_shell(vm, "archive -z gzip") as terminal:
        terminal.wait(LINE)
        go.touch()
        screen = wait_for_exit(terminal, 0)
    assert re.search(r"archiving data\.raw: 16\.0 MiB in [\d.]+ s, [\d.]+ MiB/s", screen)
    assert " left" not in screen
    assert "demo: archived as demo-" in screen
    with qvm_in_shell(vm, "archive --verify") as terminal:
        screen = wait_for_exit(terminal, 0)
    assert re.search(r"reading demo-disk1\.raw\.gz: [\d.]+ MiB in", screen)
    require_nothing_left(vm)


def test_progress_without_a_terminal_has_no_line(vm: Vm) -> None:
    vm.ok("archive")
    for words in (["archive", "--full"], ["archive", "--full", "-z", "lz4"], ["archive", "--verify"]):
        result = vm.ok(*words)
        assert result.err == ""
        assert "\r" not in result.out
        assert "%" not in result.out


def test_ctrl_c_during_an_archive_while_off_changes_nothing(vm: Vm) -> None:
    first = make_archive(vm)
    rows, before = archived_states(vm), hashes(vm)
    os.utime(vm.directory / "data.raw")  # so that there is something to archive
    with qvm_in_shell(vm, "archive -z gzip") as terminal:
        told_that_nothing_changed(interrupt(terminal))
    assert archived_states(vm) == rows
    assert hashes(vm) == before
    require_nothing_left(vm)
    files = sorted(path.name for path in (vm.directory / first["archive"]).iterdir())
    vm.ok("archive", "--verify")
    with qvm_in_shell(vm, "archive --create -z gzip -b") as terminal:  # nothing to commit: the same base
        interrupt(terminal)
    assert sorted(path.name for path in (vm.directory / first["archive"]).iterdir()) == files
    assert hashes(vm) == before
    require_nothing_left(vm)


def test_ctrl_c_in_the_first_archive_leaves_none(vm: Vm) -> None:
    with qvm_in_shell(vm, "archive -z gzip") as terminal:
        interrupt(terminal)
    assert archived_states(vm) == []
    assert not list(vm.directory.glob("*demo-2*"))
    require_nothing_left(vm)


def test_ctrl_c_during_an_archive_while_on_changes_nothing(vm: Vm) -> None:
    vm.ok("start", "--no-wait")
    write_live(vm, "-P 1 0 64k")
    first = make_archive(vm)
    rows = archived_states(vm)
    with qvm_in_shell(vm, "archive --full -z gzip") as terminal:
        terminal.wait(LINE)
        write_live(vm, "-P 2 64k 64k")  # into what is laid over the disk meanwhile
        terminal.key("C-c")
        told_that_nothing_changed(wait_for_exit(terminal, 130))
    assert archived_states(vm) == rows
    assert vm.ok("status", "-s").out.startswith("demo: running")
    assert "qvm-cut" not in vm.ok("qmp", "query-named-block-nodes").out
    require_nothing_left(vm)
    write_live(vm, "-P 3 128k 64k")
    last = make_archive(vm)
    assert last["incremental"]  # what has changed since the first is known still
    vm.ok("kill")
    vm.ok("restore", "--force", state_name(first))
    assert [read_byte(vm, at) for at in ("0", "64k", "128k")] == [1, 0, 0]
    vm.ok("restore", "--force", state_name(last))
    assert [read_byte(vm, at) for at in ("0", "64k", "128k")] == [1, 2, 3]


def test_ctrl_c_in_a_restore_leaves_the_machine_as_it_was(vm: Vm, go: Path) -> None:
    go.touch()
    made = make_archive(vm, "-z", "gzip")
    go.unlink()
    with (vm.directory / "data.raw").open("r+b") as file:
        file.write(b"newer")
    before = hashes(vm)
    for words in (f"restore --force {state_name(made)}", f"restore {state_name(made)} ../twin"):
        with qvm_in_shell(vm, words) as terminal:
            terminal.wait(r"restoring demo-disk1\.raw: .* left")
            terminal.key("C-c")
            screen = wait_for_exit(terminal, 130)
        assert "restoring demo-disk1.raw: interrupted" in screen
        assert (
            "qvm: twin: interrupted; nothing was left behind" in screen
            if "twin" in words
            else "qvm: demo: the restore was interrupted, and was undone: the machine is as before" in screen
        )
        assert hashes(vm) == before
        require_nothing_left(vm)
    assert sorted(path.name for path in vm.world.home.iterdir() if "twin" in path.name) == []


def test_sigterm_says_what_is_left(vm: Vm) -> None:
    with qvm_in_shell(vm, "archive -z gzip") as terminal:
        terminal.wait(LINE)
        os.kill(qvm_below(terminal), signal.SIGTERM)
        told_that_nothing_changed(wait_for_exit(terminal, 143))
    require_nothing_left(vm)


def test_ctrl_c_in_a_shell_is_not_a_failure_of_the_compressor(vm: Vm) -> None:
    """There the terminal interrupts the compressor, but not the thread that waits for it."""
    with qvm_shell(vm.world, vm.directory) as screen:
        screen.ready()
        count = screen.begin("archive -z xz")
        screen.wait(LINE)
        screen.key("C-c")
        screen.ready(count)
        told_that_nothing_changed(screen.output())
    require_nothing_left(vm)


def test_compressor_does_not_outlive_a_qvm_that_is_killed(blank: Blank) -> None:
    vm = blank()
    noise = os.urandom(24 << 20)
    (vm.directory / "noise").write_bytes(noise)
    qemu_img(vm, "convert", "-O", "qcow2", "-f", "raw", "noise", "demo-backing.qcow2")
    child = vm.world.popen("archive", "-z", "xz", cwd=vm.directory)

    def compressors() -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                here = os.readlink(path / "cwd") == str(vm.directory)
                found += [int(path.name)] if here and (path / "comm").read_text() == "xz\n" else []
            except OSError:
                continue
        return found

    while not compressors():
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.communicate()
    deadline = time.monotonic() + DEADLINE_S
    while compressors():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "was interrupted" in vm.ok("disk", "check").err
    require_nothing_left(vm)
