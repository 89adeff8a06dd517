"""`qvm sh --shell`: $SHELL in the machine's context, and bash scripts of the old vm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from conftest import QVM, Vm, World, write_vmrc
from shell_terminal import Terminal

from qvmsh.shell import old


@pytest.fixture(scope="module")
def vm(module_world: World) -> Iterator[Vm]:
    directory = module_world.home / "demo"
    write_vmrc(directory, VM_KERNEL_PATH="boot/vmlinuz", VM_DATEFMT="%Y", VM_ERRLOG="err log")
    made = Vm(module_world, directory)
    seed = ["qemu-img", "create", "-q", "-f", "qcow2", "demo-seed.qcow2", "16M"]
    subprocess.run(seed, cwd=directory, check=True)
    made.ok("init")
    yield made
    made.kill()


def script(where: Path, text: str, name: str = "old script") -> Path:
    path = where / name
    path.write_text(text)
    path.chmod(0o755)
    return path


BODY = r"""#!/usr/local/bin/vm
. $VM_LIB/functions-net.sh
printf '%s\n' "$0" "$1" "$2" "$#" "$VM_PARAMS" "$VM_CALLING_DIR" "$PWD" "$VM_MACHINE_NAME" "$VM_KERNEL_PATH"
echo "$LINENO ${BASH_ENV-none} $BASH_VERSION" | cut -c1-7
exit 7
"""


def test_script_of_vm_has_its_words_variables_and_status(vm: Vm, tmp_path: Path) -> None:
    path = script(tmp_path, BODY)
    result = vm.world.run("-C", vm.directory, "sh", "--shell", path.name, "a b", "--help", cwd=tmp_path)
    assert result.status == 7, str(result)
    assert result.out.splitlines() == [
        str(path), "a b", "--help", "2", "'a b' --help", str(tmp_path), str(vm.directory), "demo",
        "boot/vmlinuz", "4 none ",
    ]  # fmt: skip
    assert result.err == ""


def test_script_of_vm_runs_by_its_own_first_line(vm: Vm, tmp_path: Path) -> None:
    path = script(tmp_path, "#!/usr/bin/env -S qvm sh --shell\nvm_echo $VM_MACHINE_NAME $1; false\n")
    env = {"PATH": f"{Path(QVM).parent}:{os.environ['PATH']}", "VM_HOME": str(vm.directory)}
    result = vm.world.run("x", program=str(path), cwd=tmp_path, env=env)
    assert (result.status, result.out) == (1, f"[{time.strftime('%Y')}] demo x\n"), str(result)


def test_first_line_is_dropped_whatever_it_is(vm: Vm, tmp_path: Path) -> None:
    path = script(tmp_path, "echo never\necho $0 $1 $LINENO\nexit 5\n")
    result = vm.qvm("sh", "--shell", path, "x")
    assert (result.status, result.out) == (5, f"{path} x 2\n"), str(result)
    assert vm.qvm("sh", "--shell", script(tmp_path, "echo never")).out == ""


FUNCTIONS = [
    ("vm_echo one  two", 0, f"[{time.strftime('%Y')}] one two\n", ""),
    ("vm_die no 'good  thing'; echo never", 1, "", "vm: no good  thing\n"),
    ("vm_squeal one; vm_squeal two; echo on $VM_ERRCNT", 0, "on 2\n", "vm: one\nvm: two\n"),
    ("vm_squeal one; vm_die_if_error; echo never", 1, "", "vm: one\nvm: exiting after 1 error\n"),
    ("vm_check_prog cat; vm_die_if_error; echo on", 0, "on\n", ""),
    ("vm_check_prog nosuch; echo $VM_ERRCNT", 0, "1\n", "vm: program 'nosuch' not found\n"),
    (
        "vm_check_var VM_KERNEL_PATH; vm_check_var VM_NO; echo never",
        1,
        "",
        "mandatory variable VM_NO not set",
    ),
    ("vm_get_status; echo $?", 0, "1\n", ""),
    ("vm_check_running || echo off", 0, "off\n", ""),
    ("vm_ssh true; exit $?", 3, "", "qvm: demo: cannot reach the guest: it is stopped"),
    ("set -e; false; echo never", 1, "", ""),
    ("nosuchprogram", 127, "", "not found"),
    ("kill -TERM $$", -signal.SIGTERM, "", ""),
]


@pytest.mark.parametrize(("code", "status", "out", "err"), FUNCTIONS)
def test_functions_that_scripts_of_vm_know(
    vm: Vm, tmp_path: Path, code: str, status: int, out: str, err: str
) -> None:
    result = vm.qvm("sh", "--shell", script(tmp_path, f"#!/usr/local/bin/vm\n{code}\n"))
    assert (result.status, result.out) == (status, out), str(result)
    assert err in result.err if err else result.err == "", str(result)


def test_vm_die_is_logged(vm: Vm, tmp_path: Path) -> None:
    vm.qvm("sh", "--shell", "-c", "vm_die the end")
    assert (vm.directory / "err log").read_text().endswith(f"[{time.strftime('%Y')}] the end\n")


def test_status_of_a_running_machine_is_qemus_word(vm: Vm, tmp_path: Path) -> None:
    vm.ok("start", "--no-wait")
    try:
        result = vm.qvm("sh", "--shell", "-c", "cd /; vm_get_status; vm_check_running && echo yes")
        assert result.out == "running\nyes\n", str(result)
    finally:
        vm.kill()


def test_every_named_function_is_there_and_the_users_bash_env_too(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "own.sh").write_text("mine=yes\n")
    code = f"type -t {' '.join(old.NAMES)} | sort -u; bash -c 'echo $mine'; type -t vm_echo; echo $BASH_ENV"
    result = vm.qvm("sh", "--shell", "-c", code, env={"BASH_ENV": str(tmp_path / "own.sh")})
    assert result.out == f"function\nyes\nfunction\n{tmp_path / 'own.sh'}\n", str(result)


def test_code_and_standard_input_are_bash_too(vm: Vm) -> None:
    assert vm.qvm("sh", "--shell", "-c", "echo $1 $VM_MACHINE_NAME; exit 4", "x").out == "x demo\n"
    result = vm.qvm("sh", "--shell", stdin="vm_squeal a; echo $VM_MACHINE_NAME\nexit 6\n")
    assert (result.status, result.out, result.err) == (6, "demo\n", "vm: a\n")
    assert vm.qvm("sh", "--shell", "-", "p q", stdin='echo "$1" $VM_PARAMS\n').out == "p q 'p q'\n"


def test_options_that_mean_another_language_are_refused(vm: Vm) -> None:
    for words in (("-i",), ("--xonsh", "x"), ("--ui", "python"), ("-m", "json")):
        result = vm.qvm("sh", "--shell", *words)
        assert result.status == 2
        assert "exclude each other" in result.err


def test_missing_script_and_shell_are_told(vm: Vm) -> None:
    result = vm.qvm("sh", "--shell", "nosuch")
    assert (result.status, result.err) == (2, f"qvm: sh: {vm.directory}/nosuch: No such file or directory\n")
    env = vm.world.environ | {"SHELL": "/no/such"}
    child = pexpect.spawn(QVM, ["sh", "--shell"], cwd=vm.directory, env=env, encoding="utf-8", timeout=60)
    child.expect("qvm: /no/such is not installed\r\nhint: SHELL names it\r\n")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_users_shell_opens_with_the_machines_variables(vm: Vm, shell: str) -> None:
    program = shutil.which(shell)
    assert program is not None
    (vm.world.home / ".bashrc").write_text("PS1='$ '; alias hi='echo from bashrc'\n")
    env = vm.world.environ | {"PS1": "$ "}
    made = Terminal(["env", f"SHELL={program}", QVM, "sh", "--shell"], vm.directory, env)  # tmux sets SHELL
    try:
        made.wait(r"^\$$")
        made.type("echo $VM_MACHINE_NAME $VM_KERNEL_PATH $PWD")
        made.key("Enter")
        made.wait(f"^demo boot/vmlinuz {vm.directory}$")
        if shell == "bash":
            made.type("hi; vm_squeal no; vm_get_status || echo off")
            made.key("Enter")
            made.wait("^from bashrc\nvm: no\noff$")
    finally:
        made.close()


@pytest.mark.parametrize(
    "body",
    [
        "vm_echo $VM_PARAMS\n",
        "if [ -z \"$1\" ]; then\n  echo no\nfi\n",
        "for i in 1 2; do echo $i; done\n",
        "export X=1\necho \"$X\"\n",
        "function f()\n{\n    ls\n}\n",
        "x=`date`\n",
        ". $VM_LIB/functions-net.sh\nvm_ssh uptime\n",
        "case $1 in\n a) ls;;\nesac\n",
        "test -f x && echo yes\n",
    ],
)  # fmt: skip
def test_bash_run_as_python_is_told_of_shell(vm: Vm, tmp_path: Path, body: str) -> None:
    path = script(tmp_path, f"#!/usr/local/bin/vm\n{body}", "deploy")
    result = vm.qvm("sh", path)
    assert result.status == 1
    assert "SyntaxError" in result.err
    assert f"hint: this looks like bash: `qvm sh --shell {path}` runs it" in result.err, str(result)


@pytest.mark.parametrize(
    "body", ["x = (1,\n", "def f(:\n    pass\n", "print 'a'\n", "for i in x\n    print(i)\n"]
)
def test_broken_python_is_not_taken_for_bash(vm: Vm, tmp_path: Path, body: str) -> None:
    result = vm.qvm("sh", script(tmp_path, body, "broken.py"))
    assert "SyntaxError" in result.err
    assert "--shell" not in result.err, str(result)
