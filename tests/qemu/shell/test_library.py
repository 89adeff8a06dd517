"""The library door: `from qvmsh import Machine`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qvmsh import Machine
from qvmsh.errors import ConfigError, DeadlineError, StateError, UsageError
from tests.support.world import Vm, World


def test_machine_starts_answers_and_ends_without_a_word(vm: Vm, capfd: pytest.CaptureFixture[str]) -> None:
    machine = vm.library()
    assert machine.status().state == "stopped"
    started = machine.start(wait=False)
    assert started.pid == vm.pid
    assert machine.status(ssh_check=False)
    assert machine.cmd("info status") == "VM status: running\n"
    assert machine.kill().by == "quit"
    assert machine.status().state == "stopped"
    assert capfd.readouterr() == ("", "")


def test_machine_failure_is_raised_with_its_facts(vm: Vm) -> None:
    with pytest.raises(StateError, match="demo: cannot stop: it is stopped") as caught:
        vm.library().stop()
    assert (caught.value.actual, caught.value.required, caught.value.status) == ("stopped", "running", 3)
    with pytest.raises(UsageError):
        vm.library().start(ssh_attempts=0)


def test_open_without_a_machine_raises(world: World) -> None:
    with pytest.raises(ConfigError, match=r"no \.vmrc in"):
        Machine.open(world.home, environ=world.environ)


def test_open_without_directory_follows_vm_home(vm: Vm) -> None:
    machine = Machine.open(environ=vm.world.environ | {"VM_HOME": str(vm.directory)})
    assert machine.directory == str(vm.directory)


def test_import_of_the_package_loads_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; before = set(sys.modules); import qvmsh; print(sorted(set(sys.modules) - before));"
        "from qvmsh import Machine; heavy = {'xonsh', 'plumbum', 'sh', 'asyncio', 'rich', 'subprocess'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['__future__', 'qvmsh']\n[]\n"


def test_package_says_what_it_has_not() -> None:
    import qvmsh

    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        qvmsh.Nothing  # noqa: B018
    assert (Path(qvmsh.__file__).parent / "py.typed").exists()


def test_running_without_an_answer_ends_what_it_started(vm: Vm) -> None:
    machine = vm.library()
    with pytest.raises(DeadlineError, match="it was ended"), machine.running(ssh_attempts=1):
        raise AssertionError("the block must not be entered")
    assert machine.status().state == "stopped"


def test_running_leaves_a_machine_alone_that_is_not_its_own(vm: Vm) -> None:
    machine = vm.library()
    vm.ok("start", "--no-wait")
    pid = vm.pid
    with pytest.raises(DeadlineError), machine.running(ssh_attempts=1):
        raise AssertionError("the block must not be entered")
    assert vm.pid == pid
    vm.ok("pause")
    with pytest.raises(StateError, match="cannot use it: it is paused"), machine.running():
        raise AssertionError("the block must not be entered")
    assert machine.status().state == "paused"


def test_running_with_wrong_options_starts_nothing(vm: Vm) -> None:
    with pytest.raises(UsageError), vm.library().running(ssh_attempts=0):
        raise AssertionError("the block must not be entered")
    assert vm.library().status().state == "stopped"


def python(vm: Vm, code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=cwd or vm.directory, env=vm.world.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_here_is_the_machine_of_the_current_directory(vm: Vm) -> None:
    done = python(
        vm,
        "from qvmsh.here import vm, start, status, kill, settings, qmp, img, create\n"
        "print(vm.directory, status().state, settings.VM_MACHINE_MEM, img, callable(create))\n"
        "print(start(wait=False).ready, qmp.query_status()['running'], kill().by)\n",
    )
    assert done.stderr == ""
    assert done.stdout == (f"{vm.directory} stopped 64 <commands img: build, list> True\nFalse True quit\n")


def test_here_starts_nothing_and_loads_no_shell(vm: Vm) -> None:
    done = python(
        vm,
        "import sys, qvmsh.here\n"
        "print(sorted(name for name in sys.modules if name.startswith('qvmsh')))\n"
        "from qvmsh.here import vm, start\n"
        "heavy = {'xonsh', 'plumbum', 'sh', 'asyncio', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), vm.status().state)\n",
    )
    assert done.stdout == "['qvmsh', 'qvmsh.here']\n[] stopped\n", done.stderr


def test_here_without_machine_or_name_fails_clearly(vm: Vm, tmp_path: Path) -> None:
    done = python(vm, "from qvmsh.here import vm", cwd=tmp_path)
    assert "ConfigError: no .vmrc in" in done.stderr
    done = python(vm, "from qvmsh.here import list")
    assert "ImportError: cannot import name 'list' from 'qvmsh.here'" in done.stderr


METHODS = """from qvmsh import Machine
vm = Machine.open('.')
port: int | None = vm.start(wait=False).ssh_port
text: str = vm.ssh('uname', '-a')
vm.start(wait='no')  # wrong
vm.nosuch()  # wrong
with vm.running(disposable=True) as other:
    text = other.ssh('uname')
    other.doctor(probe=True)
with vm.running(nosuch=True):  # wrong
    pass
"""
HERE = """from qvmsh.here import create, img, settings, start, stop, vm
port: int | None = start(wait=False).ssh_port
mem: int = vm.settings.integer('VM_MACHINE_MEM') + settings.VM_MACHINE_MEM
start(wait='no')  # wrong
img.nosuch()  # wrong
"""


def test_methods_and_here_are_typed_for_the_users_checker(tmp_path: Path) -> None:
    texts = {"methods.py": METHODS, "names.py": HERE}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *texts],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    wrong = {
        f"{name}:{number}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if line.endswith("# wrong")
    }
    found = {line.split(": ")[0] for line in done.stdout.splitlines() if ": error: " in line}
    assert found == wrong, done.stdout + done.stderr


def test_every_name_of_here_is_a_name_of_the_shell() -> None:
    import qvmsh.here
    from qvmsh.commands import describe
    from qvmsh.io import QUIET
    from qvmsh.shell.session.context import Context

    declared = set()
    for line in describe.here().splitlines():
        if line and line[0].isalpha() and not line.startswith("from "):
            declared.add(line.removeprefix("class ").split("=")[0].split(":")[0].strip())
    assert declared == set(Context(None, QUIET).names()) == set(dir(qvmsh.here))
