"""Machines whose `create` or `restore` is killed: the next command, of any machine, ends that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.archives import make_archive, require_nothing_left
from tests.support.counting import NO_WAITING
from tests.support.disks import read_byte, write_byte
from tests.support.killer import begin_held
from tests.support.world import DEADLINE_S, Vm, World, copy_of, create_blank

KILLED = """
import os, signal, sys

number, moved, rename = int(sys.argv[1]), int(sys.argv[2]), os.rename


def step(source, target, **options):
    global moved
    if ".part-" in str(source) and ".part-" not in str(target):
        moved -= 1
        if moved == 0:
            os.kill(os.getpid(), number)
    return rename(source, target, **options)


os.rename = step
sys.argv = ["qvm", *sys.argv[3:]]
from qvmsh.__main__ import main

sys.exit(main())
"""


def ran(vm: Vm, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run qvm in a Python that runs other code first."""
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=vm.directory,
        env=vm.world.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def killed(vm: Vm, renames: int, *words: str) -> None:
    """Run qvm; it is killed before its rename number `renames` out of the folder in which it makes."""
    done = ran(vm, KILLED, str(int(signal.SIGKILL)), str(renames), *words)
    assert done.returncode == -signal.SIGKILL, done.stderr


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if ".part" in path.name)


def notes(vm: Vm) -> Path:
    return Path(vm.world.environ.get("XDG_DATA_HOME") or vm.world.home / ".local/share") / "qvm/making"


@pytest.fixture(scope="module")
def archived(module_world: World) -> Path:
    made = create_blank(module_world, **NO_WAITING)
    write_byte(made, 7, "1M")
    make_archive(made)
    return made.directory


@pytest.fixture
def vm(world: World, archived: Path) -> Vm:
    """Off and archived, with 7 at 1M."""
    return copy_of(world, archived)


FOLLOWING = (("init",), ("disk", "check"), ("archive",), ("create", "../other", "--image", "demo-base.qcow2"))


def test_killed_restore_is_removed_by_whatever_comes_next(vm: Vm) -> None:
    for following in FOLLOWING:
        killed(vm, 1, "restore", "latest", "../fresh")
        assert len(parts(vm.world.home)) == 1
        if following == FOLLOWING[0]:
            assert "fresh, begun at" in vm.ok("doctor").out
            assert len(parts(vm.world.home)) == 1  # a command that only reads changes nothing
        result = vm.qvm(*following)
        assert "the restore to fresh, begun at" in result.err, following
        assert "was interrupted: what it had begun was removed" in result.err
        assert not parts(vm.world.home)
        assert not notes(vm).exists()
        assert vm.qvm(*following).err.count("was interrupted") == 0
    vm.ok("restore", "latest", "../fresh")
    require_nothing_left(vm)


def made_by_restore(vm: Vm, fresh: Path) -> None:
    """A new machine is complete."""
    assert not parts(vm.world.home)
    assert not notes(vm).exists()
    made = Vm(vm.world, fresh)
    assert read_byte(made, "1M", f"{fresh.name}-backing.qcow2") == 7
    made.ok("disk", "check")


def test_restore_killed_while_it_fills_a_folder_is_completed(vm: Vm) -> None:
    for renames in (1, 2, 3):
        fresh = vm.world.home / f"fresh{renames}"
        fresh.mkdir()
        killed(vm, renames, "restore", "latest", f"../{fresh.name}")
        assert not (fresh / ".vmrc").exists()
        assert "it has been completed" in vm.ok("doctor", "--fix").out
        made_by_restore(vm, fresh)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_a_restore_fills_a_folder_waits(vm: Vm, number: signal.Signals) -> None:
    for renames in (1, 2, 3):
        fresh = vm.world.home / f"fresh{renames}"
        fresh.mkdir()
        done = ran(vm, KILLED, str(int(number)), str(renames), "restore", "latest", f"../{fresh.name}")
        assert done.returncode != 0, done.stderr
        made_by_restore(vm, fresh)


FULL = """
import errno, sys
from qvmsh.host import files

write = files.write_atomic


def full(path, text, *more, **options):
    if '"is_whole": true' in text:
        raise OSError(errno.ENOSPC, "No space left on device", path)
    write(path, text, *more, **options)


files.write_atomic = full
sys.argv = ["qvm", *sys.argv[1:]]
from qvmsh.__main__ import main

sys.exit(main())
"""


