"""`kill -9` of qvm at random points of the verbs that a guest takes part in; and the guest comes back.

The seed is printed; QVM_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import subprocess
import time

import pytest

from tests.support.killer import ROUNDS, kill_after
from tests.support.world import DEADLINE_S, Vm

pytestmark = [pytest.mark.guest]

SEED = int(os.environ.get("QVM_TEST_SEED", "20261121"))
USUAL = 1
MOST_S = {"savevm": 2.5, "loadvm": 2.0, "suspend": 1.2, "wakeup": 1.0, "reboot": 2.0, "restart": 4.0}
"""What each verb takes here when nothing else runs, and somewhat more."""

WORDS = {
    "savevm": ["stop", "--savevm", "ready"],
    "loadvm": ["start", "--loadvm", "ready"],
}


def answers(vm: Vm, command: str) -> str | None:
    """What the guest says; None where it does not (it may have gone to sleep under the question)."""
    try:
        result = vm.qvm("ssh", command, timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        return None
    return result.out if result.status == 0 else None


def recover(vm: Vm, seen: list[str]) -> None:
    """Bring the guest back with what `status` leads to; every state on the way is one that it names."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        output = vm.qvm("status", "-s").out
        state = output.removeprefix("demo: ").partition(" (")[0].partition(":")[0].strip()
        seen.append(state)
        assert state != "crashed", output
        if state == "running":
            # a suspend or a reboot that was asked for just before may still come
            if answers(vm, "true") is not None and vm.qvm("status").status == 0:
                return
            time.sleep(0.3)
        elif state == "paused":
            vm.qvm("resume")
        elif state == "suspended":
            vm.qvm("wakeup")
        elif state == "broken":
            assert "hint: `qvm stop` ends QEMU, then `qvm start --loadvm ready`" in output
            vm.ok("stop")
        elif state == "stopped":
            has_state = vm.qvm("start", "--loadvm", "ready")
            assert has_state.status == 0 or "there is no snapshot ready" in has_state.err, str(has_state)
            if has_state.status:
                vm.ok("start")
    raise AssertionError(f"the guest did not come back: {seen}")


def check(vm: Vm, verb: str, count: int) -> None:
    """Kill the verb so many times; the guest comes back each time, with all that it has written."""
    vm.ok("ssh", "rm -f turns")
    vm.qvm("snapshot", "delete", "ready")  # of another verb: `recover` would load it
    chooser = random.Random(f"{SEED} {verb} {count}")
    for turn in range(count):
        seconds = chooser.uniform(0.0, MOST_S[verb])
        print(f"seed {SEED}: {verb} killed after {seconds:.3f} s")
        vm.ok("ssh", f"echo {turn} >> turns; sync")
        if verb == "loadvm":
            vm.ok("stop", "--savevm", "ready")
        elif verb == "wakeup":
            vm.ok("suspend")
        kill_after(vm, seconds, *WORDS.get(verb, [verb]))
        seen: list[str] = []
        for _ in range(3):  # what was asked of the guest before the kill may come only now
            recover(vm, seen)
            time.sleep(3)
            turns = answers(vm, "cat turns")
            if turns is not None and vm.qvm("status").status == 0:
                break
        print(f"  then it was {', '.join(dict.fromkeys(seen))}")
        assert turns is not None, f"{verb}: the guest did not stay: {seen}"
        assert turns.split() == [str(each) for each in range(turn + 1)], verb
        assert len([line for line in vm.world.processes().values() if "qemu-system" in line]) == 1, verb


def stop_and_check_disk(vm: Vm) -> None:
    vm.ok("stop")
    sound = subprocess.run(["qemu-img", "check", "demo-backing.qcow2"], cwd=vm.directory, capture_output=True)
    assert sound.returncode in (0, 3), sound  # 3: clusters that nothing uses; harmless


def test_verbs_killed_leave_a_machine_in_a_known_state(loaded: Vm) -> None:
    for verb in MOST_S:
        check(loaded, verb, USUAL)
    stop_and_check_disk(loaded)


@pytest.mark.long
@pytest.mark.parametrize("verb", MOST_S)
def test_verb_killed_leaves_a_machine_in_a_known_state_long(loaded: Vm, verb: str) -> None:
    check(loaded, verb, ROUNDS)
    stop_and_check_disk(loaded)
