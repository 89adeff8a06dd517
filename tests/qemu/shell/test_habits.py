"""What users of bash type: it works, or one line says what to type here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.shell_screen import Editor, Shell, leave, screen_of
from tests.support.tmux_terminal import PROMPT
from tests.support.world import QVM, Vm


@pytest.fixture
def vm(blank: Callable[..., Vm]) -> Vm:
    return blank(has_images=False)


@pytest.mark.parametrize("ui", ["xonsh", pytest.param("ptpython", marks=pytest.mark.long)])
def test_words_of_bash_do_what_they_do_there(vm: Vm, ui: str) -> None:
    with screen_of(vm.world, vm.directory, "--ui", ui) as screen:
        screen.ready()
        screen.run("export A=1 B='x y'; export PATH=$PATH:/nosuch")
        assert screen.run("printenv A B") == "1\nx y"
        assert screen.run("printenv PATH").endswith(":/nosuch")
        assert screen.run("unset A; printenv A") == ""
        assert screen.run("nine = 9; export nine; printenv nine") == "9"
        screen.run("alias say='echo a b'")
        assert screen.run("say c") == "a b c"
        assert screen.run("alias say") == "alias say='echo a b'"
        assert "command not found" in screen.run("unalias say; say c")
        assert sorted(screen.run("type status nosuch").splitlines()) == [  # from two streams
            "status is a command of qvm; `status --help` explains it",
            "type: nosuch: not found",
        ]
        assert screen.prompts()[-1]["status"] == "1"
        assert screen.run("help status | head -1").startswith("usage: qvm status")
        assert "snapshot save" in screen.run("help snapshot | head -9")
        assert screen.run("help nosuch") == "help: no command 'nosuch'; `vm` lists them"
        assert leave(screen, "logout 5") == 5


SAID = {
    "FOO=x env | cat": "bash's `FOO=x env | cat` is `$FOO='x' env | cat` here",
    "FOO=bar": "bash's `FOO=bar` is `$FOO = 'bar'` here",
    "echo $?": "bash's `$?` is $LAST_RETURN_CODE here",
    "for i in 1 2; do echo $i; done": "`for` is bash's: here a loop is Python's: "
    "`for i in [1, 2]: echo @(i)`",
    "if [ -f x ]; then echo y; fi": "`if` is bash's: here a condition is Python's: "
    "`if !(test -e FILE): echo yes`",
    "while true; do echo; done": "`while` is bash's: here a loop is Python's: "
    "`while !(test -e FILE): sleep 1`",
    "[[ -f x ]]": "`[[` is bash's",
    "set -x": "`set` is bash's",
    "declare -x A=2": "`declare` is bash's",
    ". file": "`.` is bash's",
}


def test_other_lines_of_bash_are_explained_in_one_line(screen: Shell) -> None:
    for line, said in SAID.items():
        shown = screen.run(line).splitlines()
        assert sum(each.startswith("qvm: ") for each in shown) == 1, shown
        assert said in "".join(shown), shown
        assert "Did you mean" not in screen.output()
    assert "Did you mean" in screen.run("strat")
    assert "bash" not in screen.run("x = 5; 1 + x")
    assert screen.run("$FOO='x' env | grep ^FOO=") == "FOO=x"  # what was advised works


def test_near_miss_of_a_second_word_is_named(screen: Shell) -> None:
    result = screen.vm.qvm("snapshot", "sav")
    assert (result.status, result.err.splitlines()[1]) == (2, "hint: did you mean `qvm snapshot save`?")
    assert screen.run("snapshot sav").splitlines()[1] == "hint: did you mean `snapshot save`?"
    assert screen.run("which status") == "a command of qvm; `status --help` explains it"


def test_machine_made_in_the_shell_is_used_as_its_report_says(blank: Callable[..., Vm]) -> None:
    vm = blank()
    with screen_of(vm.world, vm.directory) as screen:
        screen.ready()
        assert "zz: `use zz && start` starts it" in screen.run("create zz --image demo-seed.qcow2")
        assert screen.run("use zz && status -s") == "zz: stopped"
        assert "  vm reboot " in screen.run("vm | grep reboot")


def test_xreset_keeps_the_names_of_the_machine(vm: Vm) -> None:
    with screen_of(vm.world, vm.directory) as screen:
        screen.ready()
        screen.run("mine = 1; vm = 2")
        screen.run("xreset")
        assert screen.run("vm.name, status().state") == "('demo', 'stopped')"
        assert "command not found" in screen.run("mine")
        assert leave(screen, "exit(4)") == 4


def test_value_that_a_file_overrides_is_warned_of_once(vm: Vm) -> None:
    with screen_of(vm.world, vm.directory) as screen:
        screen.ready()
        screen.run("$VM_MACHINE_MEM=512")
        for line in ("echo one", "status -s", "settings.VM_MACHINE_MEM"):
            screen.run(line)
        shown = screen.text.replace("\n", "")
        assert shown.count("VM_MACHINE_MEM='512' is overridden by .vmrc") == 1
        assert "`config VM_MACHINE_MEM=...` changes the file" in shown
        screen.run("$VM_MACHINE_MEM=513")
        screen.run("echo two")
        assert screen.text.replace("\n", "").count("is overridden by .vmrc") == 2


def test_script_on_standard_input_with_i_runs_before_the_prompt(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("y = 7\necho ran\n")
    made = Editor(["sh", "-c", f"{QVM} sh -i < {tmp_path}/in"], vm.directory, vm.world.environ)
    try:
        made.ready()
        assert "\nran\n" in made.text
        assert len([line for line in made.lines() if PROMPT.match(line)]) == 1
        assert made.run("y * 6") == "42"
    finally:
        made.close()
    words = ("-w", QVM, "sh", "-i")  # there is no terminal at all
    result = vm.world.run(*words, cwd=vm.directory, program="setsid", stdin="y = 7\n")
    assert result.status == 2
    assert "\x1b" not in result.out + result.err
    assert "needs a terminal" in result.err
