"""The front ends on a real terminal: xonsh, ptpython, plain Python; what is typed and seen is the same."""

from __future__ import annotations

import os
import re
import signal
import time
from itertools import product
from pathlib import Path

import pexpect
import pytest

from tests.support.busy_shell import BUSY, ENDS, by_default, end, end_of, until_busy
from tests.support.programs import write_script
from tests.support.shell_screen import (
    Editor,
    Shells,
    exit_status,
    leave,
    press,
    run_at_breakpoint,
    screen_of,
    until_foreground,
    wait_for_breakpoint,
)
from tests.support.world import DEADLINE_S, QVM, Vm

SHELLS = ("xonsh", "ptpython")
ALL = (*SHELLS, "python")
LONG_PTPYTHON = pytest.param("ptpython", marks=pytest.mark.long)


@pytest.mark.parametrize("ui", ALL)
def test_functions_errors_and_statuses_are_the_same_everywhere(shells: Shells, ui: str) -> None:
    screen = shells(ui)
    first = screen.ready()
    assert (first["name"], first["cwd"]) == ("demo", None)
    screen.state("stopped")
    assert screen.run("x = status(); x.state") == "'stopped'" if ui != "python" else True
    assert screen.run("status().state") == "'stopped'"
    assert screen.run("settings.VM_MACHINE_MEM + 1") == "65"
    assert screen.run("stop()") == "qvm: demo: cannot stop: it is stopped"
    assert screen.prompts()[-1]["status"] == "3"
    assert "ZeroDivisionError: division by zero" in screen.run("1/0")
    assert screen.prompts()[-1]["status"] == "1"
    assert screen.run("start(wait=False).ready") == "False"
    screen.state("running")
    assert "VM status: running" in screen.run("cmd('info status')")
    assert screen.run("vm.kill().by").splitlines()[0] == "'quit'"  # and perhaps that QEMU has ended
    screen.state("stopped")
    assert screen.run("local['printenv']('VM_MACHINE_NAME')") == "'demo\\n'"
    screen.run("import os; os.chdir('/tmp')")
    assert screen.prompts()[-1]["cwd"] == "/tmp"
    count = screen.begin("import time; print('begun', 1); time.sleep(60)")
    screen.wait("^begun 1")
    time.sleep(0.3)
    screen.key("C-c")
    assert screen.ready(count)["status"] == "130"
    assert screen.run("2 * 21") == "42"
    screen.run(f"os.chdir({str(screen.vm.directory)!r})")


@pytest.mark.parametrize("ui", ALL)
def test_line_that_fails_after_a_command_counts_as_failed(shells: Shells, ui: str) -> None:
    screen = shells(ui)
    screen.run("r = $(echo hi); 1/0" if ui != "python" else "r = status(); 1/0")
    assert screen.prompts()[-1]["status"] == "1"
    screen.run("import sys")
    assert screen.run("sys.last_value, sys.last_traceback is None") == (
        "(ZeroDivisionError('division by zero'), False)"
    )
    listed = screen.run("session list" if ui != "python" else "print(session.list())").splitlines()
    assert next(row for row in listed if "; 1/0" in row).split()[1] == "[1]"


