"""archive --delete: one state, or an archive; never what is needed, and never the last good one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.archives import damage, make_archive, require_nothing_left, state_name, state_names
from tests.support.counting import NO_WAITING
from tests.support.disks import read_byte, write_byte, write_live
from tests.support.world import Blank, Result, Vm, World, copy_of, create_blank

KILLED = """
import os, signal, sys
from qvmsh.machine.archive import stores

counted, last = 0, int(sys.argv[1])
for name in ("put_text", "remove", "remove_folder", "rename"):
    def step(self, *words, original=getattr(stores.Folder, name)):
        global counted
        counted += 1
        if counted == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *words)
    setattr(stores.Folder, name, step)
from qvmsh.__main__ import main

sys.argv = ["qvm", "archive", "--delete", sys.argv[2]]
main()
"""  # killed before a step in the store


def delete(vm: Vm, name: str) -> list[str]:
    return list(json.loads(vm.ok("--json", "archive", "--delete", name).out)["removed"])


def refused(vm: Vm, name: str, status: int) -> Result:
    before = state_names(vm)
    result = vm.qvm("archive", "--delete", name)
    assert result.status == status, str(result)
    assert "Traceback" not in result.err
    assert "hint: " in result.err
    assert state_names(vm) == before
    return result


@pytest.fixture(scope="module")
def archived(module_world: World) -> Path:
    made = create_blank(module_world, **NO_WAITING)
    os.utime(made.directory / "demo-base.qcow2", ns=(10**18, 10**18))  # no later archive has its name
    for at in range(3):
        write_byte(made, at + 1, "0")
        make_archive(made)
    return made.directory


@pytest.fixture
def vm(world: World, archived: Path) -> Vm:
    """Off, with three whole states in one folder."""
    return copy_of(world, archived)


def test_one_state_goes_and_the_others_come_back(vm: Vm) -> None:
    first, second, third = state_names(vm)
    folder, _, stamp = second.partition("/")
    assert vm.ok("archive", "--delete", second).out == f"demo: removed {second}\n"
    assert state_names(vm) == [first, third]
    assert not [path for path in (vm.directory / folder).iterdir() if stamp in path.name]
    assert delete(vm, first) == [first]  # its base is the others' too
    vm.ok("archive", "--verify", third)
    vm.ok("restore", "--force", third)
    assert read_byte(vm, "0") == 3
    assert f"removed {second}" in vm.ok("logs", "qvm").out
    require_nothing_left(vm)


def test_last_good_state_stays(vm: Vm) -> None:
    every = state_names(vm)
    folder = every[0].partition("/")[0]
    assert f"cannot remove {folder}: it has the last good state" in refused(vm, folder, 3).err
    for name in every[1:]:
        damage(vm.directory / folder / f"demo-backing-{name.partition('/')[2]}.qcow2")
    output = refused(vm, every[0], 3)
    assert "it is the last good state" in output.err
    assert output.err.count("its checksum differs") == 2
    assert delete(vm, every[2]) == [every[2]]  # a damaged one may go
    vm.ok("restore", "--force", every[0])
    assert read_byte(vm, "0") == 1


def test_archive_goes_as_a_whole_where_there_is_another(vm: Vm) -> None:
    every = state_names(vm)
    write_byte(vm, 9, "0")
    last = state_name(make_archive(vm, "--create"))
    folder = every[0].partition("/")[0]
    assert last.partition("/")[0] != folder
    assert delete(vm, f"./{folder}/") == every  # as completion writes it
    assert not (vm.directory / folder).exists()
    assert state_names(vm) == [last]
    vm.ok("archive", "--verify")
    require_nothing_left(vm)


def test_delete_of_a_state_with_changes_waits_for_them(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    made = []
    for value in range(1, 4):
        write_live(vm, f"-P {value} {value}M 64k")
        made.append(state_name(make_archive(vm)))
    output = refused(vm, made[0], 3)
    assert f"{made[1]}, {made[2]} hold only the changes since" in output.err
    assert f"`qvm archive --delete {made[2]}` first" in output.err
    assert delete(vm, made[2]) == [made[2]]  # QEMU notes what has changed since this one
    write_live(vm, "-P 4 4M 64k")
    later = make_archive(vm)
    assert not later["incremental"]
    assert "copied whole" in " ".join(later["notes"])
    vm.ok("kill")
    vm.ok("restore", "--force", made[1])
    assert [read_byte(vm, f"{value}M") for value in range(1, 5)] == [1, 2, 0, 0]
    vm.ok("restore", "--force", state_name(later))
    assert [read_byte(vm, f"{value}M") for value in range(1, 5)] == [1, 2, 3, 4]


def test_delete_of_a_state_in_use_keeps_it(vm: Vm) -> None:
    first = state_names(vm)[0]
    shutil.copy(vm.directory / ".vmrc", vm.directory / first.partition("/")[0])
    assert "it contains .vmrc, which is not part of the archive" in refused(vm, first, 3).err


def test_delete_takes_only_full_names_of_this_machines_states(blank: Blank) -> None:
    vm = blank(VM_ARCHIVE="../store")
    other = blank(where="second/demo", VM_ARCHIVE="../../store")
    for each in (vm, other):
        write_byte(each, 1, "0")
        each.ok("archive", "--create")
    own, foreign = state_names(vm)
    store = vm.world.home / "store"
    old = store / "demo-20200101000000"
    old.mkdir()
    shutil.copy(vm.directory / "demo-base.qcow2", old)
    shutil.copy(vm.directory / "demo-backing.qcow2", old)
    assert "it is of another machine of this name" in refused(vm, foreign, 2).err
    assert "it is not made by qvm" in refused(vm, old.name, 2).err
    for word in ("latest", own[:-3], own.partition("/")[0] + "/2", "none", "../store", "", "."):
        output = vm.qvm("archive", "--delete", word)
        assert output.status == 2, str(output)
        assert "is not an archived state" in output.err, word
        assert own in output.err, word
    nameless = vm.qvm("archive", "--delete")
    assert nameless.status == 2
    assert "--delete needs a state" in nameless.err
    for words in (("--verify",), ("--list",), ("--keep", "1"), ("--create",), ("--compress", "gzip")):
        assert vm.qvm("archive", "--delete", own, *words).status == 2, words
    assert len(state_names(vm)) == 3


def killed(vm: Vm, step: int, name: str) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(step), name], cwd=vm.directory, env=vm.world.environ,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode == -signal.SIGKILL


def test_delete_killed_at_any_step_is_completed(world: World, archived: Path) -> None:
    steps, was_killed = 0, True
    while was_killed:
        steps += 1
        vm = copy_of(world, archived)
        old, *others = state_names(vm)
        was_killed = killed(vm, steps, old)
        write_byte(vm, 9, "0")
        last = state_name(make_archive(vm))
        assert set(state_names(vm)) - {old} == {*others, last}
        folder = vm.directory / old.partition("/")[0]
        named = json.loads((folder / "manifest.json").read_text())
        rows = [part for point in named["points"] for part in point["parts"]]
        rows += [part for parts in named["layers"].values() for part in parts]
        assert {path.name for path in folder.iterdir()} == {part["name"] for part in rows} | {"manifest.json"}
        vm.ok("archive", "--verify", others[-1])
        shutil.rmtree(vm.directory)
    assert steps > 3
