"""What `status` says of machines in every condition (real QEMU, no guest system)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.world import DEADLINE_S, QVM, Blank, Vm, World, write_vmrc


def test_status_machine_never_started_is_stopped(blank: Blank) -> None:
    result = blank().qvm("status")
    assert (result.status, result.out, result.err) == (1, "demo: stopped\n", "")


def test_status_distinguishes_running_and_paused(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    assert vm.ok("status", "-s").out == f"demo: running (pid {vm.pid})\n"
    vm.ok("cmd", "stop")
    assert vm.qvm("status", "-s").out.startswith("demo: paused (pid ")
    assert vm.qvm("status", "-s").status == 1


def test_status_without_guest_system_reports_no_ssh(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    result = vm.qvm("status")
    assert result.status == 1
    assert "ssh does not answer" in result.out


def test_status_quiet_prints_nothing(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    result = vm.qvm("status", "-q", "-s")
    assert (result.status, result.out, result.err) == (0, "", "")


def test_status_stopped_process_is_named_and_continues(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    os.kill(vm.pid, signal.SIGSTOP)
    try:
        result = vm.qvm("status", "-s")
        assert "broken" in result.out
        assert "stopped by a signal" in result.out
        assert f"kill -CONT {vm.pid}" in result.out
    finally:
        os.kill(vm.pid, signal.SIGCONT)
    vm.ok("status", "-s")


def test_stop_stopped_process_is_not_killed_without_force(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    os.kill(vm.pid, signal.SIGSTOP)
    result = vm.qvm("stop", "--timeout", "0.5")
    assert result.status == 3
    assert f"kill -CONT {vm.pid}" in result.err
    assert Path(f"/proc/{vm.pid}").exists()
    assert "powered off by SIG" in vm.ok("stop", "--timeout", "0", "--force").out


def test_status_killed_qemu_is_crashed_and_starts_again(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    pid = vm.pid
    os.kill(pid, signal.SIGKILL)
    while "crashed" not in (output := vm.qvm("status", "-s").out):
        assert "running" in output or "starting" in output or "broken" in output
    assert f"QEMU (pid {pid}) ended unexpectedly" in output
    vm.ok("start", "--no-wait")
    vm.ok("status", "-s")


def test_status_stale_pid_file_names_the_other_program(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    (vm.directory / ".qvm/qemu.pid").write_text(f"{os.getpid()}\n")
    result = vm.qvm("status")
    assert result.status == 1
    assert f"pid {os.getpid()} is now another program" in result.out
    refused = vm.qvm("kill")
    assert refused.status == 3
    vm.ok("start", "--no-wait")


def test_status_pid_file_locked_by_another_program_is_broken(blank: Blank) -> None:
    vm = blank()
    pid_file = vm.directory / ".qvm/qemu.pid"
    program = (
        f"import fcntl, sys; file = open({str(pid_file)!r}, 'w'); fcntl.lockf(file, fcntl.LOCK_EX);"
        "print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        result = vm.qvm("status")
        assert "broken" in result.out
        assert f"{other.pid}" in result.out
        assert "will not kill" in vm.qvm("kill").err
        assert other.poll() is None
        other.communicate()


def test_status_of_a_vmrc_that_cannot_be_read_is_broken(blank: Blank) -> None:
    vm = blank()
    vmrc = vm.directory / ".vmrc"
    text = vmrc.read_bytes()
    vmrc.unlink()
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)):
        make(vmrc)
        result = vm.qvm("status")
        assert result.status == 1, str(result)
        assert result.out.startswith("demo: broken: cannot read "), str(result)
        assert "a .vmrc is a text file with lines NAME=value" in result.out + result.err
        vmrc.rmdir() if vmrc.is_dir() else vmrc.unlink()
    vmrc.write_bytes(text)
    assert vm.qvm("status").out == "demo: stopped\n"


def test_status_deleted_runtime_folder_is_named_and_kill_works(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    shutil.rmtree(vm.runtime)
    result = vm.qvm("status", "-s")
    assert "its sockets are missing" in result.out
    assert "hint: " in result.out
    assert "killed by SIGTERM" in vm.ok("kill").out


def test_status_moved_directory_is_the_same_machine(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    vm.directory = vm.directory.rename(vm.directory.with_name("moved"))
    vm.ok("status", "-s")
    vm.ok("cmd", "info", "status")
    vm.ok("kill")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second account")
def test_status_by_another_user_names_the_owner(world: World) -> None:
    """Root's machine, asked by `nobody`: the owner is reported, not the state."""
    open_folder = Path(tempfile.mkdtemp(prefix="qvmt-open-"))
    open_folder.chmod(0o755)
    write_vmrc(open_folder / "demo")
    vm = Vm(world, open_folder / "demo")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "demo-seed.qcow2", "1M"], cwd=vm.directory, check=True
    )
    try:
        vm.ok("init")
        vm.ok("start", "--no-wait")
        done = subprocess.run(
            ["setpriv", "--reuid", "65534", "--clear-groups", QVM, "-C", str(vm.directory), "status"],
            env=world.environ
            | {
                "HOME": "/nonexistent",
                "XDG_DATA_HOME": "/nonexistent",
                "XDG_RUNTIME_DIR": "",
                "VM_GLOBAL_CONFIG": "",
                "XDG_CONFIG_HOME": "/nonexistent",
            },
            cwd="/",
            capture_output=True,
            text=True,
        )
    finally:
        vm.kill()
        shutil.rmtree(open_folder)
    assert done.returncode == 1, done
    assert "it is root's machine" in done.stdout, done