def test_ptpython_runs_words_pipes_and_host_programs(shells: Shells, tmp_path: Path) -> None:
    screen = shells("ptpython")
    assert "[F2] Menu" in screen.text
    assert screen.run("status -s") == "demo: stopped"
    assert screen.run("status -s | tr a-z A-Z") == "DEMO: STOPPED"
    assert screen.run("s = 3; status -s") == "demo: stopped"
    screen.run("del s")
    assert screen.run("stop && echo never").splitlines()[0] == "qvm: demo: cannot stop: it is stopped"
    assert screen.prompts()[-1]["status"] == "3"
    assert screen.run("env | grep ^VM_MACHINE_NAME") == "VM_MACHINE_NAME=demo"
    assert screen.run("$VM_MACHINE_MEM") == "'64'"
    assert screen.run("nosuchprogram").startswith("xonsh: subprocess mode: command not found")
    assert screen.run("reboot").startswith("qvm: reboot: refused")
    assert "vm kill" in screen.run("vm")
    count = screen.begin("start")
    screen.wait(r"waiting for ssh \.\.\.$")
    screen.key("C-c")
    assert screen.ready(count)["status"] == "130"
    assert "ending the machine that was starting" in screen.output()
    count = screen.begin("sleep 60 && echo never")
    until_foreground(screen.vm, "sleep 60")
    screen.key("C-c")
    assert screen.ready(count)["status"] == "130"
    (tmp_path / "long").write_text("".join(f"row {n}\n" for n in range(500)))
    screen.begin(f"less {tmp_path}/long")
    screen.wait("^row 10$")
    screen.type("G")
    screen.wait("^row 499$")
    screen.key("q")
    screen.ready()
    count = screen.begin("sleep 61")
    until_foreground(screen.vm, "sleep 61")
    screen.key("C-z")
    screen.ready(count)
    assert "sleep 61" in screen.run("jobs")
    count = screen.begin("fg")
    until_foreground(screen.vm, "sleep 61")
    screen.key("C-c")
    screen.ready(count)


def test_ptpython_takes_blocks_and_reports_syntax_errors(shells: Shells) -> None:
    screen = shells("ptpython")
    screen.type("for i in range(2):")
    screen.key("Enter")
    screen.wait(r"^ +\.\.\.")
    screen.type("echo number @(i)")
    screen.key("Enter")
    screen.key("Enter")
    screen.wait("^number 1$")
    screen.ready(2)
    screen.type("def f(x) return")
    screen.key("Enter")
    screen.wait("Syntax [Ee]rror")
    screen.key("C-c")
    assert screen.run("echo still here") == "still here"
    screen.key("C-c")
    assert screen.run("echo here too") == "here too"


def test_history_is_private_lasts_and_is_shared_by_two_editors(vm: Vm) -> None:
    with screen_of(vm.world, vm.directory, "--ui", "xonsh") as screen:
        screen.ready()
        screen.run("echo typed in xonsh")
        leave(screen, "exit")
    file = vm.world.home / ".local/share/qvm/history.sqlite"
    assert file.stat().st_mode & 0o777 == 0o600
    with screen_of(vm.world, vm.directory, "--ui", "ptpython") as screen:
        screen.ready()
        press(screen, "Up", lambda: bool(re.search("> exit$|> echo typed in xonsh$", screen.text, re.M)))
        screen.key("C-c")
        screen.ready()
        screen.run("echo typed in ptpython")
        leave(screen, "exit")
    with screen_of(vm.world, vm.directory, "--ui", "xonsh") as screen:
        screen.ready()
        shown = screen.run("history show all")
        assert "echo typed in xonsh" in shown
        assert "echo typed in ptpython" in shown


def test_history_of_python_is_its_own_and_private(vm: Vm) -> None:
    with screen_of(vm.world, vm.directory, "--ui", "python") as screen:
        screen.ready()
        screen.run("secret = 'word'")
        leave(screen, "exit()")
    file = vm.world.home / ".local/share/qvm/python_history"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "secret = 'word'" in file.read_text()
    with screen_of(vm.world, vm.directory, "--ui", "python") as screen:
        screen.ready()
        press(screen, "Up", lambda: bool(re.search(r"> exit\(\)$", screen.text, re.M)))  # loaded by now
        press(screen, "Up", lambda: "> secret = 'word'" in screen.text)


def test_python_awaits_at_the_prompt_and_ctrl_c_cancels(shells: Shells) -> None:
    screen = shells("python")
    screen.run("import asyncio")
    assert screen.run("await asyncio.sleep(0.01, 'done')") == "'done'"
    screen.run("x = await asyncio.sleep(0.01, 20); y = 1")
    assert screen.run("x + y") == "21"
    screen.run("async def f(): seen.append(await asyncio.sleep(0.2, 'task'))\n")
    screen.run("seen = []")
    assert "RuntimeError" not in screen.run("t = asyncio.create_task(f())")
    deadline = time.monotonic() + DEADLINE_S
    while screen.run("seen") != "['task']":  # it continues between the inputs
        assert time.monotonic() < deadline, screen.text
    line = "async def long():\n    try: print('begun', 2); await asyncio.sleep(60)\n"
    line += "    finally: print('cleaned up')\n"
    screen._tmux("set-buffer", line)
    screen._tmux("paste-buffer", "-p")
    screen.key("Enter")
    screen.ready()
    count = screen.begin("await long()")
    screen.wait("^begun 2")
    screen.key("C-c")
    assert screen.ready(count)["status"] == "130"
    assert "cleaned up" in screen.output()
    assert screen.run("await asyncio.sleep(0, 7)") == "7"
    assert "StateError" not in screen.run("await asyncio.to_thread(stop)")
    assert screen.prompts()[-1]["status"] == "3"
    assert "never awaited" not in screen.text


