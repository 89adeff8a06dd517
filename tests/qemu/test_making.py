"""Machines whose `create` or `restore` is killed: the next command, of any machine, ends that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Vm
from test_archive import archived, byte, name_of, nothing_left, write

Blank = Callable[..., Vm]

KILLED = """
import os, signal, sys

moved, rename = int(sys.argv[1]), os.rename


def step(source, target, **options):
    global moved
    if ".part-" in str(source) and ".part-" not in str(target):
        moved -= 1
        if moved == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return rename(source, target, **options)


os.rename = step
sys.argv = ["qvm", *sys.argv[2:]]
from qvmsh.__main__ import main

sys.exit(main())
"""


def killed(vm: Vm, renames: int, *words: str) -> None:
    """Run qvm; it is killed before its rename number `renames` out of the folder in which it makes."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(renames), *words],
        cwd=vm.directory,
        env=vm.world.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if ".part" in path.name)


def notes(vm: Vm) -> Path:
    return Path(vm.world.environ.get("XDG_DATA_HOME") or vm.world.home / ".local/share") / "qvm/making"


@pytest.mark.parametrize(
    "following",
    [("init",), ("disk", "check"), ("archive",), ("create", "../other", "--image", "demo-base.qcow2")],
)
def test_killed_restore_is_removed_by_whatever_comes_next(blank: Blank, following: tuple[str, ...]) -> None:
    vm = blank()
    name = name_of(archived(vm))
    killed(vm, 1, "restore", name, "../fresh")
    assert len(parts(vm.world.home)) == 1
    told = vm.ok("doctor").out
    assert "of fresh, begun at" in told
    assert len(parts(vm.world.home)) == 1  # one who only looks changes nothing
    result = vm.qvm(*following)
    assert "`qvm restore` of fresh, begun at" in result.err
    assert "was interrupted: what it had begun is removed" in result.err
    assert not parts(vm.world.home)
    assert not notes(vm).exists()
    assert vm.qvm(*following).err.count("was interrupted") == 0
    vm.ok("restore", name, "../fresh")
    nothing_left(vm)


@pytest.mark.parametrize("renames", [1, 2, 3])
def test_restore_killed_while_it_moves_into_an_empty_folder_is_completed(blank: Blank, renames: int) -> None:
    vm = blank()
    write(vm, 7, "1M")
    name = name_of(archived(vm))
    fresh = vm.world.home / "fresh"
    fresh.mkdir()
    killed(vm, renames, "restore", name, "../fresh")
    assert not (fresh / ".vmrc").exists()
    assert "it is complete now" in vm.ok("doctor", "--fix").out
    assert not parts(vm.world.home)
    assert byte(Vm(vm.world, fresh), "1M", "fresh-backing.qcow2") == 7
    assert Vm(vm.world, fresh).ok("disk", "check").status == 0


def test_what_somebody_is_at_work_in_is_left_alone(blank: Blank) -> None:
    vm = blank()
    name = name_of(archived(vm))
    child = vm.world.popen("restore", name, "../fresh", cwd=vm.directory)
    while child.poll() is None and not parts(vm.world.home):
        pass
    child.send_signal(signal.SIGSTOP)
    assert child.poll() is None
    before = parts(vm.world.home)
    assert "interrupted" not in vm.ok("disk", "check").err + vm.ok("doctor", "--fix").out
    assert parts(vm.world.home) == before
    child.send_signal(signal.SIGCONT)
    assert child.communicate(timeout=60)[1] == ""
    assert child.returncode == 0
    assert not notes(vm).exists()


def test_note_that_leads_elsewhere_is_not_followed(blank: Blank) -> None:
    vm = blank()
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
