"""Work on a running machine's disks, killed before each of its steps: the guest runs, nothing is lost.

A step is a command to QEMU, a journal on the disk, or a file removed. The guest counts on two disks at once
(support/guests/counter.py), so each printed number must be there, and both disks must be of one moment.
The usual run takes one step of some ways, drawn at random (the seed is printed, QVM_TEST_SEED repeats);
`--all` takes all.
"""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from tests.support.archives import make_archive, require_nothing_left, state_name
from tests.support.counting import (
    SEED,
    WAYS,
    clear,
    every_step,
    last_number,
    require_all,
    require_order,
    run_to_step,
    some_steps,
    wait_for_more,
    wait_until_off,
)
from tests.support.disks import check_images
from tests.support.world import Vm


def check_step(vm: Vm, words: tuple[str, ...], step: int, *, is_qemu_too: bool) -> None:
    clear(vm, words)
    status, _, said = run_to_step(vm, step, *words)
    if status != -signal.SIGKILL:
        assert status == 0, said  # it took fewer steps this time
        wait_for_more(vm)
        return
    assert "Traceback" not in said
    if is_qemu_too:
        os.kill(vm.pid, signal.SIGKILL)
        wait_until_off(vm)
        least = last_number(vm)
        vm.ok("doctor", "--fix")
        require_all(vm.directory, "demo", least)
        vm.ok("start", "--no-wait")
        wait_for_more(vm)
    else:
        wait_for_more(vm)  # without any other command
        vm.ok("pause")
        vm.ok("resume")
        wait_for_more(vm)
    require_order(vm)
    before = last_number(vm)
    report = make_archive(vm)
    vm.ok("restore", state_name(report), "../twin")
    require_all(vm.world.home / "twin", "twin", before)
    shutil.rmtree(vm.world.home / "twin")
    require_nothing_left(vm)


def check(vm: Vm, steps: list[tuple[tuple[str, ...], int, bool]]) -> None:
    for words, step, is_qemu_too in steps:
        print(f"seed {SEED}: {' '.join(words)}, killed before step {step}{', QEMU too' * is_qemu_too}")
        check_step(vm, words, step, is_qemu_too=is_qemu_too)
    vm.ok("kill")
    least = last_number(vm)
    require_all(vm.directory, "demo", least)
    check_images(vm)


def test_archive_killed_before_a_step_loses_nothing(counting: Vm) -> None:
    check(counting, some_steps(counting, 3, "steps"))


@pytest.mark.long
@pytest.mark.parametrize("words", WAYS, ids=" ".join)
def test_archive_killed_before_every_step_loses_nothing_long(counting: Vm, words: tuple[str, ...]) -> None:
    check(counting, every_step(counting, words, "steps"))