def test_python_prompt_loads_no_xonsh(shells: Shells) -> None:
    screen = shells("python")
    assert (
        screen.run("import sys; 'xonsh' in sys.modules") == "False"
        or screen.run("'xonsh' in sys.modules") == "False"
    )
    assert "SyntaxError" not in screen.text
    screen.type("status -s | cat")
    screen.key("Enter")
    screen.wait("NameError: name 's' is not defined|unsupported operand")
    screen.ready()


def test_vm_shell_chooses_for_good_and_the_option_wins(vm: Vm) -> None:
    marks = {"xonsh": "vm. lists the commands", "ptpython": r"\[F2\] Menu", "python": "^Python: .vm.VERB"}
    user = vm.world.home / ".config/qvm/vmrc"
    user.parent.mkdir(parents=True)
    for chosen, words, where, opened in (
        ("xonsh", (), vm.directory, "xonsh"),
        ("ptpython", (), vm.directory, "ptpython"),
        ("python", (), vm.world.home, "python"),  # no machine here
        ("python", ("--ui", "xonsh"), vm.directory, "xonsh"),
    ):
        user.write_text(f"VM_SHELL={chosen}\n")
        with screen_of(vm.world, where, *words) as screen:
            screen.ready()
            assert re.search(marks[opened], screen.text, re.MULTILINE), (chosen, words, screen.text)
    assert vm.qvm("sh", "-c", "echo a | cat").out == "a\n"


def test_wrong_vm_shell_is_reported(shared: Vm) -> None:
    result = shared.qvm("--set", "VM_SHELL=fish", "sh", stdin="echo x")
    assert result.status == 2
    assert "VM_SHELL is 'fish', but must be one of xonsh, ptpython, python" in result.err
    assert shared.qvm("sh", "--ui", "fish").status == 2


@pytest.mark.parametrize(
    ("ui", "how", "busy"),
    by_default(
        product(("ptpython", "python"), ENDS, BUSY),
        {
            ("ptpython", "terminal closed", "idle"),
            ("ptpython", "SIGTERM", "function"),
            ("ptpython", "SIGTERM", "program"),
            ("python", "terminal closed", "word"),
            ("python", "SIGTERM", "idle"),
            ("python", "SIGTERM", "python"),
        },
    ),
)
def test_closed_terminal_and_sigterm_end_every_front_end(vm: Vm, busy: str, how: str, ui: str) -> None:
    if ui == "python" and busy in ("word", "program"):
        line = {"word": "import asyncio; await asyncio.sleep(60)", "program": "local['sleep']('60')"}[busy]
    else:
        line = BUSY[busy]
    words = ["sh", "--ui", ui]
    env = vm.world.environ | {"PROMPT_TOOLKIT_NO_CPR": "1"}
    child = pexpect.spawn(
        QVM, words, cwd=vm.directory, env=env, encoding="utf-8", timeout=DEADLINE_S, dimensions=(40, 120)
    )
    child.expect("stopped")  # painted over the `?` of a state not known yet, perhaps
    if line:
        child.send(line + "\r")
        until_busy(vm, "idle" if line.startswith("import asyncio") else busy)
    end(child, how)
    assert end_of(child) == ENDS[how]
    assert not vm.world.leftovers()


