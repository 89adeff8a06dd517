"""`qvm sh` without a terminal: scripts by both shebangs, `-c`, standard input; statuses and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.support.busy_shell import by_default
from tests.support.programs import write_script
from tests.support.world import DEADLINE_S, QVM, Result, Vm, World, create_blank, wait_until, write_vmrc

SHEBANGS = ("#!/usr/bin/env qvm", "#!/usr/bin/env -S qvm sh")


@pytest.fixture(scope="module")
def vm(module_world: World) -> Iterator[Vm]:
    """One machine with an empty disk for all tests; each leaves it stopped."""
    made = create_blank(module_world, VM_KERNEL_PATH="boot/vmlinuz")
    yield made
    made.kill()


def run(vm: Vm, path: Path, *words: str, cwd: Path | None = None, stdin: str | None = None) -> Result:
    """Execute a script as a person would, by its shebang."""
    env = {"PATH": f"{Path(QVM).parent}:{os.environ['PATH']}", "VM_HOME": str(vm.directory)}
    return vm.world.run(*words, program=str(path), cwd=cwd, env=env, stdin=stdin)


CONTEXT = """
import json, os, sys
print(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "file": __file__, "name": __name__,
    "params": os.environ["VM_PARAMS"], "calling": os.environ["VM_CALLING_DIR"],
    "home": os.environ["VM_HOME"], "path": sys.path[0], "xonsh": "xonsh" in sys.modules,
    "vm": vm.directory, "mem": settings.VM_MACHINE_MEM, "state": status(ssh_check=False).state,
    "heavy": sorted({"plumbum", "sh", "xonsh", "asyncio"} & set(sys.modules)),
}))
"""


@pytest.mark.parametrize("shebang", SHEBANGS)
@pytest.mark.parametrize("name", ["deploy", "deploy.py", "deploy.xsh"])
def test_script_by_shebang_has_the_context(vm: Vm, tmp_path: Path, shebang: str, name: str) -> None:
    path = write_script(tmp_path, name, shebang + "\n" + CONTEXT)
    result = run(vm, path, "a", "b c", "--help", "", cwd=tmp_path)
    assert result.status == 0, str(result)
    seen = json.loads(result.out)
    is_xonsh = name.endswith(".xsh")
    assert seen == {
        "argv": [str(path), "a", "b c", "--help", ""],
        "cwd": str(vm.directory),
        "file": str(path),
        "name": "__main__",
        "params": "a 'b c' --help ''",
        "calling": str(tmp_path),
        "home": str(vm.directory),
        "path": str(tmp_path),
        "xonsh": is_xonsh,
        "vm": str(vm.directory),
        "mem": 64,
        "state": "stopped",
        "heavy": ["xonsh"] if is_xonsh else [],
    }


def test_script_named_relatively_with_dash_c_runs_there(vm: Vm, tmp_path: Path) -> None:
    write_script(tmp_path, "where.py", "import os; print(os.getcwd(), vm.name)")
    for words in (("-C", vm.directory, "sh", "where.py"), ("-C", vm.directory, "./where.py")):
        result = vm.world.run(*words, cwd=tmp_path)
        assert result.out == f"{vm.directory} demo\n", str(result)


def test_script_sees_set_values_of_its_call(vm: Vm, tmp_path: Path) -> None:
    text = (
        "import os; print(settings.VM_MACHINE_MEM, os.environ['VM_MACHINE_MEM'], dryrun().argv.count('97'))"
    )
    write_script(tmp_path, "mem.py", text)
    result = vm.qvm("--set", "VM_MACHINE_MEM=97", "sh", tmp_path / "mem.py")
    assert result.out.startswith("97 97 "), str(result)
    lines = vm.qvm(
        "--set", "VM_MACHINE_MEM=97", "sh", stdin="config VM_MACHINE_MEM\nvm dryrun | grep -c 97M\n"
    )
    assert lines.out.splitlines()[0] == "97", str(lines)


XONSH_STATUSES = [
    ("exit", 0), ("exit; echo never", 0),
    ("pass", 0), ("exit 7", 7), ("exit(8)", 8), ("import sys; sys.exit(9)", 9), ("import sys; sys.exit()", 0),
    ("raise SystemExit('text')", 1), ("bash -c 'exit 5'", 5), ("bash -c 'exit 5'; echo never", 5),
    ("if True:\n    bash -c 'exit 6'\necho never", 6), ("bash -c 'exit 5' || exit 4", 4),
    ("bash -c 'exit 5' && exit 4", 5), ("bash -c 'kill -TERM $$'", 143), ("bash -c 'kill -KILL $$'", 137),
    ("1/0", 1), ("def f(:", 1), ("nosuchprogram", 127), ("/etc/passwd", 126), ("cat /nosuchfile", 1),
    ("echo x > /nosuch/file", 1), ("stop", 3), ("vm kill", 3), ("vm ssh true", 3), ("start --nosuch", 2),
    ("stop()", 3), ("status -s | cat", 0), ("echo x | bash -c 'exit 3'", 3), ("x = $(bash -c 'exit 3')", 3),
    ("import subprocess; subprocess.run(['false'], check=True)", 1),
    ("import subprocess; subprocess.run(['bash', '-c', 'exit 12'], check=True)", 12),
    ("local['bash']['-c', 'exit 13']()", 13), ("sh.bash('-c', 'exit 14')", 14),
    ("raise KeyboardInterrupt", -signal.SIGINT),
]  # fmt: skip


@pytest.mark.parametrize(("code", "status"), XONSH_STATUSES)
def test_line_that_ends_a_session_gives_its_own_status(vm: Vm, code: str, status: int) -> None:
    result = vm.qvm("sh", "-c", code)
    assert result.status == status, str(result)
    assert "never" not in result.out


@pytest.mark.parametrize(
    ("code", "status"), [row for row in XONSH_STATUSES if "bash -c" not in row[0] and "(" in row[0]]
)
def test_python_script_gives_its_own_status(vm: Vm, tmp_path: Path, code: str, status: int) -> None:
    path = write_script(tmp_path, "own", code.replace("exit(8)", "import sys; sys.exit(8)"))
    result = vm.qvm("sh", path)
    assert result.status == status, str(result)


def test_script_that_fails_shows_its_own_frames_and_the_error(vm: Vm, tmp_path: Path) -> None:
    text = "def inner():\n    stop()\n\ninner()\n"
    for name in ("fail.py", "fail.xsh"):
        path = write_script(tmp_path, name, text)
        result = vm.qvm("sh", path)
        assert result.status == 3
        assert result.err == (
            f'  File "{path}", line 4, in <module>\n    inner()\n'
            f'  File "{path}", line 2, in inner\n    stop()\n'
            "qvm: demo: cannot stop: it is stopped\n"
        )


def test_script_with_a_wrong_call_shows_only_its_own_frames(vm: Vm, tmp_path: Path) -> None:
    path = write_script(tmp_path, "wrong.py", "start(1)\n")
    result = vm.qvm("sh", path)
    assert result.status == 1
    assert result.err == (
        f'Traceback (most recent call last):\n  File "{path}", line 1, in <module>\n    start(1)\n'
        "TypeError: start(): too many positional arguments\n"
    )


def test_xonsh_script_error_names_the_line_of_the_file(vm: Vm, tmp_path: Path) -> None:
    for text, line in (
        ("x = 1\n\necho ok\n1/0\n", 4),
        ("echo ok\n\n\ndef f(a, a):\n    pass\n", 4),
        ("echo ok\ndef f():\n    y = 1\n    y.z\nf()\n", 4),
    ):
        path = write_script(tmp_path, "bad.xsh", text)
        result = vm.qvm("sh", path)
        assert result.status == 1
        assert result.out == "ok\n"
        assert f'File "{path}", line {line}' in result.err, str(result)


def test_bug_in_qvm_shows_everything_and_asks_for_a_report(vm: Vm, tmp_path: Path) -> None:
    text = "import qvmsh.machine.state as s\ns.observe = None\nstatus()\n"
    result = vm.qvm("sh", write_script(tmp_path, "bug.py", text))
    assert result.status == 1
    assert "qvmsh/machine/overview/status.py" in result.err
    assert "this is a bug in qvm" in result.err


def test_python_script_with_shell_lines_gets_a_hint(vm: Vm, tmp_path: Path) -> None:
    for body, why in (
        ("vm status", "SyntaxError"),
        ("status -s", "unknown name 's'"),
        ("start --no-wait | x", "'no'"),
    ):
        path = write_script(tmp_path, "old", f"#!/usr/bin/env qvm\nx = 1\n{body}\n")
        result = vm.qvm("sh", path)
        assert result.status == 1
        assert why in result.err.replace(": no\n", "'no'").replace(": no (", "'no'")
        assert "hint: the file was read as Python; shell lines belong in a file named .xsh" in result.err
    path.write_text("echo yes\n")
    assert vm.ok("sh", "--xonsh", path).out == "yes\n"


def test_missing_script_folder_and_bad_bytes_are_usage_errors(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "latin.xsh").write_bytes(b"echo \xe4\n")
    for word, why in (("nosuch", "No such file"), (".", "Is a directory"), ("latin.xsh", "is not UTF-8")):
        result = vm.world.run("-C", vm.directory, "sh", word, cwd=tmp_path)
        assert result.status == 2, str(result)
        assert why in result.err
        assert "Traceback" not in result.err


def test_standard_input_and_dash_are_shell_lines(vm: Vm) -> None:
    assert vm.qvm("sh", stdin="echo one\nstatus -s | cat\n").out == "one\ndemo: stopped\n"
    result = vm.qvm(
        "sh", "-", "a", "b c", stdin="import sys\nprint(sys.argv, $ARG1, $VM_PARAMS)\nexit 4\necho never"
    )
    assert (result.out, result.status) == ("['-', 'a', 'b c'] a a 'b c'\n", 4), str(result)
    assert vm.qvm("sh", stdin="").status == 0


def test_code_has_its_words_and_prints_no_values(vm: Vm) -> None:
    result = vm.qvm("sh", "-c", "1 + 1\nimport sys; print(sys.argv, $ARGS[1:], $VM_PARAMS)", "a", "--b")
    assert result.out == "['-c', 'a', '--b'] ['a', '--b'] a --b\n", str(result)


def test_plain_command_in_code_does_not_load_xonsh(vm: Vm) -> None:
    program = "import sys; from qvmsh.cli.main import main; main(sys.argv[1:]); print('xonsh' in sys.modules)"
    for code, loaded in (("status -s", False), ("vm stop", False), ("status -s ; pass", True)):
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, "sh", "-c", code],
            cwd=vm.directory, env=vm.world.environ, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.endswith(f"{loaded}\n"), done.stdout + done.stderr


def test_variables_reach_children_of_every_kind(vm: Vm) -> None:
    code = """