def test_create_without_a_journal_moves_nothing(vm: Vm) -> None:
    fresh = vm.world.home / "fresh"
    fresh.mkdir()
    done = ran(vm, FULL, "restore", "latest", "../fresh")
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert os.listdir(fresh) == []
    assert not notes(vm).exists()


def test_completion_replaces_nothing_that_has_come_to_be_there(vm: Vm) -> None:
    fresh = vm.world.home / "fresh"
    fresh.mkdir()
    killed(vm, 1, "restore", "latest", "../fresh")
    (fresh / "fresh-base.qcow2").write_text("mine")
    output = vm.ok("doctor", "--fix").out
    assert "cannot be completed: fresh-base.qcow2 already exists" in output
    assert (fresh / "fresh-base.qcow2").read_text() == "mine"
    (fresh / "fresh-base.qcow2").unlink()
    assert "it has been completed" in vm.ok("doctor", "--fix").out
    Vm(vm.world, fresh).ok("disk", "check")


RACE = """
import os, subprocess, sys

mkdir = os.mkdir


def race(path, *more, **options):
    mkdir(path, *more, **options)
    if ".part-" in str(path):
        words = [sys.executable, "-m", "qvmsh", "snapshot", "save", "x"]
        print(subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True))


os.mkdir = race
sys.argv = ["qvm", *sys.argv[1:]]
from qvmsh.__main__ import main

sys.exit(main())
"""


@pytest.mark.parametrize("above", ["..", "../link"])
def test_folder_that_is_not_locked_yet_is_left_alone(vm: Vm, above: str) -> None:
    (vm.world.home / "link").symlink_to(vm.world.home)
    done = ran(vm, RACE, "restore", "latest", f"{above}/fresh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "interrupted" not in done.stdout
    assert (vm.world.home / "fresh/.vmrc").exists()
    assert not notes(vm).exists()


def test_folder_in_use_by_a_command_is_left_alone(vm: Vm) -> None:
    folder = "qvmsh.machine.work.creation_folder:Folder.put_in_place"
    child = begin_held(vm, folder, "restore", "latest", "../fresh")
    before = parts(vm.world.home)
    assert "interrupted" not in vm.ok("disk", "check").err + vm.ok("doctor", "--fix").out
    assert parts(vm.world.home) == before
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=DEADLINE_S)[1] == ""
    assert child.returncode == 0
    assert not notes(vm).exists()


def test_journal_that_leads_elsewhere_is_not_followed(vm: Vm) -> None:
    precious = vm.world.home / "precious"
    precious.mkdir()
    (precious / "file").touch()
    link = vm.world.home / ".demo.part-0123abcd"
    link.symlink_to(precious)
    notes(vm).mkdir(parents=True)
    for at, path in enumerate((precious, link, "relative.part-0123abcd", 7)):
        note = {"verb": "restore", "path": str(path), "since": 0.0, "pid": 1, "is_whole": False}
        (notes(vm) / str(at)).write_text(json.dumps(note))
    (notes(vm) / "half").write_text('{"verb": "re')
    (notes(vm) / "odd").write_text("[]")
    assert "Traceback" not in vm.ok("doctor", "--fix").out
    vm.ok("disk", "check")
    assert os.listdir(precious) == ["file"]


DENIED = """
import errno, os, sys

at, real = int(sys.argv.pop(1)), os.open


def denied(path, *more, **options):
    if str(path).endswith((".part-0123abcd", "away")[at]):
        raise OSError(at and errno.EACCES or errno.EMFILE, "denied", path)
    return real(path, *more, **options)


os.open = denied
sys.argv = ["qvm", *sys.argv[1:]]
from qvmsh.__main__ import main

sys.exit(main())
"""


@pytest.mark.parametrize("at", [0, 1])
def test_journal_stays_while_its_folder_cannot_be_read(vm: Vm, at: int) -> None:
    left = vm.world.home / "away/.fresh.part-0123abcd"
    left.mkdir(parents=True)
    notes(vm).mkdir(parents=True)
    note = {"verb": "restore", "path": str(left), "since": 0.0, "pid": 2**22 + 1, "is_whole": False}
    (notes(vm) / "0123abcd").write_text(json.dumps(note))
    done = ran(vm, DENIED, str(at), "disk", "check")
    assert done.returncode == 0, done.stderr
    assert left.exists()
    assert "was interrupted: what it had begun was removed" in vm.ok("disk", "check").err
    assert not left.exists()
    assert not notes(vm).exists()
