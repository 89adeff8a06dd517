"""`qvm sh --shell`: $SHELL in the machine's context, and bash scripts of the old vm."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from qvmsh.shell.script import bash as old
from qvmsh.shell.script import old_words
from tests.support.programs import write_script
from tests.support.tmux_terminal import Terminal
from tests.support.world import DEADLINE_S, QVM, Vm, World, create_blank


@pytest.fixture(scope="module")
def vm(module_world: World) -> Iterator[Vm]:
    settings = {"VM_KERNEL_PATH": "boot/vmlinuz", "VM_DATEFMT": "%Y", "VM_ERRLOG": "err log"}
    made = create_blank(module_world, **settings)
    yield made
    made.kill()


BODY = r"""#!/usr/local/bin/vm
. $VM_LIB/functions-net.sh
printf '%s\n' "$0" "$1" "$2" "$#" "$VM_PARAMS" "$VM_CALLING_DIR" "$PWD" "$VM_MACHINE_NAME" "$VM_KERNEL_PATH"
echo "$LINENO ${BASH_ENV-none} $BASH_VERSION" | cut -c1-7
exit 7
"""


def test_script_of_vm_has_its_words_variables_and_status(vm: Vm, tmp_path: Path) -> None:
    path = write_script(tmp_path, "old script", BODY)
    result = vm.world.run("-C", vm.directory, "sh", "--shell", path.name, "a b", "--help", cwd=tmp_path)
    assert result.status == 7, str(result)
    assert result.out.splitlines() == [
        str(path), "a b", "--help", "2", "a b --help", str(tmp_path), str(vm.directory), "demo",
        "boot/vmlinuz", "4 none ",
    ]  # fmt: skip
    assert result.err == ""


def test_script_of_vm_runs_by_its_own_first_line(vm: Vm, tmp_path: Path) -> None:
    path = write_script(
        tmp_path, "old script", "#!/usr/bin/env -S qvm sh --shell\nvm_echo $VM_MACHINE_NAME $1; false\n"
    )
    env = {"PATH": f"{Path(QVM).parent}:{os.environ['PATH']}", "VM_HOME": str(vm.directory)}
    result = vm.world.run("x", program=str(path), cwd=tmp_path, env=env)
    assert (result.status, result.out) == (1, f"[{time.strftime('%Y')}] demo x\n"), str(result)


def test_first_line_is_dropped_whatever_it_is(vm: Vm, tmp_path: Path) -> None:
    path = write_script(tmp_path, "old script", "echo never\necho $0 $1 $LINENO\nexit 5\n")
    result = vm.qvm("sh", "--shell", path, "x")
    assert (result.status, result.out) == (5, f"{path} x 2\n"), str(result)
    assert vm.qvm("sh", "--shell", write_script(tmp_path, "old script", "echo never")).out == ""


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
    ("vm_ssh true >/dev/null; exit $?", 3, "", ""),
    ("vm_sudo true >/dev/null || vm_sync >/dev/null || echo no", 0, "no\n", ""),
    ("vm_ssh true | head -1", 0, "qvm: demo: cannot reach the guest: it is stopped\n", ""),
    ("vm_check_ssh", 0, "demo: cannot reach the guest: it is stopped\n", ""),
    ("$SSH true; exit $?", 3, "", "cannot reach the guest"),
    ("vm_get_control_method; vm_get_suspend_method; vm_suspend; vm_poweroff || echo $?", 0, "3\n", ""),
    ("vm_progress one; vm_progress_stop; VERBOSE=1; vm_progress two; vm_progress_stop", 0, "", ""),
    ("VERBOSE=1; vm_echo_if_verbose two  words", 0, f"[{time.strftime('%Y')}] two words\n", ""),
    ("vm_echo_if_verbose no; vm_error yes", 0, "", f"[{time.strftime('%Y')}] yes\n"),
    ("vm_get_timestamp", 0, f"{time.strftime('%Y')}\n", ""),
    ("vm_get_ip; vm_get_full_name 127.0.0.1", 0, "127.0.0.1\nlocalhost\n", ""),
    ("[ $(id -u) = 0 ] || exit 1; vm_check_root", 0 if os.geteuid() == 0 else 1, "", ""),
    ("vm status; exit $?", 1, "demo: stopped\n", ""),
    ("vm cmd info status", 3, "", "cannot send a monitor command: it is stopped"),
    ("cd /; sh -c 'vm status'; vm status -q", 1, "demo: stopped\n", ""),
    ("PROG=mine; vm_die end", 1, "", "mine: end\n"),
    ("set -e; false; echo never", 1, "", ""),
    ("nosuchprogram", 127, "", "not found"),
    ("kill -TERM $$", -signal.SIGTERM, "", ""),
]


@pytest.mark.parametrize(("code", "status", "out", "err"), FUNCTIONS)
def test_functions_that_scripts_of_vm_know(
    vm: Vm, tmp_path: Path, code: str, status: int, out: str, err: str
) -> None:
    result = vm.qvm("sh", "--shell", write_script(tmp_path, "old script", f"#!/usr/local/bin/vm\n{code}\n"))
    assert (result.status, result.out) == (status, out), str(result)
    assert err in result.err if err else result.err == "", str(result)


@pytest.mark.skipif(not shutil.which("ping"), reason="needs ping")
def test_vm_ping_prints_the_times(vm: Vm) -> None:
    assert re.fullmatch(r"\d+\.\d+/.* ms\n", vm.qvm("sh", "--shell", "-c", "vm_ping").out)


EXAMPLE = r"""#!/usr/local/bin/vm