def test_dumb_terminal_gets_lines_instead_of_ptpython(shared: Vm) -> None:
    child = pexpect.spawn(
        QVM, ["sh", "--ui", "ptpython"],
        cwd=shared.directory, env=shared.world.environ | {"TERM": "dumb"}, encoding="utf-8",
        timeout=DEADLINE_S,
    )  # fmt: skip
    child.expect("ptpython needs a terminal")
    child.expect("demo:stopped> ")
    child.sendline("exit 4")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 4


def test_users_own_configuration_of_ptpython_is_read(vm: Vm) -> None:
    file = vm.world.home / ".config/ptpython/config.py"
    file.parent.mkdir(parents=True)
    file.write_text("def configure(repl):\n    repl.show_status_bar = False\n")
    with screen_of(vm.world, vm.directory, "--ui", "ptpython") as screen:
        screen.ready()
        assert "[F4]" not in screen.text
        assert screen.run("status -s") == "demo: stopped"


@pytest.mark.parametrize("ui", ALL)
def test_i_opens_the_prompt_with_the_scripts_names(shared: Vm, tmp_path: Path, ui: str) -> None:
    path = write_script(
        tmp_path, "made.py",
        "import sys\ndef twice(x):\n    return 2 * x\nfound = status().state\nprint('ran', sys.argv[1:])\n"
    )  # fmt: skip
    with screen_of(shared.world, shared.directory, "-i", "--ui", ui, path, "a", "--b") as screen:
        screen.ready()
        assert "ran ['a', '--b']" in screen.text
        assert screen.run("found") == "'stopped'"
        assert screen.run("twice(4)") == "8"
        assert screen.run("status().state") == "'stopped'"
        assert leave(screen, "exit(6)" if ui == "python" else "exit 6") == 6


@pytest.mark.parametrize("ui", ["xonsh", LONG_PTPYTHON])
def test_i_after_lines_code_and_modules(shared: Vm, tmp_path: Path, ui: str) -> None:
    path = write_script(
        tmp_path, "made.xsh", "x = $(echo seven)\necho ran $ARG1\naliases['hey'] = 'echo hey you'\n"
    )
    with screen_of(shared.world, shared.directory, "-i", "--ui", ui, path, "word") as screen:
        screen.ready()
        assert "ran word" in screen.text
        assert screen.run("x") == "'seven'"
        assert screen.run("hey") == "hey you"
    with screen_of(shared.world, shared.directory, "-i", "--ui", ui, "-c", "y = 5; echo ran") as screen:
        screen.ready()
        assert screen.run("y + 1") == "6"
    write_script(shared.directory, "amodule.py", "z = 'from the module'\n")
    with screen_of(shared.world, shared.directory, "-i", "--ui", ui, "-m", "amodule") as screen:
        screen.ready()
        assert screen.run("z") == "'from the module'"


FAILING = {
    "fails.py": ("x = 1\nstop()\n", "3", "cannot stop: it is stopped"),
    "exits.py": ("import sys\nx = 1\nsys.exit(7)\n", "7", ""),
    "wrong.py": ("open('begun', 'w')\nstrat()\n", "1", "unknown name 'strat'; nothing was run"),
}


@pytest.mark.parametrize(
    ("name", "ui"), by_default(product(FAILING, ALL), set(zip(FAILING, ALL, strict=True)))
)
def test_i_after_a_script_that_fails_still_opens_the_prompt(
    shared: Vm, tmp_path: Path, name: str, ui: str
) -> None:
    text, status, message = FAILING[name]
    path = write_script(tmp_path, name, text)
    with screen_of(shared.world, shared.directory, "-i", "--ui", ui, path) as screen:
        assert screen.ready()["status"] == status
        assert message in screen.text.replace("\n", "")
        if name != "wrong.py":
            assert screen.run("x") == "1"
        assert not (shared.directory / "begun").exists()


def test_i_after_standard_input_goes_back_to_the_terminal(shared: Vm, tmp_path: Path) -> None:
    path = write_script(tmp_path, "in", "x = 21\necho ran\n")
    made = Editor(["sh", "-c", f"{QVM} sh -i - word < {path}"], shared.directory, shared.world.environ)
    try:
        made.ready()
        assert made.run("x * 2") == "42"
        assert made.run("$ARG1") == "'word'"
    finally:
        made.close()
    result = shared.qvm("sh", "--ui", "python", "-i", "-c", "echo x")
    assert (result.status, result.err.splitlines()[0]) == (2, "qvm: sh: --ui python cannot run shell lines")


