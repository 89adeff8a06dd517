"""What users see of long work on snapshots: progress, the command at work, and its interruption.

The guest's memory is filled by QEMU's own loader. QEMU is held (SIGSTOP) once its image has grown, so that
it is certainly in the middle for as long as the test looks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pty_terminal import PtyTerminal
from tests.support.tmux_terminal import qvm_shell
from tests.support.world import DEADLINE_S, Blank, Vm, wait_until

MEMORY_BYTES = 160 << 20


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "noise"
    path.write_bytes(os.urandom(MEMORY_BYTES))
    return path


@pytest.fixture
def vm(blank: Blank, noise: Path) -> Vm:
    """A machine that is on, with memory that does not compress to nothing."""
    made = blank(VM_MACHINE_MEM="256", VM_QEMU_SANDBOX="off")
    made.set(VM_QEMU_EXTRA=f"-device loader,file={noise},addr=0x2000000,force-raw=on")
    made.ok("start", "--no-wait")
    return made


def used(vm: Vm) -> int:
    return os.stat(vm.directory / "demo-backing.qcow2").st_blocks * 512


@contextlib.contextmanager
def held(vm: Vm, grown_bytes: int) -> Iterator[None]:
    """QEMU stands still from the moment at which its image has grown by so much."""
    before, deadline, pid = used(vm), time.monotonic() + DEADLINE_S, vm.pid
    while used(vm) - before < grown_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def names(vm: Vm) -> list[str]:
    return [row["name"] for row in json.loads(vm.ok("snapshot", "list", "--json").out)["snapshots"]]


def test_save_and_restore_show_how_much_is_done_and_how_fast(vm: Vm) -> None:
    terminal = PtyTerminal(vm, "snapshot", "save", "a")
    with held(vm, 8 << 20):
        pattern = r"\r  saving a: ([\d.]+) MiB written, [\d.]+ [KMG]iB/s\x1b\[K"
        terminal.until(pattern)
        deadline = time.monotonic() + DEADLINE_S
        while max(map(float, re.findall(pattern, terminal.text))) < 8:  # the first look may have been earlier
            assert time.monotonic() < deadline, terminal.text
            assert terminal.read(0.1)
    assert terminal.end() == 0
    assert re.search(r"\r  saving a: \d+\.\d s, 1\d\d MiB of memory\x1b\[K\r\n", terminal.text), terminal.text
    output = terminal.text.splitlines()[-1]
    assert re.match(r"demo: saved the snapshot a \(1 disk, 1\d\d\.\d MiB of memory\) in ", output)
    # the way back is saved too before anything is loaded
    terminal = PtyTerminal(vm, "snapshot", "restore", "a", "--no-wait")
    with held(vm, 8 << 20):
        terminal.until(r"\r  keeping the current state: [\d.]+ MiB written, ")
    assert terminal.end() == 0
    assert "restoring a: " in terminal.text
    require_parts_of_the_load(vm)


def test_in_a_pipe_nothing_is_shown(vm: Vm) -> None:
    for words in (["save", "a"], ["restore", "a", "--no-wait"], ["delete", "a"]):
        assert vm.ok("snapshot", *words).err == "", words
    result = vm.ok("snapshot", "save", "b", "--json")
    assert (result.err, json.loads(result.out)["snapshot"]) == ("", "b")


def require_parts_of_the_load(vm: Vm) -> None:
    """A restore shows how much has been read. QEMU reads all in a moment, so it is let read bit by bit."""
    pattern, pid = r"restoring a: (\d+) %, [\d.]+ [KMG]iB/s", vm.pid
    for _ in range(20):
        terminal = PtyTerminal(vm, "snapshot", "restore", "a", "--no-wait")
        terminal.until("restoring a")
        is_open = True
        while is_open and not re.search(pattern, terminal.text):
            os.kill(pid, signal.SIGSTOP)
            is_open = terminal.read(0.3)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)
        assert terminal.end() == 0
        seen = [int(part) for part in re.findall(pattern, terminal.text)]
        assert all(0 <= part <= 100 for part in seen)
        if seen:
            return
    pytest.fail("all restores were over before they showed a part")


def test_commit_shows_the_progress_of_qemus_job(vm: Vm) -> None:
    vm.ok("disk", "resize", "disk0", "256M")
    where = "-d /machine/peripheral/disk0-device/virtio-backend"
    slow = ["qmp", "block-job-set-speed", "device=qvm-commit", f"speed={8 << 20}"]
    for turn in range(1, 21):
        vm.ok("cmd", f'qemu-io {where} "write -P {turn} 0 200M"')
        terminal = PtyTerminal(vm, "disk", "commit")
        is_held = False
        while not is_held and terminal.read(0.01):
            is_held = vm.qvm(*slow).status == 0
        is_seen = is_held and terminal.shows(
            r"committing demo-backing\.qcow2: [1-9]\d?(\.\d)? %, [\d.]+ [KM]iB/s, \d+:\d\d left\x1b"
        )
        if is_seen:
            vm.qvm("qmp", "block-job-set-speed", "device=qvm-commit", "speed=0")  # unless it has just ended
        assert terminal.end() == 0, terminal.text
        if is_seen:
            return
    pytest.fail("all commits were over before they could be slowed down")


def test_others_get_the_name_of_the_command_at_work(vm: Vm) -> None:
    vm.ok("snapshot", "save", "old")
    child = vm.world.popen("snapshot", "save", "a", cwd=vm.directory)
    with held(vm, 8 << 20):
        output = vm.ok("snapshot", "list").out
        assert re.search(
            r"save of the snapshot a, begun [-\d: ]+, is in progress: `qvm snapshot save`, pid \d+, since",
            output,
        )
        assert "\nold *  " in output
        for words in (["save", "b"], ["restore", "old"], ["delete", "old"]):
            refused = vm.qvm("snapshot", *words)
            assert refused.status == 3
            other = f"`qvm snapshot {words[0]}` cannot begin: `qvm snapshot save`, pid {child.pid}, since "
            assert other in refused.err
    assert child.wait(DEADLINE_S) == 0
    child.communicate()
    assert names(vm) == ["old", "a"]


def test_qemu_that_ends_meanwhile_is_reported_with_a_hint(vm: Vm) -> None:
    child = vm.world.popen("snapshot", "save", "a", cwd=vm.directory)
    with contextlib.suppress(ProcessLookupError), held(vm, 8 << 20):
        os.kill(vm.pid, signal.SIGKILL)
    _, said = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 1
    assert "qvm: demo: QEMU ended during snapshot-save\n" in said
    assert "\nhint: `qvm logs` shows why" in said
    vm.ok("start", "--no-wait")


def test_ctrl_c_waits_for_qemu_and_then_all_is_whole(vm: Vm) -> None:
    terminal = PtyTerminal(vm, "snapshot", "save", "a")
    with held(vm, 8 << 20):
        terminal.until("written")
        terminal.interrupt()
        terminal.until("waiting for QEMU, which cannot be interrupted now")
    assert terminal.end() == 130
    assert "the save of the snapshot a, begun 20" in terminal.text
    assert "was complete: it was kept" in terminal.text
    assert "saving a: interrupted" in terminal.text
    assert not (vm.directory / ".qvm/snapshot.unfinished").exists()
    assert vm.qvm("status", "-s").out.startswith("demo: running")
    terminal = PtyTerminal(vm, "snapshot", "restore", "a", "--no-wait")
    with held(vm, 8 << 20):
        terminal.until("written")
        terminal.interrupt()
        terminal.until("waiting for QEMU")
    assert terminal.end() == 130
    assert "the restore of the snapshot a, begun 20" in terminal.text
    assert names(vm) == ["a"]
    assert vm.qvm("status", "-s").out.startswith("demo: running")


def test_ctrl_c_in_a_shell_says_that_the_save_was_done(vm: Vm) -> None:
    """There it does not reach the thread that waits for QEMU."""
    with qvm_shell(vm.world, vm.directory) as screen:
        screen.ready()
        count = screen.begin("snapshot save a")
        with held(vm, 8 << 20):
            screen.wait("written")
            screen.key("C-c")
            screen.wait(r"\^C")
        screen.ready(count)
        assert "snapshot save: Ctrl-C came too late, it is done" in screen.output()
    assert names(vm) == ["a"]


def test_one_more_ctrl_c_leaves_it_to_the_next_command(vm: Vm) -> None:
    terminal = PtyTerminal(vm, "snapshot", "save", "a")
    with held(vm, 8 << 20):
        terminal.until("written")
        terminal.interrupt()
        terminal.until("waiting for QEMU")
        terminal.interrupt()
        assert terminal.end() == 130
        assert "was interrupted and cannot be recovered: " in terminal.text
        assert "the next command recovers it" in terminal.text
        # whoever recovers it may have taken the lock, and not yet written its name there
        who = r"(the next command that changes the machine recovers|pid \d+ is recovering) it"
        wait_until(lambda: re.search(f"was interrupted: {who}", vm.ok("snapshot", "list").out))
    deadline = time.monotonic() + DEADLINE_S
    while (vm.directory / ".qvm/snapshot.unfinished").exists():  # another process waits for QEMU instead
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert vm.qvm("status", "-s").out.startswith("demo: running")  # it stood still while it was saved
    errors = vm.ok("snapshot", "save", "b").err
    assert "the save of the snapshot a, begun 20" in errors
    assert names(vm) == ["a", "b"]
    assert vm.qvm("status", "-s").out.startswith("demo: running")


def test_qemu_that_hangs_is_reported_and_the_journal_stays(vm: Vm) -> None:
    child = vm.world.popen("snapshot", "save", "a", cwd=vm.directory)
    with held(vm, 8 << 20):
        child.kill()
        child.communicate()
        refused = vm.qvm("snapshot", "save", "b")  # a stopped process is not waited for as one at work
        assert refused.status == 1
        assert "the save of the snapshot a, begun 20" in refused.err
        assert "cannot be recovered: the monitor does not answer" in refused.err
    vm.ok("snapshot", "save", "b")
    assert names(vm) == ["a", "b"]
    assert not list(Path(vm.directory / ".qvm").glob("*unfinished*"))
