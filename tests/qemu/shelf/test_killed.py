"""`import` and `export` that are killed: the whole result or nothing, and the next command says so."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.archives import make_archive, require_nothing_left, state_name
from tests.support.counting import NO_WAITING
from tests.support.disks import holds, read_byte, write_byte, write_live
from tests.support.killer import SEED, begin_held
from tests.support.packages import export, members_of
from tests.support.programs import qemu_img
from tests.support.small_disk import small_disk
from tests.support.world import DEADLINE_S, QVM, Blank, Vm

ROUNDS = int(os.environ.get("QVM_TEST_ROUNDS", "3"))


@pytest.fixture
def vm(blank: Blank) -> Vm:
    """Off, with 7 at 1M and a second disk with some data."""
    made = blank(**NO_WAITING, VM_DISKS="data.raw")
    write_byte(made, 7, "1M")
    with (made.directory / "data.raw").open("wb") as file:
        for _ in range(32):
            file.write(os.urandom(1 << 20))
    return made


def parts(folder: Path) -> list[Path]:
    """What is half made; of the list of machines the next change of the list removes it."""
    return [path for path in folder.rglob("*") if ".part" in path.name and "machines.part" not in path.name]


def notes(vm: Vm) -> Path:
    return vm.world.home / ".local/share/qvm/making"


def kill_at(vm: Vm, place: str, *words: str) -> None:
    """Kill qvm before its first call of a function."""
    child = begin_held(vm, place, *words)
    child.kill()
    child.communicate(timeout=DEADLINE_S)


def require_whole_or_nothing(vm: Vm, twin: Path) -> None:
    """The next command says what was interrupted; then the machine is whole, or not there."""
    result = vm.ok("disk", "check")
    assert not parts(vm.world.home), str(result)
    assert not notes(vm).exists()
    if twin.exists():
        made = Vm(vm.world, twin)
        assert read_byte(made, "1M", "twin-backing.qcow2") == 7
        assert (twin / "data.raw").read_bytes() == (vm.directory / "data.raw").read_bytes()
        made.ok("disk", "check")


PLACES = {
    "unpacking": "qvmsh.machine.shelf.unpack:_Unpacking._put_named",
    "arranging": "qvmsh.machine.shelf.layouts:arrange",
    "settling": "qvmsh.machine.shelf.images:rename",
    "syncing": "qvmsh.machine.shelf.import_:_sync",
    "renaming": "qvmsh.machine.work.creation_folder:Folder.put_in_place",
}


@pytest.mark.parametrize("place", PLACES)
def test_import_killed_at_a_step_leaves_nothing(vm: Vm, place: str) -> None:
    export(vm, "demo.tar.gz")
    kill_at(vm, PLACES[place], "import", "demo.tar.gz", "../twin")
    assert parts(vm.world.home)
    result = vm.ok("disk", "check")
    assert "the import of twin, begun at" in result.err
    assert "what it had begun was removed" in result.err
    require_whole_or_nothing(vm, vm.world.home / "twin")
    assert not (vm.world.home / "twin").exists()
    vm.ok("import", "demo.tar.gz", "../twin")
    require_whole_or_nothing(vm, vm.world.home / "twin")


def kill_at_random(vm: Vm, rounds: int) -> None:
    export(vm, "demo.tar.gz")
    chooser = random.Random(f"{SEED} import")
    took_s = 0.5
    for number in range(rounds):
        twin = vm.world.home / f"twin{number}/twin"
        twin.parent.mkdir()
        began = time.monotonic()
        child = subprocess.Popen(
            [QVM, "import", "demo.tar.gz", twin], cwd=vm.directory, env=vm.world.environ,
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while child.poll() is None and not parts(twin.parent):
            time.sleep(0.001)
        time.sleep(chooser.random() * took_s)
        is_hit = child.poll() is None
        if is_hit:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(DEADLINE_S)
        took_s = took_s * 1.2 if is_hit else (time.monotonic() - began) * 0.5
        require_whole_or_nothing(vm, twin)


def test_import_killed_at_random_is_whole_or_nothing(vm: Vm) -> None:
    kill_at_random(vm, ROUNDS)


@pytest.mark.long
def test_import_killed_often_is_whole_or_nothing(vm: Vm) -> None:
    kill_at_random(vm, 20)


def test_import_interrupted_by_ctrl_c_leaves_nothing(vm: Vm) -> None:
    export(vm, "demo.tar.gz")
    for place in PLACES.values():
        child = begin_held(vm, place, "import", "demo.tar.gz", "../twin")
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGCONT)
        assert "interrupted" in child.communicate(timeout=DEADLINE_S)[1]
        assert child.returncode == 130
        assert not parts(vm.world.home)
        assert not (vm.world.home / "twin").exists()


def test_import_on_a_full_disk_leaves_nothing(vm: Vm) -> None:
    export(vm, "demo.tar.gz")
    small = vm.world.home / "small"
    with small_disk(small, 24):
        result = vm.qvm("import", "demo.tar.gz", small / "twin")
        assert result.status == 1
        assert "not enough free space for data.raw" in result.err
        assert os.listdir(small) == []
    with small_disk(small, 49):  # enough for the data, but not for all
        (small / "taken").write_bytes(bytes(17 << 20))
        result = vm.qvm("import", "demo.tar.gz", small / "twin")
        assert result.status == 1
        assert os.listdir(small) == ["taken"]
    assert not notes(vm).exists()


def test_export_on_a_full_disk_leaves_nothing(vm: Vm) -> None:
    small = vm.world.home / "small"
    with small_disk(small, 2):
        for kind in ("tar", "tar.gz", "tar.zst"):
            result = vm.qvm("export", small / f"demo.{kind}")
            assert result.status == 1, str(result)
            assert "free some space" in result.err, str(result)
            assert os.listdir(small) == []
    assert "running" not in vm.qvm("status").out
    require_nothing_left(vm)


def test_export_killed_leaves_no_package(vm: Vm) -> None:
    for place in ("qvmsh.host.scan:slices", "qvmsh.machine.shelf.package_file:Target.finish"):
        kill_at(vm, place, "export")
        assert not (vm.directory / "demo.tar.gz").exists()
    vm.ok("export")
    assert not parts(vm.directory)
    assert "data.raw" in members_of(vm.directory / "demo.tar.gz")
    require_nothing_left(vm)


def test_export_killed_while_it_runs_joins_the_disks(vm: Vm) -> None:
    vm.ok("start", "--no-wait")
    child = begin_held(vm, "qvmsh.host.scan:slices", "export")
    write_live(vm, "-P 9 2M 64k")
    child.kill()
    child.communicate(timeout=DEADLINE_S)
    vm.ok("disk", "list")
    vm.ok("export")
    require_nothing_left(vm)
    vm.kill()
    assert holds(vm, "demo-backing.qcow2", 9, "2M")
    qemu_img(vm, "check", "demo-backing.qcow2")


def test_clone_that_is_killed_is_called_a_clone(vm: Vm) -> None:
    kill_at(vm, "qvmsh.machine.archive.writer:Writer._put_settings", "clone", "demo", "../twin")
    result = vm.world.run("-M", "demo", "disk", "check")
    assert result.status == 0, result
    assert "the clone twin, begun at" in result.err
    assert "the clone, begun" in result.err
    assert "was cleaned up: its disks are as they were" in result.err
    require_whole_or_nothing(vm, vm.world.home / "twin")
    require_nothing_left(vm)


def test_clone_without_space_names_its_directory(vm: Vm) -> None:
    small = vm.world.home / "small"
    with small_disk(small, 24):
        result = vm.qvm("clone", "demo", small / "twin")
        assert result.status == 1, result
        assert f"not enough free space in {small}/twin: it takes 33." in result.err, result
        assert os.listdir(small) == []


INTERRUPTED = {
    "export": (["export"], "qvmsh.host.scan:slices", "demo: interrupted; nothing was exported"),
    "clone": (
        ["clone", "demo", "../twin"],
        "qvmsh.machine.restore.new_machine:lay_out",
        "twin: interrupted; nothing was left behind",
    ),
    "create": (
        ["create", "../twin", "--from", "data.raw"],
        "qvmsh.machine.create.create:_write_vmrc",
        "twin: interrupted; nothing was left behind",
    ),
    "restore": (
        ["restore", "STATE", "../twin"],
        "qvmsh.machine.restore.new_machine:lay_out",
        "twin: interrupted; nothing was left behind",
    ),
}


@pytest.mark.parametrize("verb", INTERRUPTED)
def test_ctrl_c_in_long_work_says_what_is_left(vm: Vm, verb: str) -> None:
    words, place, said = INTERRUPTED[verb]
    if verb == "restore":
        words = ["restore", state_name(make_archive(vm)), "../twin"]
    before = sorted(path for path in vm.world.home.rglob("*") if ".qvm" not in path.parts)
    child = begin_held(vm, place, *words)
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGCONT)
    output = child.communicate(timeout=DEADLINE_S)[1]
    assert (child.returncode, output) == (130, f"qvm: {said}\n")
    assert sorted(path for path in vm.world.home.rglob("*") if ".qvm" not in path.parts) == before
    require_nothing_left(vm)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_ctrl_c_in_a_move_to_another_file_system_says_it(vm: Vm) -> None:
    with small_disk(vm.world.home / "small", 64):
        child = begin_held(vm, "qvmsh.machine.shelf.across:_Copy.settle", "move", "demo", "../small")
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGCONT)
        output = child.communicate(timeout=DEADLINE_S)[1]
        assert (child.returncode, output) == (130, "qvm: demo: interrupted; it is where it was\n")
        assert os.listdir(vm.world.home / "small") == []
    vm.ok("disk", "check")