def test_kill_leaves_nothing(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    folder = vm.runtime
    assert "killed by quit" in vm.ok("kill").out
    assert not folder.exists()
    assert not (vm.directory / ".qvm/qemu.pid").exists()
    assert not (vm.directory / ".qvm/running").exists()


def test_kill_stopped_machine_reports_it(blank: Blank) -> None:
    result = blank().qvm("kill")
    assert result.status == 3
    assert "demo: cannot kill: it is stopped" in result.err


def test_cmd_unknown_command_is_an_error(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    result = vm.qvm("cmd", "bogus")
    assert result.status == 1
    assert "unknown command: 'bogus'" in result.err
    assert vm.qvm("cmd", "device_del", "nothing").status == 1
    assert vm.ok("cmd", "info", "block", "-v").out.startswith("disk0")


def test_cmd_of_stopped_machine_is_a_state_error(blank: Blank) -> None:
    result = blank().qvm("cmd", "info", "status")
    assert result.status == 3
    assert "hint: `qvm start` starts it" in result.err


def test_run_foreground_gives_qemus_status(blank: Blank) -> None:
    vm = blank()
    assert vm.qvm("run", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-S", "-no-such").status == 1
    running = vm.world.popen("run", "-S", cwd=vm.directory)
    while "paused" not in vm.qvm("status", "-s").out:
        assert running.poll() is None
    vm.ok("cmd", "quit")
    assert running.wait(DEADLINE_S) == 0
    running.communicate()
    assert vm.qvm("status").out == "demo: stopped\n"


REMOVED = (".qvm", ".qvm/qemu.pid", ".qvm/qemu.pid .qvm/running", ".qvm/running")
STOP = "stop --force --timeout 0"


@pytest.mark.parametrize(
    ("verb", "removed"),
    [
        ("kill", REMOVED),
        (STOP, REMOVED[:1]),
        pytest.param(STOP, REMOVED[1:], marks=pytest.mark.long),
    ],
)
def test_status_and_kill_find_a_qemu_whose_files_were_removed(
    blank: Blank, verb: str, removed: tuple[str, ...]
) -> None:
    vm = blank()
    for what in removed:
        vm.ok("start", "--no-wait")
        pid, folder = vm.pid, vm.runtime
        for name in what.split():
            path = vm.directory / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        output = vm.qvm("status", "-s").out
        assert f"(pid {pid})" in output, what
        if what == ".qvm":
            why = "its folder .qvm was removed; `qvm stop` and `qvm kill` still work"
            assert output == f"demo: running (pid {pid}): {why}\n"
        for words in (["start", "--no-wait"], ["init", "-k"], ["snapshot", "restore", "x"]):
            assert vm.qvm(*words).status == 3, what
        vm.ok(*verb.split())
        assert vm.qvm("status").out == "demo: stopped\n", what
        assert not folder.exists() or what == ".qvm/running"
    vm.ok("start", "--no-wait")


def test_status_of_a_machine_without_its_folder_is_right(blank: Blank, world: World) -> None:
    vm = blank()
    code = (
        "import fcntl, os, sys; f = open('lock', 'w'); sys.argv[3:] and os.setuid(int(sys.argv[3]));"
        "fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True);"
        "sys.stdin.read()"
    )
    words = [sys.executable, "-I", "-c", code, "-pidfile", ".qvm/qemu.pid"]
    for argv, where, uid in (
        (words[:4], vm.directory, None),  # no QEMU's arguments
        (words, world.home, None),  # another directory
        ([*words, "65534"], vm.directory, 65534),  # another account's
    ):
        if uid and os.geteuid():
            continue
        decoy = subprocess.Popen(
            argv, cwd=where, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=world.environ
        )
        assert decoy.stdout is not None
        assert decoy.stdin is not None
        try:
            assert decoy.stdout.readline() == b"\n"
            assert vm.qvm("status", "-s").out == "demo: stopped\n"
            assert vm.qvm("kill").status == 3
            assert decoy.poll() is None
        finally:
            decoy.stdin.close()
            decoy.wait()
            decoy.stdout.close()
