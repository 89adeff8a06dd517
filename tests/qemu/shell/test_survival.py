"""What must not end a shell, nor change what it is: its history, its rc files, the keys of signals."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from tests.support.busy_shell import by_default
from tests.support.shell_screen import Shell, Shells, interrupt, leave, screen_of, until_foreground
from tests.support.world import Vm

ALL = ("xonsh", "ptpython", "python")


@pytest.fixture
def vm(blank: Callable[..., Vm]) -> Vm:
    return blank(has_images=False)


def make_unusable(vm: Vm, how: str) -> dict[str, str]:
    """Make the history of both kinds of shell unusable; returns what the environment needs for it."""
    data = vm.world.home / ".local/share/qvm"
    if how == "no home":
        return dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), "/proc/nosuch")
    data.parent.mkdir(parents=True, exist_ok=True)
    if how == "no folder":
        data.write_text("a file is where the folder should be\n")
        return {}
    data.mkdir()
    for name in ("history.sqlite", "python_history"):
        (data / name).mkdir() if how == "a folder" else (data / name).write_bytes(b"damaged" * 1000)
    return {}


@pytest.mark.parametrize(
    ("how", "ui"),
    by_default(
        product(("no home", "no folder", "a folder", "damaged"), ALL),
        {
            ("no home", "xonsh"),
            ("no folder", "xonsh"),
            ("damaged", "xonsh"),
            ("a folder", "ptpython"),
            ("no folder", "python"),
            ("damaged", "python"),
        },
    ),
)
def test_unusable_history_is_reported_and_the_shell_works(vm: Vm, how: str, ui: str) -> None:
    env = make_unusable(vm, how)
    with screen_of(vm.world, vm.directory, "--ui", ui, env=env) as screen:
        screen.state("stopped") if screen.ready() else None
        output = "the history cannot be saved" in screen.text
        assert output is not (
            how == "damaged" and ui == "python"
        )  # there a line is a line, whatever is in it
        assert screen.run("6 * 7") == "42"
        assert screen.run("'a' + 'b'") == "'ab'"
        screen.key("Up")
        screen.key("Up")
        screen.wait("> 6 . 7$")
        screen.key("C-c")
        assert "Traceback" not in screen.text
        assert leave(screen, "exit(5)") == 5


def test_history_damaged_while_the_shell_is_open_does_not_end_it(vm: Vm) -> None:
    with screen_of(vm.world, vm.directory) as screen:
        screen.ready()
        assert screen.run("1 + 1") == "2"
        for path in (vm.world.home / ".local/share/qvm").iterdir():
            path.write_bytes(b"damaged" * 1000)
        shown = screen.run("2 + 2").splitlines()
        assert shown[0] == "4"
        assert "is not kept in the history" in shown[1]
        assert screen.run("3 + 3").startswith("6")


RCS = {
    "exit 3": 3,
    "import sys; sys.exit(4)": 4,
    "raise KeyboardInterrupt": 130,
    "exit 0": 0,
    "1/0": 1,
}
LONG_RCS = [pytest.param(code, code, marks=pytest.mark.long) for code in RCS if code != "exit 0"]


@pytest.mark.parametrize(
    ("users", "machines"),
    [
        ("exit 3", "import sys; sys.exit(4)"),
        ("1/0", "raise KeyboardInterrupt"),
        ("exit 0", "exit 0"),
        *LONG_RCS,
    ],
)
def test_rc_that_ends_itself_leaves_the_shell_open(vm: Vm, users: str, machines: str) -> None:
    for path, name, code in (
        (vm.world.home / ".config/xonsh/rc.xsh", "mine", users),
        (vm.directory / ".qvmrc.xsh", "its", machines),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} = 'before'\n{code}\n{name} = 'after'\n")
    vm.ok("allow")
    with screen_of(vm.world, vm.directory) as screen:
        screen.ready()
        assert screen.run("mine, its") == "('before', 'before')"
        output = f".qvmrc.xsh ended with status {RCS[machines]}: the rest" in screen.text.replace("\n", "")
        assert output is bool(RCS[machines])
        assert leave(screen, "exit 6") == 6


@pytest.mark.parametrize(
    ("place", "line"),
    by_default(
        product(("rc.xsh", ".qvmrc.xsh"), ("sleep 60", "import time; time.sleep(60)")),
        {("rc.xsh", "sleep 60"), (".qvmrc.xsh", "import time; time.sleep(60)")},
    ),
)
def test_ctrl_c_while_an_rc_is_loaded_opens_the_prompt(vm: Vm, place: str, line: str) -> None:
    path = vm.directory / place if place[0] == "." else vm.world.home / ".config/xonsh/rc.xsh"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"it = 'before'\nprint('begun')\n{line}\nit = 'after'\n")
    vm.ok("allow")
    with screen_of(vm.world, vm.directory) as screen:
        screen.wait("^begun")
        if line.startswith("sleep"):
            until_foreground(vm, line)
        screen.key("C-c")
        screen.ready()
        assert screen.run("it") == "'before'"
        assert "AttributeError" not in screen.text


def test_no_rc_opens_the_prompt_without_any(vm: Vm) -> None:
    for path in (vm.world.home / ".config/xonsh/rc.xsh", vm.directory / ".qvmrc.xsh"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("while True: pass\n")
    vm.ok("allow")
    with screen_of(vm.world, vm.directory, "--no-rc") as screen:
        screen.ready()
        assert screen.run("status -s") == "demo: stopped"
    result = vm.qvm("sh", "--shell", "--no-rc")
    assert (result.status, result.err.splitlines()[0]) == (
        2,
        "qvm: sh: --no-rc and --shell exclude each other",
    )


@pytest.mark.parametrize("ui", ALL)
def test_ctrl_backslash_ends_a_program_and_never_the_shell(shells: Shells, ui: str) -> None:
    screen = shells(ui)
    count = screen.begin("import time; print('begun', 1); time.sleep(60)")
    screen.wait("^begun 1")
    screen.key("C-\\")
    screen.wait(r"^\^.")
    screen.key("C-c")
    assert screen.ready(count)["status"] == "130"
    if ui == "python":
        screen.key("C-c")
    else:
        interrupt(screen)  # which draws another prompt
        count = screen.begin("sleep 60")
        until_foreground(screen.vm, "sleep 60")
        screen.key("C-\\")
        screen.ready(count)
    assert screen.run("6 * 7") == "42"


def test_ctrl_backslash_while_a_word_runs_changes_nothing(screen: Shell) -> None:
    count = screen.begin("start")
    screen.wait(r"waiting for ssh \.\.\.$")
    screen.key("C-\\")
    screen.wait(r"waiting for ssh \.\.\.\^.")
    screen.key("C-c")
    assert screen.ready(count)["status"] == "130"
    screen.key("C-c")
    screen.ready(count + 1)
    assert screen.run("status -s") == "demo: stopped"
    assert screen.prompts()[-1]["status"] == "1"
