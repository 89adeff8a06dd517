"""`kill -9` of qvm at random points of each verb: the next command sees the truth and works.

Those that need a guest that answers are in tests/guest/power/test_killed.py.

The seed is printed; QVM_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.support.killer import kill_after
from tests.support.world import DEADLINE_S, Blank, Vm

SEED = int(os.environ.get("QVM_TEST_SEED", "20261120"))
USUAL, LONG = 2, 20


def points(label: str, count: int, most_s: float) -> list[float]:
    """Seconds after which qvm is killed, drawn from the seed."""
    chooser = random.Random(f"{SEED} {label}")
    return [chooser.uniform(0.0, most_s) for _ in range(count)]


def final_state(vm: Vm) -> str:
    """The state once it is no longer `starting`: running or stopped, never anything else."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        output = vm.qvm("status", "-s").out
        assert "broken" not in output, output
        assert "crashed" not in output, output
        if "starting" not in output:
            return "running" if "running" in output else "stopped" if "stopped" in output else output
    raise AssertionError("still starting after a minute")


def check_start(vm: Vm, seconds: float) -> None:
    print(f"seed {SEED}: start killed after {seconds:.3f} s")
    kill_after(vm, seconds, "start", "--no-wait")
    state = final_state(vm)
    if state == "stopped":
        vm.ok("start", "--no-wait")
    else:
        assert state == "running"
        assert vm.qvm("start", "--no-wait").status == 3
    vm.ok("cmd", "info", "status")
    assert len([line for line in vm.world.processes().values() if "qemu-system" in line]) == 1
    vm.ok("kill")
    assert vm.qvm("status").out == "demo: stopped\n"


def check_stop(vm: Vm, seconds: float) -> None:
    print(f"seed {SEED}: stop killed after {seconds:.3f} s")
    vm.ok("start", "--no-wait")
    kill_after(vm, seconds, "stop", "--timeout", "1", "--force")
    if final_state(vm) == "running":
        vm.ok("stop", "--timeout", "1", "--force")
    assert final_state(vm) == "stopped"


def test_start_killed_next_command_works(blank: Blank) -> None:
    vm = blank()
    for seconds in points("start", USUAL, 0.5):
        check_start(vm, seconds)


@pytest.mark.long
@pytest.mark.parametrize("seconds", points("start, long", LONG, 0.5))
def test_start_killed_next_command_works_long(blank: Blank, seconds: float) -> None:
    check_start(blank(), seconds)


def test_stop_killed_next_command_works(blank: Blank) -> None:
    vm = blank()
    for seconds in points("stop", USUAL, 3.0):
        check_stop(vm, seconds)


@pytest.mark.long
@pytest.mark.parametrize("seconds", points("stop, long", LONG, 3.0))
def test_stop_killed_next_command_works_long(blank: Blank, seconds: float) -> None:
    check_stop(blank(), seconds)


def check_init(vm: Vm, seconds: float) -> None:
    print(f"seed {SEED}: init killed after {seconds:.3f} s")
    kill_after(vm, seconds, "init", "-k", "-b")
    result = vm.qvm("init")
    assert result.status in (0, 1), str(result)  # made what was missing, or all was there
    assert not list(vm.directory.glob("*.part")) or vm.qvm("init", "-k").status == 0
    vm.ok("start", "--no-wait")
    vm.ok("kill")


def test_init_killed_leaves_old_or_new_images(blank: Blank) -> None:
    vm = blank()
    for seconds in points("init", USUAL, 0.3):
        check_init(vm, seconds)


@pytest.mark.long
@pytest.mark.parametrize("seconds", points("init, long", LONG, 0.3))
def test_init_killed_leaves_old_or_new_images_long(blank: Blank, seconds: float) -> None:
    check_init(blank(), seconds)


