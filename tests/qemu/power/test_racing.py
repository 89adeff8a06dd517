"""Many commands at once on one machine: one QEMU at most, no traceback, and whole disks afterwards."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.world import Blank, Result, Vm

WORDS = [
    "start --no-wait", "start --no-wait", "start --no-wait --disposable", "stop --force", "kill", "kill",
    "status", "list", "pause", "resume", "snapshot save a --replace", "snapshot save b --replace",
    "snapshot restore a", "snapshot delete b", "snapshot list", "snapshot verify", "disk trim", "disk check",
    "disk commit", "archive", "archive --list", "doctor --fix", "config VM_LABELS=x", "logs",
    "restart --no-wait", "stop --savevm s", "start --no-wait --loadvm s", "cmd info status",
    "qmp query-status",
]  # fmt: skip


def require_working(results: list[Result], vm: Vm) -> None:
    for result in results:
        assert result.status in (0, 1, 2, 3, 124), str(result)
        assert "Traceback" not in result.err + result.out, str(result)
    running = [line for line in vm.world.processes().values() if "qemu-system" in line.split(" ")[0]]
    assert len(running) <= 1, running
    vm.kill()
    vm.ok("doctor", "--fix")
    assert vm.qvm("disk", "check").status == 0
    assert vm.qvm("status").out == "demo: stopped\n"
    vm.ok("start", "--no-wait")
    vm.ok("kill")


def race(vm: Vm, count: int, seed: int) -> list[Result]:
    """`count` drawn operations by four processes at a time."""
    rest = random.Random(seed)
    words = [rest.choice(WORDS) for _ in range(count)]
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda each: vm.qvm(*each.split()), words))


def test_operations_that_race_leave_a_machine_that_is_whole(blank: Blank) -> None:
    vm = blank(VM_NET_MODEL="none", VM_GUEST_AGENT="no", VM_SHUTDOWN_TIMEOUT="1")
    require_working(race(vm, 40, 1), vm)


@pytest.mark.long
def test_operations_that_race_leave_a_machine_that_is_whole_long(blank: Blank) -> None:
    vm = blank(VM_NET_MODEL="none", VM_GUEST_AGENT="no", VM_SHUTDOWN_TIMEOUT="1")
    require_working(race(vm, 200, 2), vm)


def start_all(vm: Vm, count: int) -> None:
    children = [vm.world.popen("start", "--no-wait", cwd=vm.directory) for _ in range(count)]
    results = []
    for child in children:
        out, err = child.communicate(timeout=280)
        results.append(Result(["start"], child.returncode, out, err))
    assert [each.status for each in results].count(0) == 1, [str(each) for each in results]
    assert {each.status for each in results} <= {0, 3}
    for each in results:  # each names the program that has it
        assert not each.status or "qvm: demo: cannot start: " in each.err, str(each)
        assert not each.status or "pid " in each.err.splitlines()[0], str(each)
    require_working(results, vm)


def test_starts_at_once_make_one_qemu(blank: Blank) -> None:
    start_all(blank(VM_NET_MODEL="none", VM_GUEST_AGENT="no"), 12)


@pytest.mark.long
def test_hundred_starts_at_once_make_one_qemu_long(blank: Blank) -> None:
    start_all(blank(VM_NET_MODEL="none", VM_GUEST_AGENT="no"), 100)
