"""One command for several machines: order, limits, and the exit status of all of them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.programs import write_script
from tests.support.world import DEADLINE_S, Blank, Vm, World, wait_until


def log(vm: Vm) -> Path:
    return vm.directory / ".qvm/log/pre-start.log"


def waiting(vm: Vm) -> bool:
    return log(vm).exists() and "waiting" in log(vm).read_text()


@pytest.mark.parametrize("most", ["1", "2"])
def test_ctrl_c_ends_what_runs_and_begins_no_more(blank: Blank, world: World, most: str) -> None:
    machines = [blank(f"web{n}") for n in range(3)]
    for vm in machines:
        write_script(vm.directory, "pre", "#!/bin/sh\necho waiting\nsleep 1000\n")
        vm.set(VM_PRE_START="./pre")
    child = world.popen("start", "--parallel", most, "web0", "web1", "web2", start_new_session=True)
    wait_until(lambda: len([vm for vm in machines if waiting(vm)]) == int(most))
    os.killpg(child.pid, signal.SIGINT)
    child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 130
    assert len([vm for vm in machines if log(vm).exists()]) == int(most)
    assert {vm.qvm("status", "-s").out for vm in machines} == {f"web{n}: stopped\n" for n in range(3)}


def test_worst_status_is_that_of_all(blank: Blank, world: World, tmp_path: Path) -> None:
    good, broken, on = blank("good"), blank("broken"), blank("on")
    broken.set(VM_MACHINE_MEM="lots")
    on.ok("start", "--no-wait")
    result = world.run("--json", "start", "--no-wait", "on", "broken", "good")
    assert result.status == 3
    rows = {row.get("machine") or row["error"]["machine"]: row for row in json.loads(result.out)["machines"]}
    assert rows["on"]["error"]["status"] == 3
    assert rows["broken"]["error"]["status"] == 2
    assert rows["good"]["pid"] == good.pid
    good.kill()
    on.kill()
    way = tmp_path / "way"
    way.symlink_to(good.directory)
    result = world.run("start", "--no-wait", "good", way, "good")  # one machine, so one start
    assert (result.status, result.out.count("good: ")) == (0, 1), result
    good.kill()


def test_required_machine_that_fails_stops_those_behind_it(blank: Blank, world: World) -> None:
    db, web, other = blank("db", VM_PRE_START="false"), blank("web", VM_REQUIRES="db"), blank("other")
    result = world.run("start", "--no-wait", "web", "other", "db")
    assert result.status != 0
    assert "web: cannot start: db, which is required (VM_REQUIRES), failed" in result.err
    states = [vm.qvm("status", "-s").out.split()[1] for vm in (db, web, other)]
    assert states == ["stopped", "stopped", "running"]
    db.set(VM_PRE_START="")
    assert world.run("start", "--no-wait", "web", "db").status == 0
    result = world.run("stop", "--timeout", "1", "--force", "--all")
    assert world.run("list", "--state", "running").out == "", result