def check_running_verbs(vm: Vm, count: int) -> None:
    """pause, resume, reboot --force and restart, one after the other on one machine."""
    vm.ok("start", "--no-wait")
    for verb, most_s, words in (
        ("pause", 0.2, ["pause"]),
        ("resume", 0.2, ["resume"]),
        ("reboot", 0.5, ["--set", "VM_SSH_ATTEMPTS=1", "reboot", "--force", "--timeout", "1"]),
        ("restart", 2.5, ["restart", "--no-wait", "--force", "--timeout", "1"]),
    ):
        for seconds in points(f"{verb} {count}", count, most_s):
            print(f"seed {SEED}: {verb} killed after {seconds:.3f} s")
            if verb == "resume":
                vm.ok("pause")
            kill_after(vm, seconds, *words)
            state = final_state(vm)
            if state.startswith("demo: paused"):
                vm.ok("resume")
            elif state == "stopped":
                assert verb == "restart"
                vm.ok("start", "--no-wait")
            assert final_state(vm) == "running"
            assert len([line for line in vm.world.processes().values() if "qemu-system" in line]) == 1
    vm.ok("kill")
    assert vm.qvm("status").out == "demo: stopped\n"


def test_running_verbs_killed_next_command_works(blank: Blank) -> None:
    check_running_verbs(blank(), USUAL)


@pytest.mark.long
def test_running_verbs_killed_next_command_works_long(blank: Blank) -> None:
    check_running_verbs(blank(), LONG)


def check_edit(vm: Vm, count: int) -> None:
    """`config edit` and `config NAME=value`: the file holds the old or the new text."""
    path = vm.directory / ".vmrc"
    editor = vm.world.home / "editor"
    editor.write_text('#!/bin/sh\nprintf "# edited\\n" >> $1\n')
    editor.chmod(0o755)
    vm.world.runtime.joinpath("tmp").mkdir()
    environ = vm.world.environ | {"VISUAL": str(editor), "TMPDIR": str(vm.world.runtime / "tmp")}
    for seconds in points(f"edit {count}", count, 0.3):
        for words in (["config", "edit"], ["config", "VM_QEMU_CPU=max"]):
            print(f"seed {SEED}: {' '.join(words)} killed after {seconds:.3f} s")
            before = path.read_bytes()
            kill_after(vm, seconds, *words, env=environ)
            after = path.read_bytes()
            new = before + (b"# edited\n" if words[1] == "edit" else b"VM_QEMU_CPU=max\n")
            assert after in (before, new) or b"VM_QEMU_CPU=max" in before
            vm.ok("config", "--check")
    vm.ok("config", "VM_QEMU_CPU=qemu64")
    vm.qvm("doctor", "--fix")
    left = [name for name in os.listdir(vm.directory) if ".part" in name]
    assert not left


def test_config_edit_killed_leaves_the_old_or_the_new_file(blank: Blank) -> None:
    check_edit(blank(has_images=False), USUAL)


@pytest.mark.long
def test_config_edit_killed_leaves_the_old_or_the_new_file_long(blank: Blank) -> None:
    check_edit(blank(has_images=False), LONG)


def test_start_killed_while_it_loads_a_state_keeps_the_state(blank: Blank) -> None:
    """The moment that chance would not find: QEMU is up, its memory is not."""
    vm = blank()
    vm.ok("start", "--no-wait")
    output = vm.ok("stop", "--savevm", "ready now", "--no-suspend").out
    assert output.endswith("; `qvm start --loadvm 'ready now'` resumes it\n")
    vm.ok("start", "--no-wait", "--loadvm", "ready now")
    note = vm.directory / ".qvm/running"
    assert "loading \n" in note.read_text()
    vm.ok("cmd", "stop")
    note.write_text(note.read_text().replace("loading \n", "loading ready now\n"))
    output = vm.qvm("status", "-s").out
    assert "demo: broken" in output
    assert "that was loading the state ready now was interrupted; do not resume the guest" in output
    assert "hint: `qvm stop` ends QEMU, then `qvm start --loadvm 'ready now'`" in output
    for words in (["resume"], ["reboot", "--force"], ["stop", "--savevm", "x"], ["start"], ["suspend"]):
        assert vm.qvm(*words).status == 3, words
    assert "powered off by quit" in vm.ok("stop").out
    vm.ok("start", "--no-wait", "--loadvm", "ready now")
    assert vm.qvm("status", "-s").out.startswith("demo: running")
