"""VM_PRE_START and VM_POST_STOP: when they run, with what, and what their failure means (real QEMU)."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path

from tests.support.world import DEADLINE_S, Blank, Vm, wait_until

HOOK = """\
#!/bin/sh
echo "$*|$PWD|$VM_MACHINE_ID|$VM_MACHINE_MEM|$OWN" >> calls
"""


def with_hooks(vm: Vm, pre: str = "", post: str = "") -> Path:
    """Give the machine both programs, which log their calls; return that log."""
    for name, more in (("pre", pre), ("post", post)):
        path = vm.directory / name
        path.write_text(HOOK + more + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    vm.set(VM_PRE_START='./pre "a b" c', VM_POST_STOP="./post x", OWN="own value")
    return vm.directory / "calls"


def calls(vm: Vm) -> list[str]:
    path = vm.directory / "calls"
    return [line.partition("|")[0] for line in path.read_text().splitlines()] if path.exists() else []


PRE, POST = "a b c demo", "x demo"


def test_hooks_run_around_start_and_kill_with_the_environment(blank: Blank) -> None:
    vm = blank()
    notes = with_hooks(vm)
    vm.ok("start", "--no-wait")
    assert notes.read_text() == f"{PRE}|{vm.directory}|33|64|own value\n"
    vm.ok("kill")
    assert calls(vm) == [PRE, POST]


def test_hooks_run_around_stop_and_run(blank: Blank) -> None:
    vm = blank()
    with_hooks(vm)
    vm.ok("start", "--no-wait")
    vm.ok("stop", "--force", "--timeout", "0")
    assert calls(vm) == [PRE, POST]
    running = vm.world.popen("run", cwd=vm.directory)
    while vm.qvm("status", "-s").status:
        assert running.poll() is None
    vm.ok("cmd", "quit")
    running.communicate()
    assert calls(vm) == [PRE, POST] * 2


def test_pre_start_that_fails_ends_the_start_with_its_message(blank: Blank) -> None:
    vm = blank()
    with_hooks(vm, pre="echo first >&2; echo the bridge is gone; exit 7")
    result = vm.qvm("start", "--no-wait")
    assert result.status == 1
    assert "qvm: demo: VM_PRE_START failed (exit status 7); nothing was started" in result.err
    assert "  first\n  the bridge is gone\n" in result.err
    assert calls(vm) == [PRE]
    assert vm.qvm("status").out == "demo: stopped\n"
    assert not (vm.directory / ".qvm/running").exists()
    assert vm.qvm("run").status == 1


def test_pre_start_that_does_not_exist_is_reported(blank: Blank) -> None:
    vm = blank(VM_PRE_START="./nothing")
    result = vm.qvm("start", "--no-wait")
    assert result.status == 1
    assert "VM_PRE_START: there is no program ./nothing; nothing was started" in result.err
    vm.set(VM_PRE_START="no-such-program-xyz")
    assert "no-such-program-xyz is not installed" in vm.qvm("start", "--no-wait").err


def test_post_stop_that_fails_is_a_warning(blank: Blank) -> None:
    vm = blank()
    with_hooks(vm, post="echo oh no; exit 3")
    vm.ok("start", "--no-wait")
    result = vm.ok("kill")
    assert "demo: VM_POST_STOP failed (exit status 3)" in result.err
    assert "oh no" in (vm.directory / ".qvm/log/post-stop.log").read_text()
    vm.set(VM_POST_STOP="./nothing")
    vm.ok("start", "--no-wait")
    assert "VM_POST_STOP failed (there is no program ./nothing)" in vm.ok("kill").err


def test_post_stop_runs_once_after_a_start_that_failed(blank: Blank) -> None:
    vm = blank()
    with_hooks(vm)
    assert vm.qvm("--set", "VM_QEMU_EXTRA=-device nothing", "start").status == 1
    assert calls(vm) == [PRE, POST]
    for image in vm.directory.glob("demo-backing*"):
        image.rename(image.with_name("away"))
    assert vm.qvm("start").status == 1
    assert calls(vm) == [PRE, POST] * 2


def test_post_stop_of_a_crash_runs_before_the_next_start(blank: Blank) -> None:
    vm = blank()
    with_hooks(vm)
    vm.ok("start", "--no-wait")
    os.kill(vm.pid, signal.SIGKILL)
    while "crashed" not in vm.qvm("status").out:
        pass
    assert calls(vm) == [PRE]  # asking changes nothing
    vm.ok("start", "--no-wait")
    assert calls(vm) == [PRE, POST, PRE]


def test_post_stop_is_not_run_for_a_refused_start_or_a_copy(blank: Blank) -> None:
    vm = blank()
    with_hooks(vm)
    vm.ok("start", "--no-wait")
    assert vm.qvm("start").status == 3
    assert calls(vm) == [PRE]


def test_pre_start_interrupted_is_ended_with_its_children(blank: Blank) -> None:
    vm = blank()
    with_hooks(vm, pre="sleep 1000 & echo waiting; wait")
    starting = vm.world.popen("start", cwd=vm.directory)
    log = vm.directory / ".qvm/log/pre-start.log"
    while not log.exists() or "waiting" not in log.read_text():
        assert starting.poll() is None
    assert "starting" in vm.qvm("status").out
    starting.send_signal(signal.SIGINT)
    starting.communicate(timeout=DEADLINE_S)
    assert starting.returncode == 130
    wait_until(lambda: not [line for line in vm.world.processes().values() if "sleep" in line])
    assert vm.qvm("status").out == "demo: stopped\n"


def test_hook_that_leaves_a_child_behind_does_not_hold_the_start(blank: Blank) -> None:
    vm = blank()
    with_hooks(vm, pre="sleep 1000 & echo $! > child", post="kill $(cat child)")
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    assert calls(vm) == [PRE, POST]


INTERRUPTED = """
import os, signal, subprocess, sys

begin = subprocess.Popen._execute_child


def interrupted(self, *words):
    begin(self, *words)
    if "sleep 600" in str(self.args):
        os.kill(os.getpid(), signal.SIGINT)


subprocess.Popen._execute_child = interrupted
sys.argv = ["qvm", *sys.argv[1:]]
from qvmsh.__main__ import main

sys.exit(main())
"""


def test_interrupt_before_qvm_knows_its_program_ends_it(blank: Blank) -> None:
    """On a busy host the program is at work before `Popen` returns."""
    vm = blank(VM_PRE_START='sh -c "echo > begun; sleep 600"')
    result = vm.qvm("-c", INTERRUPTED, "start", program=sys.executable)
    assert result.status == 130, result
    wait_until(lambda: not vm.world.pids("sleep 600"))
    assert vm.qvm("status").out == "demo: stopped\n"