env | grep ^VM_KERNEL_PATH
echo $VM_KERNEL_PATH
import os, subprocess
print(os.environ["VM_KERNEL_PATH"])
print(subprocess.check_output(["printenv", "VM_KERNEL_PATH"], text=True), end="")
print(local["printenv"]("VM_KERNEL_PATH"), end="")
print(sh.printenv("VM_KERNEL_PATH"), end="")
$VM_MINE = "late"
print(local["printenv"]("VM_MINE"), end="")
print(sh.printenv("VM_MINE"), end="")
printenv VM_MINE
print(settings.VM_KERNEL_PATH)
"""
    result = vm.qvm("sh", stdin=code)
    path = "boot/vmlinuz\n"
    assert result.out == f"VM_KERNEL_PATH={path}{path * 5}" + "late\n" * 3 + path, str(result)


def test_variables_of_the_context_follow_another_machine(vm: Vm) -> None:
    other = vm.world.home / "other"
    write_vmrc(other, "other", VM_MACHINE_ID="44")
    there = f"{QVM} -C . config"
    code = f"cd {other}\n{there} VM_MACHINE_ID\n{there} VM_KERNEL_PATH || echo none\nconfig VM_MACHINE_ID"
    result = vm.qvm("sh", stdin=code)
    assert result.out == "44\nnone\n33\n", str(result)


def test_wrong_configuration_ends_a_script_before_it_begins(vm: Vm, world: World) -> None:
    directory = world.home / "bad"
    write_vmrc(directory, "bad", VM_MACHINE_MEM="lots")
    for words in (("sh", "-c", "echo x; echo y"), ("sh", "-")):
        result = world.run(*words, cwd=directory, stdin="echo x")
        assert (result.out, result.status) == ("", 2)
        assert "VM_MACHINE_MEM is 'lots'" in result.err


def test_warning_about_the_configuration_is_given_once_a_session(world: World) -> None:
    directory = world.home / "warned"
    write_vmrc(directory, "warned", VM_SSH_PORTS="1")
    result = world.run("sh", cwd=directory, stdin="status -s || true\nx = status()\nstatus -s || true\n")
    assert result.out == "warned: stopped\n" * 2
    assert result.err.count("did you mean VM_SSH_PORT?") == 1, str(result)


def test_shell_without_machine_works_and_commands_fail_clearly(world: World) -> None:
    result = world.run(
        "sh", stdin="echo ok\nprint(vm, bool(vm))\nimg list > /dev/null && echo listed\nstatus"
    )
    assert result.out == "ok\n<no machine> False\nlisted\n", str(result)
    assert result.status == 2
    assert "no .vmrc in" in result.err
    assert world.run("sh", "-c", "status").status == 2
    assert world.run("sh", stdin="vm.start()").err.splitlines()[0] == result.err.splitlines()[0]


def test_modules_in_the_directory_do_not_hide_pythons(vm: Vm, world: World) -> None:
    directory = world.home / "traps"
    write_vmrc(directory, "traps", VM_MACHINE_ID="55")
    for name in ("subprocess", "re", "selectors", "qvmsh", "json", "xonsh", "plumbum"):
        (directory / f"{name}.py").write_text(f"open({str(world.home / 'sprung')!r}, 'w')\n")
    vms = f"{directory} {vm.directory}"
    code = (
        f"vm ssh true || true\nrun --help > /dev/null\nstart --no-wait {vms} || true\nguest\nlocal['true']()"
    )
    result = world.run("sh", cwd=directory, stdin=code)
    assert "Traceback" not in result.err, str(result)
    vm.kill()
    world.run("start", "--no-wait", ".", "./nosuch", cwd=directory)
    assert not (world.home / "sprung").exists()


def test_python_script_loads_only_what_it_uses(vm: Vm, tmp_path: Path) -> None:
    heavy = {"qvmsh.api", "qvmsh.machine.state", "re", "typing"}
    text = f"import sys\nprint(*sorted({heavy} & set(sys.modules)))\n"
    assert vm.ok("sh", write_script(tmp_path, "small.py", text)).out == "\n"


def test_dynamic_use_of_names_works_too(vm: Vm, tmp_path: Path) -> None:
    text = "print(eval('v' + 'm').name, eval('set' + 'tings').VM_MACHINE_NAME, eval('stat' + 'us')().state)\n"
    assert vm.ok("sh", write_script(tmp_path, "dynamic.py", text)).out == "demo demo stopped\n"


def test_json_of_a_session_is_refused(vm: Vm) -> None:
    result = vm.qvm("--json", "sh", "-c", "pass")
    assert result.status == 2
    assert json.loads(result.out)["error"]["message"] == "sh: --json is for a command in the shell"


def test_users_rc_is_not_read_by_scripts(world: World) -> None:
    (world.home / ".config/xonsh").mkdir(parents=True)
    for name in (".xonshrc", ".config/xonsh/rc.xsh"):
        (world.home / name).write_text("echo rc\n")
    assert world.run("sh", stdin="echo ok").out == "ok\n"


def test_inherited_xonsh_variables_do_not_matter(vm: Vm, tmp_path: Path) -> None:
    env = {
        "XONSH_HISTORY_FILE": str(tmp_path / "no/history"),
        "XONSH_SHOW_TRACEBACK": "1",
        "SHELL_TYPE": "none",
    }
    assert vm.qvm("sh", stdin="status -s | cat", env=env).out == "demo: stopped\n"


def _signalled(vm: Vm, number: int, *words: str | Path, until: str = "") -> tuple[int, str]:
    """Begin qvm with `words`, send it a signal once `until` is in its output; its status and output."""
    child = subprocess.Popen(
        [QVM, *map(str, words)],
        cwd=vm.directory, env=vm.world.environ, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    seen = ""
    while until not in seen or not seen:
        line = child.stdout.readline()
        assert line, seen
        seen += line
    time.sleep(0.3)
    if number == signal.SIGINT:
        os.killpg(child.pid, number)  # as a terminal does
    else:
        child.send_signal(number)
    rest = child.communicate(timeout=DEADLINE_S)[0]
    return child.returncode, seen + rest


SLEEPS = {
    "sleep.py": "print('ready', flush=True)\nimport time\ntime.sleep(6000)\nprint('never')\n",
    "host.xsh": "echo ready\nsleep 6000 || echo never\necho never\n",
    "loop.xsh": "echo ready\nfor i in range(9):\n    sleep 6000\necho never\n",
    "pipe.xsh": "echo ready\nsleep 6000 | cat && echo never\necho never\n",
    "python.xsh": "echo ready\nimport time\ntime.sleep(6000)\necho never\n",
}


@pytest.mark.parametrize(
    ("name", "number"),
    by_default(
        product(SLEEPS, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)),
        {
            *((name, signal.SIGINT) for name in SLEEPS),
            ("sleep.py", signal.SIGTERM),
            ("pipe.xsh", signal.SIGTERM),
            ("sleep.py", signal.SIGHUP),
            ("host.xsh", signal.SIGHUP),
        },
    ),
)
def test_signal_ends_a_script_with_its_status_and_leaves_nothing(
    vm: Vm, tmp_path: Path, name: str, number: int
) -> None:
    path = write_script(tmp_path, name, SLEEPS[name])
    status, out = _signalled(vm, number, "sh", path, until="ready")
    is_plain_death = number == signal.SIGHUP and name == "sleep.py"
    # a shell's loop continues after a status of 130
    assert status == (-number if is_plain_death or number == signal.SIGINT else 128 + number), out
    assert out == "ready\n"
    wait_until(lambda: not [line for line in vm.world.processes().values() if "sleep 6000" in line])


STARTS = {
    "word.xsh": "start -v || echo never\necho never\n",
    "pipe.xsh": "start -v e>o | cat && echo never\n",
    "call.xsh": "vm.io.level = 2\nvm.start()\necho never\n",
    "loop.xsh": "for i in range(3):\n    start -v\n",
}


@pytest.mark.parametrize(
    ("name", "number"),
    by_default(
        product(STARTS, (signal.SIGINT, signal.SIGTERM)),
        {
            ("word.xsh", signal.SIGINT),
            ("pipe.xsh", signal.SIGINT),
            ("loop.xsh", signal.SIGINT),
            ("word.xsh", signal.SIGTERM),
            ("call.xsh", signal.SIGTERM),
        },
    ),
)
def test_signal_while_start_waits_ends_the_machine_that_it_began(
    vm: Vm, tmp_path: Path, name: str, number: int
) -> None:
    path = write_script(tmp_path, name, STARTS[name])
    found, out = _signalled(vm, number, "sh", path, until="starting QEMU")
    assert found == (-signal.SIGINT if number == signal.SIGINT else 143), out
    assert "never" not in out
    if "cat" not in STARTS[name]:  # there the reader has ended too
        assert "ending the machine that was starting" in out
    assert vm.qvm("status", "-s").out == "demo: stopped\n"


def test_reader_that_leaves_ends_a_word_without_noise(vm: Vm) -> None:
    result = vm.qvm("sh", stdin="vm dryrun | head -1\nvm --help | true\necho ok\n")
    assert result.out.splitlines()[-1] == "ok"
    assert result.err == "", str(result)


def test_thousand_lines_compile_in_time_linear_in_their_number(vm: Vm, tmp_path: Path) -> None:
    def took_s(count: int) -> float:
        path = write_script(
            tmp_path, "long.xsh", "".join(f"true --loadvm s{n} -x\n" for n in range(count)) + "exit 3"
        )
        text = f"""
