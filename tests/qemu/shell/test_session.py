"""`session list`, `session save`: what was typed, and the script that it makes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.shell_screen import screen_of
from tests.support.world import QVM, Vm


@pytest.mark.parametrize("ui", ["xonsh", pytest.param("ptpython", marks=pytest.mark.long)])
def test_session_becomes_a_script_that_runs(vm: Vm, ui: str) -> None:
    home = vm.world.home
    with screen_of(vm.world, vm.directory, "--ui", ui) as screen:
        screen.ready()
        screen.run("start --no-wait")
        screen.run("x = cmd('info status').split()[-1]")
        screen.run("stop --nosuch")
        screen.run("echo the guest is @(x)")
        screen.run("if x: ![echo yes] ; ![echo twice]")
        screen.run("1/0")
        screen.run("vm kill")
        listed = screen.run("session list").splitlines()
        assert [line.split() for line in listed[:3]] == [
            ["1", "start", "--no-wait"],
            ["2", "x", "=", "cmd('info", "status').split()[-1]"],
            ["3", "[2]", "stop", "--nosuch"],
        ]
        assert screen.run("session list 4 6-7 | wc -l") == "3"
        assert screen.run("[row['status'] for row in session.list('2-3').lines]") == "[0, 2]"
        screen.run("session save ~/again")
        assert f"{home}/again: 7 lines; 2 failed, kept as comments" in screen.text.replace("\n", "")
        assert "there are no lines 99" in screen.run("session save ~/no 99")
        assert screen.prompts()[-1]["status"] == "2"
        assert screen.run("session.save('~/part.xsh', '4').lines") == "1"
    saved = (home / "again").read_text()
    assert saved.splitlines()[:5] == [
        "#!/usr/bin/env -S qvm sh --xonsh",
        "start --no-wait",
        "x = cmd('info status').split()[-1]",
        "# status 2:",
        "#   stop --nosuch",
    ]
    assert "session" not in saved
    env = {"PATH": f"{Path(QVM).parent}:{os.environ['PATH']}"}
    result = vm.world.run(program=str(home / "again"), cwd=vm.directory, env=env)
    assert result.status == 0, str(result)
    assert "the guest is running\nyes\n" in result.out
    assert "demo: killed by quit" in result.out
    assert (home / "part.xsh").read_text() == "#!/usr/bin/env -S qvm sh\necho the guest is @(x)\n"


def test_part_of_a_session_begins_where_it_was_typed(
    vm: Vm, blank: Callable[..., Vm], tmp_path: Path
) -> None:
    other = blank(name="other", VM_MACHINE_ID="44", has_images=False)
    with screen_of(vm.world, vm.directory) as screen:
        screen.ready()
        screen.run("cd /tmp")
        screen.run("pwd")
        screen.run(f"use {other.directory}")
        screen.run("pwd; print(vm.name)")
        screen.run("session save ~/a.xsh 2")
        screen.run("session save ~/b.xsh 4")
        screen.run("session save ~/c.xsh")
    assert vm.qvm("sh", vm.world.home / "a.xsh").out == "/tmp\n"
    assert vm.qvm("sh", vm.world.home / "b.xsh").out == f"{other.directory}\nother\n"
    assert vm.qvm("sh", vm.world.home / "c.xsh").out == f"/tmp\n{other.directory}\nother\n"


def test_session_of_plain_python_becomes_a_python_script(vm: Vm) -> None:
    with screen_of(vm.world, vm.directory, "--ui", "python") as screen:
        screen.ready()
        screen.run("import asyncio")
        screen.run("x = await asyncio.sleep(0.01, 20)")
        screen.run("stop()")
        screen.run("print(x + 1, vm.name)")
        assert screen.run("session.save('~/again').commented") == "1"
        assert "stop()" in screen.run("print(session.list())")
    result = vm.qvm("sh", vm.world.home / "again")
    assert (result.status, result.out) == (0, "21 demo\n"), str(result)


def test_scripts_and_one_shot_commands_have_no_typed_lines(vm: Vm, tmp_path: Path) -> None:
    for result in (
        vm.qvm("session", "list"),
        vm.qvm("session", "save", tmp_path / "x"),
        vm.qvm("sh", "-c", "session list"),
        vm.qvm("sh", stdin="session list\n"),
    ):
        assert result.status == 2
        assert "not an interactive shell" in result.err
