"""A QEMU that ended by a signal is reported as crashed, with its last message; and starts again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from qvmsh.host import locks
from tests.support.monitor import ask, is_connected
from tests.support.pty_terminal import PtyTerminal
from tests.support.world import DEADLINE_S, QVM, Blank, Vm, wait_until

WORDS = "qemu-system-x86_64: ../block.c:1234: bdrv_close: Assertion `!bs->refcnt' failed."


def talking(blank: Blank) -> Vm:
    """A machine whose QEMU says, as it begins, what one says that aborts."""
    vm = blank(VM_QEMU_BIN="./qemu-that-talks")
    program = vm.directory / "qemu-that-talks"
    program.write_text(f'#!/bin/sh\ncat >&2 <<"END"\n{WORDS}\nEND\nexec qemu-system-x86_64 "$@"\n')
    program.chmod(0o755)
    return vm


def holds(vm: Vm, name: str) -> bool:
    """True if a command holds that lock of the machine."""
    return locks.working(str(vm.directory / ".qvm" / name)) is not None


def hangs(vm: Vm) -> bool:
    """True if QEMU does not answer now."""
    try:
        ask(vm, "query-status", timeout_s=10.0)
    except TimeoutError:
        return True
    return False


def crash(vm: Vm, number: signal.Signals) -> None:
    os.kill(vm.pid, number)


def require_told(vm: Vm) -> None:
    result = vm.qvm("status")
    assert result.status == 1
    assert f"demo: crashed: QEMU (pid {vm.pid}) ended unexpectedly; its last output: {WORDS}" in result.out


def test_status_qemu_ended_by_a_signal_is_crashed(blank: Blank) -> None:
    vm = talking(blank)
    for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT):
        vm.ok("start", "--no-wait")
        crash(vm, number)
        wait_until(lambda: "crashed" in vm.qvm("status", "-s").out)
        require_told(vm)
    assert json.loads(vm.qvm("--json", "status").out)["state"] == "crashed"
    rows = vm.ok("list").out
    assert " crashed " in rows
    assert WORDS in rows
    for words in (["stop"], ["kill"], ["ssh", "true"], ["cmd", "info status"], ["console"], ["pause"]):
        refused = vm.qvm(*words)
        assert refused.status == 3, str(refused)
        assert "it is crashed: " in refused.err
        assert "hint: `qvm start` starts it again" in refused.err
    vm.ok("start", "--no-wait")
    assert vm.qvm("status", "-s").out.startswith("demo: running")


def test_start_qemu_that_crashes_meanwhile_is_reported(blank: Blank) -> None:
    vm = talking(blank)
    start = vm.world.popen("start", cwd=vm.directory)
    wait_until(lambda: holds(vm, "wait.lock"))
    crash(vm, signal.SIGABRT)
    _, said = start.communicate(timeout=DEADLINE_S)
    assert start.returncode == 1
    assert f"qvm: demo: QEMU crashed while the guest was starting (SIGABRT)\n  {WORDS}\nhint: " in said
    require_told(vm)


def test_start_qemu_that_crashes_at_once_is_reported(blank: Blank) -> None:
    vm = talking(blank)
    program = vm.directory / "qemu-that-talks"
    sound = program.read_text()
    program.write_text(sound.replace("exec qemu", "kill -SEGV $$\nexec qemu"))
    refused = vm.qvm("start")
    assert refused.status == 1
    assert f"qvm: demo: QEMU exited immediately (SIGSEGV)\n  {WORDS}\n" in refused.err
    program.write_text(sound)
    require_told(vm)


def test_stop_qemu_that_crashes_meanwhile_is_a_failure(blank: Blank) -> None:
    vm = talking(blank)
    vm.ok("start", "--no-wait")
    stop = vm.world.popen("--json", "stop", cwd=vm.directory)
    wait_until(lambda: is_connected(vm, "qga"))
    crash(vm, signal.SIGSEGV)
    out, said = stop.communicate(timeout=DEADLINE_S)
    assert stop.returncode == 1
    assert f"qvm: demo: QEMU crashed while the guest was powering off\n  {WORDS}\n" in said
    assert json.loads(out)["error"]["details"] == [WORDS]
    require_told(vm)


def test_verb_qemu_that_crashes_meanwhile_is_reported(blank: Blank) -> None:
    vm = talking(blank)
    for verb in ("suspend", "reboot"):
        vm.ok("start", "--no-wait")
        child = vm.world.popen(verb, cwd=vm.directory)
        wait_until(lambda: holds(vm, "work.lock"))
        crash(vm, signal.SIGABRT)
        _, said = child.communicate(timeout=DEADLINE_S)
        assert child.returncode in (1, 3), said
        assert "crashed" in said, verb
        assert WORDS in said, verb
        assert "runs on" not in said, verb
        require_told(vm)
    vm.ok("start", "--no-wait")


def test_cmd_qemu_that_crashes_meanwhile_is_reported(blank: Blank, tmp_path: Path) -> None:
    """QEMU opens a pipe without a reader: it does not answer until it crashes."""
    vm = talking(blank)
    vm.ok("start", "--no-wait")
    os.mkfifo(tmp_path / "never")
    child = vm.world.popen("cmd", f"screendump {tmp_path}/never", cwd=vm.directory)
    wait_until(lambda: hangs(vm))
    crash(vm, signal.SIGABRT)
    _, said = child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 1
    assert f"QEMU crashed; its last output: {WORDS}" in said
    require_told(vm)
    vm.ok("start", "--no-wait")


def test_run_qemu_that_crashes_is_reported_with_its_status(blank: Blank) -> None:
    vm = talking(blank)
    run = vm.world.popen("run", cwd=vm.directory)
    wait_until(lambda: "running" in vm.qvm("status", "-s").out)
    crash(vm, signal.SIGABRT)
    _, said = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 128 + signal.SIGABRT
    assert WORDS in said
    assert "qvm: demo: QEMU crashed while it ran (SIGABRT)\n" in said
    require_told(vm)


def test_console_qemu_that_crashes_is_reported(blank: Blank) -> None:
    vm = talking(blank)
    vm.ok("start", "--no-wait")
    console = PtyTerminal(vm, "console")
    console.until("connected to the console of demo")
    crash(vm, signal.SIGABRT)
    console.until(r"\[demo: QEMU crashed; its last output: ")
    console.end()
    require_told(vm)


def test_kill_and_poweroff_are_not_a_crash(blank: Blank) -> None:
    vm = talking(blank)
    vm.ok("start", "--no-wait")
    os.kill(vm.pid, signal.SIGSTOP)
    assert "killed by SIG" in vm.ok("kill").out
    assert vm.qvm("status").out == "demo: stopped\n"
    vm.ok("start", "--no-wait")
    assert subprocess.run([QVM, "cmd", "quit"], cwd=vm.directory, env=vm.world.environ).returncode == 0
    wait_until(lambda: vm.qvm("status").out == "demo: stopped\n")