STOPS = """
import sys
def work(n):
    total = n * 2
    breakpoint()
    print("total is", total)
    return total
answer = work(21)
breakpoint()
print("end", answer)
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("name", "ui"),
    by_default(
        product(("stops.py", "stops.xsh"), ALL),
        {("stops.py", "python"), ("stops.py", "ptpython"), ("stops.xsh", "xonsh")},
    ),
)
def test_breakpoint_opens_the_shell_and_leaving_resumes(
    shared: Vm, tmp_path: Path, name: str, ui: str
) -> None:
    path = write_script(tmp_path, name, STOPS)
    with screen_of(shared.world, shared.directory, "--ui", ui, path) as screen:
        screen._tmux("set-option", "-g", "remain-on-exit", "on")
        wait_for_breakpoint(screen, 5)
        assert f"> {path}:5 in work()" in screen.text.replace("\n", "")
        assert run_at_breakpoint(screen, 5, "total") == "42"
        assert run_at_breakpoint(screen, 5, "sorted(locals())") == "['n', 'total']"
        assert run_at_breakpoint(screen, 5, "total = 5") == ""
        assert run_at_breakpoint(screen, 5, "n, status().state") == "(21, 'stopped')"
        if ui != "python":
            assert run_at_breakpoint(screen, 5, "status -s | tr a-z A-Z") == "DEMO: STOPPED"
        screen.key("C-d")
        wait_for_breakpoint(screen, 9)
        assert "total is 5" in screen.text
        assert run_at_breakpoint(screen, 9, "answer") == "5"
        run_at_breakpoint(screen, 9, "answer = 'changed'")
        screen.key("C-d")
        assert exit_status(screen) == 7
        assert "end changed" in screen.text


def test_breakpoint_can_end_the_script_with_a_status(shared: Vm, tmp_path: Path) -> None:
    with screen_of(shared.world, shared.directory, write_script(tmp_path, "stops.py", STOPS)) as screen:
        wait_for_breakpoint(screen, 5)
        assert leave(screen, "raise SystemExit(4)") == 4
        assert "total is" not in screen.text


@pytest.mark.parametrize("ui", ["xonsh", LONG_PTPYTHON])
def test_breakpoint_in_a_module_called_at_the_prompt(shells: Shells, ui: str) -> None:
    screen = shells(ui)
    write_script(
        screen.vm.directory, "helper.py", "def g(a):\n    b = a + 1\n    breakpoint()\n    return b\n"
    )
    screen.run("import sys; sys.path.insert(0, '.')")
    screen.run("from helper import g")
    screen.begin("g(3)")
    wait_for_breakpoint(screen, 3)
    assert run_at_breakpoint(screen, 3, "b, vm.name") == "(4, 'demo')"
    run_at_breakpoint(screen, 3, "b = 50")
    screen.key("C-d")
    screen.wait("^50$")
    screen.ready()
    assert screen.run("status -s") == "demo: stopped"
    assert "50" not in screen.run("b").splitlines()  # it was the function's


def test_breakpoint_without_terminal_is_ignored_and_reported(shared: Vm, tmp_path: Path) -> None:
    path = write_script(tmp_path, "stops.py", STOPS)
    result = shared.qvm("sh", path)
    assert (result.status, result.out) == (7, "total is 42\nend 42\n")
    assert f"qvm: breakpoint() at {path}:5 is ignored: there is no terminal" in result.err
    result = shared.qvm("sh", path, env={"PYTHONBREAKPOINT": "0"})
    assert (result.status, result.err) == (7, "")


def test_sigterm_at_a_breakpoint_ends_the_script(shared: Vm, tmp_path: Path) -> None:
    path = write_script(tmp_path, "stops.py", STOPS)
    with screen_of(shared.world, shared.directory, path) as screen:
        screen._tmux("set-option", "-g", "remain-on-exit", "on")
        wait_for_breakpoint(screen, 5)
        os.kill(screen.pid, signal.SIGTERM)
        assert exit_status(screen) == 143