import time
from qvmsh.shell.xonsh.chunks import chunks
began = time.process_time()
for at, chunk in chunks(open({str(path)!r}).read()):
    compilex(chunk, mode="exec", glbs={{}}, locs={{}})
print(time.process_time() - began)
"""
        return float(vm.ok("sh", stdin=text).out)

    # quadratic would be 16, whenever it is measured
    assert any(took_s(400) < 8 * took_s(100) for _ in range(5))


MODULE = """
import json, os, sys
print(json.dumps({
    "argv": sys.argv[1:], "name": __name__, "package": __package__, "spec": __spec__.name,
    "params": os.environ["VM_PARAMS"], "cwd": os.getcwd(), "vm": vm.name, "state": status().state,
    "xonsh": "xonsh" in sys.modules,
}))
sys.exit(9)
"""


@pytest.mark.parametrize(
    ("file", "name", "package", "spec"),
    [
        ("mod.py", "mod", "", "mod"),
        ("pack/sub.py", "pack.sub", "pack", "pack.sub"),
        ("pack/__main__.py", "pack", "pack", "pack.__main__"),
    ],
)
def test_module_runs_as_a_script_with_the_context(
    vm: Vm, tmp_path: Path, file: str, name: str, package: str, spec: str
) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").touch()
    path = write_script(tmp_path, file, MODULE)
    result = vm.world.run("-C", vm.directory, "sh", "-m", name, "a b", "--help", "-x", cwd=tmp_path)
    assert result.status == 9, str(result)
    seen = json.loads(result.out)
    assert seen.pop("argv") == ["a b", "--help", "-x"]
    assert seen == {
        "name": "__main__", "package": package, "spec": spec, "params": "'a b' --help -x",
        "cwd": str(vm.directory), "vm": "demo", "state": "stopped", "xonsh": False,
    }  # fmt: skip
    path.write_text("def f():\n    stop()\nf()\n")
    result = vm.world.run("-C", vm.directory, "sh", "-m", name, cwd=tmp_path)
    assert result.status == 3
    assert f'File "{path}", line 2, in f\n    stop()\nqvm: demo: cannot stop' in result.err, str(result)


def test_module_of_python_and_modules_that_are_none(vm: Vm, tmp_path: Path) -> None:
    assert vm.qvm("sh", "-m", "json.tool", stdin="[1]").out == "[\n    1\n]\n"
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").touch()
    rows = [("nosuch", "no such module"), ("pack", "no __main__.py"), ("no.such", "No module named")]
    for name, why in (*rows, ("math", "has no Python code"), ("..x", "sh: -m ..x: ")):
        result = vm.world.run("-C", vm.directory, "sh", "-m", name, cwd=tmp_path)
        assert result.status == 2, str(result)
        assert why in result.err
        assert "Traceback" not in result.err


def test_module_that_is_broken_is_reported_as_its_own_fault(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "fails").mkdir()
    write_script(tmp_path, "fails/__init__.py", "1/0\n")
    write_script(tmp_path, "broken.py", "x = 1\ndef f(:\n")
    write_script(tmp_path, "wrong.py", "open('begun', 'w')\nstrat()\n")
    for name, status, why in (
        ("fails", 2, "importing it failed: ZeroDivisionError"),
        ("broken", 1, f'File "{tmp_path}/broken.py", line 2'),
        ("wrong", 1, f"{tmp_path}/wrong.py:2: unknown name 'strat'; nothing was run"),
    ):
        result = vm.world.run("-C", vm.directory, "sh", "-m", name, cwd=tmp_path)
        assert result.status == status, str(result)
        assert why in result.err
        assert "bug in qvm" not in result.err
    assert not (vm.directory / "begun").exists()


def test_words_after_code_are_the_codes(vm: Vm) -> None:
    result = vm.qvm("sh", "-c", "import sys; print(sys.argv)", "--x", "-v", "--", "-C")
    assert result.out == "['-c', '--x', '-v', '--', '-C']\n", str(result)
    assert vm.qvm("sh", "-c").status == 2


@pytest.mark.parametrize("name", ["wrong.py", "wrong", "wrong.xsh"])
def test_script_with_names_that_do_not_exist_begins_nothing(vm: Vm, tmp_path: Path, name: str) -> None:
    text = "open('begun', 'w')\nstart(wait=False)\nfor each in machines_that_are_not:\n    print(each)\n"
    path = write_script(tmp_path, name, text)
    result = vm.qvm("sh", path)
    assert (result.status, result.out) == (1, ""), str(result)
    assert result.err == f"qvm: {path}:3: unknown name 'machines_that_are_not'; nothing was run\n"
    assert not (vm.directory / "begun").exists()
    assert vm.qvm("status", "-s").out == "demo: stopped\n"


def test_misspelt_command_is_reported_with_a_suggestion(vm: Vm, tmp_path: Path) -> None:
    path = write_script(tmp_path, "wrong.py", "def go():\n    strat()\n    settigns.VM_X\ngo()\n")
    result = vm.qvm("sh", path)
    assert result.err == (
        "qvm: the script uses names that do not exist; nothing was run\n"
        f"  {path}:2: strat (did you mean start?)\n"
        f"  {path}:3: settigns (did you mean settings?)\n"
    )


def test_lines_with_names_of_earlier_lines_are_accepted(vm: Vm) -> None:
    code = "x = $(echo a b).split()\nfor y in x: print(y)\nimport os\nz = os.sep\n"
    code += "print(z, $VM_MACHINE_ID, events)\n"
    assert vm.ok("sh", stdin=code).out.startswith("a\nb\n/ 33")