vm_echo called with parameters: \'$VM_PARAMS\'
echo 'Current dir:' `pwd` $VM_HOME $VM_CALLING_DIR
. $VM_LIB/functions-net.sh
if [ "$VM_PARAMS" = "-u" ]; then
    vm_ssh uptime
    echo ' There is work to be done.'
fi
vm_die the end
"""


def test_example_of_vm_runs_by_a_vm_program(vm: Vm, tmp_path: Path) -> None:
    write_script(tmp_path, "example-script", EXAMPLE)
    bin_folder = tmp_path / "usr bin"
    bin_folder.mkdir()
    (bin_folder / "vm").symlink_to(Path(old.LIBRARY) / "vm")
    env = {"PATH": f"{bin_folder}:{Path(QVM).parent}:{os.environ['PATH']}", "VM_HOME": str(vm.directory)}
    for words, more in ((["a", "b c"], ""), (["-u"], " There is work to be done.\n")):
        result = vm.world.run("example-script", *words, program="vm", cwd=tmp_path, env=env)
        head = f"[{time.strftime('%Y')}] called with parameters: '{' '.join(words)}'\n"
        head += f"Current dir: {vm.directory} {vm.directory} {tmp_path}\n"
        assert result.out.startswith(head), str(result)
        assert result.out.endswith(more), str(result)
        assert (result.status, result.err) == (1, "vm: the end\n"), str(result)
    assert vm.world.run("status", program="vm", cwd=tmp_path, env=env).out == "demo: stopped\n"
    assert "usage" in vm.world.run("start", "--help", program="vm", env=env).out.lower()
    shell = vm.world.run("sh", program="vm", cwd=vm.directory, env=env, stdin="vm_echo $VM_MACHINE_NAME\n")
    assert shell.out.endswith("] demo\n"), str(shell)


VARIABLES = {
    "VM_SNAPSHOT_SEED_FILENAME": "demo-seed.qcow2",
    "VM_SNAPSHOT_BASE_FILENAME": "demo-base.qcow2",
    "VM_SNAPSHOT_BACKING_FILENAME": "demo-backing.qcow2",
    "VM_NET_PORT": "7733",
    "VM_NET_HOST": "localhost",
    "VM_NET_LISTEN": "127.0.0.1",
    "VM_NET_GUEST": "demo",
    "VM_SAVE_DELAY": "0",
}


def test_variables_of_vm_are_in_the_environment_only(vm: Vm) -> None:
    code = (
        f"printenv {' '.join(VARIABLES)}; sh -c 'qvm dryrun' | grep telnet; qvm config --explain VM_NET_PORT"
    )
    env = {"PATH": f"{Path(QVM).parent}:{os.environ['PATH']}"}
    result = vm.qvm("sh", "--shell", "-c", code, env=env)
    assert result.out.splitlines()[: len(VARIABLES)] == [*VARIABLES.values()], str(result)
    assert "telnet" not in result.out
    assert result.out.endswith("# built-in\n"), str(result)
    assert result.err == ""
    values = ("VM_NET_PORT=7000", "VM_NET_GUEST=web", "VM_SNAPSHOT_BASENAME=b")
    words = [word for value in values for word in ("--set", value)]
    code = "echo $VM_NET_PORT $VM_NET_GUEST $VM_SNAPSHOT_BASE_FILENAME"
    assert vm.qvm(*words, "sh", "--shell", "-c", code).out == "7000 web demo-b.qcow2\n"


def test_vm_progress_is_a_passing_line_on_a_terminal(vm: Vm) -> None:
    code = "VERBOSE=1; vm_progress wait; vm_progress more; vm_echo done"
    child = pexpect.spawn(
        QVM,
        ["sh", "--shell", "-c", code],
        cwd=vm.directory,
        env=vm.world.environ,
        encoding="utf-8",
        timeout=DEADLINE_S,
    )
    child.expect(pexpect.EOF)
    child.close()
    clear = "\r\x1b[K"
    year = time.strftime("%Y")
    assert child.before == f"{clear}   wait\r{clear}   more\r{clear}[{year}] done\r\n"


def test_vm_die_is_logged(vm: Vm, tmp_path: Path) -> None:
    vm.qvm("sh", "--shell", "-c", "cd /; vm_die the end")
    assert (vm.directory / "err log").read_text().endswith(f"[{time.strftime('%Y')}] the end\n")


def test_status_of_a_running_machine_is_qemus_word(vm: Vm, tmp_path: Path) -> None:
    vm.ok("start", "--no-wait")
    try:
        result = vm.qvm("sh", "--shell", "-c", "cd /; vm_get_status; vm_check_running && echo yes")
        assert result.out == "running\nyes\n", str(result)
    finally:
        vm.kill()


def test_every_function_is_there_and_the_users_bash_env_too(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "own.sh").write_text("mine=yes\n")
    each = f"for each in {' '.join(old_words.NAMES)}; do type -t $each; done | sort -u"
    code = f"{each}; bash -c 'echo $mine'; type -t vm_echo; echo $BASH_ENV"
    result = vm.qvm("sh", "--shell", "-c", code, env={"BASH_ENV": str(tmp_path / "own.sh")})
    assert result.out == f"function\nyes\nfunction\n{tmp_path / 'own.sh'}\n", str(result)


def test_code_and_standard_input_are_bash_too(vm: Vm) -> None:
    assert vm.qvm("sh", "--shell", "-c", "echo $1 $VM_MACHINE_NAME; exit 4", "x").out == "x demo\n"
    result = vm.qvm("sh", "--shell", stdin="vm_squeal a; echo $VM_MACHINE_NAME\nexit 6\n")
    assert (result.status, result.out, result.err) == (6, "demo\n", "vm: a\n")
    assert vm.qvm("sh", "--shell", "-", "p q", stdin='echo "$1" $VM_PARAMS\n').out == "p q p q\n"


def test_options_that_mean_another_language_are_refused(vm: Vm) -> None:
    for words in (("-i",), ("--xonsh", "x"), ("--ui", "python"), ("-m", "json")):
        result = vm.qvm("sh", "--shell", *words)
        assert result.status == 2
        assert "exclude each other" in result.err


def test_missing_script_and_shell_are_reported(vm: Vm) -> None:
    result = vm.qvm("sh", "--shell", "nosuch")
    assert (result.status, result.err) == (2, f"qvm: sh: {vm.directory}/nosuch: No such file or directory\n")
    env = vm.world.environ | {"SHELL": "/no/such"}
    child = pexpect.spawn(
        QVM, ["sh", "--shell"], cwd=vm.directory, env=env, encoding="utf-8", timeout=DEADLINE_S
    )
    child.expect("qvm: /no/such is not installed\r\nhint: set SHELL to an installed shell\r\n")
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
def test_bash_run_as_python_hints_at_shell(vm: Vm, tmp_path: Path, body: str) -> None:
    path = write_script(tmp_path, "deploy", f"#!/usr/local/bin/vm\n{body}")
    result = vm.qvm("sh", path)
    assert result.status == 1
    assert "SyntaxError" in result.err
    assert f"hint: this looks like bash: `qvm sh --shell {path}` runs it" in result.err, str(result)


@pytest.mark.parametrize(
    "body", ["x = (1,\n", "def f(:\n    pass\n", "print 'a'\n", "for i in x\n    print(i)\n"]
)
def test_broken_python_is_not_taken_for_bash(vm: Vm, tmp_path: Path, body: str) -> None:
    result = vm.qvm("sh", write_script(tmp_path, "broken.py", body))
    assert "SyntaxError" in result.err
    assert "--shell" not in result.err, str(result)
