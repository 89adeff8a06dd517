"""`use`: another machine for the same shell; `.qvmrc.xsh`, loaded once its content is allowed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.shell_screen import screen_of
from tests.support.world import QVM, Vm, World, write_vmrc

LONG_PTPYTHON = pytest.param("ptpython", marks=pytest.mark.long)
OLD = {
    "VM_KERNEL_PATH": "old/vmlinuz",
    "VM_MACHINE_MEM": "97",
    "PROJECT": "alpha",
    "VM_SSH_OPTIONS": "-v",
    "OLD_ONLY": "alpha too",
}


@pytest.fixture
def vm(blank: Callable[..., Vm]) -> Vm:
    return blank(**OLD)


@pytest.fixture
def other(blank: Callable[..., Vm]) -> Vm:
    return blank(name="other", VM_MACHINE_ID="44", VM_NEW="new")


SEEN = """
import json, os, subprocess
names = ["VM_KERNEL_PATH", "VM_MACHINE_MEM", "VM_MACHINE_NAME", "VM_NEW", "PROJECT", "OLD_ONLY", "VM_LATE",
         "VM_HOME", "QVM_CONTEXT", "VM_SSH_OPTIONS", "PWD"]
program = "import os, json; print(json.dumps(dict(os.environ)))"
child = json.loads(subprocess.check_output(["python3", "-c", program]))
print(json.dumps({
    "own": {name: os.environ.get(name) for name in names},
    "child": {name: child.get(name) for name in names},
    "old": [k for k, v in child.items() if "alpha" in v or "old/" in v or v in ("97", "-v", "late")],
    "vm": vm.directory, "settings": settings.VM_MACHINE_NAME, "state": status().machine,
    "plumbum": local["sh"]("-c", "echo $VM_MACHINE_NAME $PROJECT").strip(), "cwd": os.getcwd(),
}))
"""


@pytest.mark.parametrize("name", ["hop.py", "hop.xsh"])
def test_use_in_a_script_leaves_nothing_of_the_old_machine(
    vm: Vm, other: Vm, tmp_path: Path, name: str
) -> None:
    late = "import os; os.environ['VM_LATE'] = 'late'" if name.endswith("py") else "$VM_LATE = 'late'"
    path = tmp_path / name
    path.write_text(f"local['true']()\n{late}\nuse({str(other.directory)!r})\n{SEEN}")
    result = vm.qvm("sh", path, env={"PROJECT": "from outside", "VM_OUTSIDE": "kept"})
    assert result.status == 0, str(result)
    seen = json.loads(result.out)
    wanted = {
        "VM_KERNEL_PATH": None, "VM_MACHINE_MEM": "64", "VM_MACHINE_NAME": "other", "VM_NEW": "new",
        "PROJECT": "from outside", "OLD_ONLY": None, "VM_LATE": None, "VM_HOME": str(other.directory),
        "QVM_CONTEXT": str(other.directory), "VM_SSH_OPTIONS": "", "PWD": str(other.directory),
    }  # fmt: skip
    assert seen["own"] == wanted
    assert seen["child"] == wanted
    assert seen["old"] == []
    assert (seen["vm"], seen["settings"], seen["state"]) == (str(other.directory), "other", "other")
    assert (seen["plumbum"], seen["cwd"]) == ("other from outside", str(other.directory))


def test_use_there_and_back_gives_the_first_environment_again(vm: Vm, other: Vm) -> None:
    code = (
        f"env | grep -v -e ^_= -e ^OLDPWD | sort > {vm.world.home}/one\n"
        f"use {other.directory}\nenv | grep -c alpha || true\nuse ../demo\n"
        f"env | grep -v -e ^_= -e ^OLDPWD | sort > {vm.world.home}/two\n"
    )
    result = vm.qvm("sh", stdin=code)
    assert (result.status, result.out) == (0, "0\n"), str(result)
    assert (vm.world.home / "one").read_text() == (vm.world.home / "two").read_text()


def test_use_takes_known_names_and_refuses_others(vm: Vm, other: Vm) -> None:
    other.ok("start", "--no-wait")  # from now on it is known by its name
    other.kill()
    code = f"use other\nprint(vm.name)\nuse {vm.directory}\nuse nosuch || echo $VM_MACHINE_NAME\npwd"
    result = vm.qvm("sh", stdin=code)
    assert result.out == f"other\ndemo\n{vm.directory}\n", str(result)
    assert "no machine is known as 'nosuch'" in result.err
    bad = vm.world.home / "bad"
    write_vmrc(bad, "bad", VM_MACHINE_MEM="lots")
    code = "".join(
        f"use {where} || echo stays\nprint(vm.name, settings.VM_KERNEL_PATH, $VM_MACHINE_MEM)\npwd\n"
        for where in (bad, vm.world.home, "/nosuch")
    )
    code += (
        "from qvmsh import errors\ntry:\n    use('nosuch')\nexcept errors.UsageError as e: print(e.status)"
    )
    result = vm.qvm("sh", stdin=code)
    assert result.out == f"stays\ndemo old/vmlinuz 97\n{vm.directory}\n" * 3 + "2\n", str(result)


def test_use_outside_of_a_session_says_what_to_do(vm: Vm, other: Vm) -> None:
    result = vm.qvm("use", other.directory)
    assert result.status == 2
    assert f"hint: `qvm -C {other.directory} sh` opens one there" in result.err


def test_hint_in_a_session_names_a_machine_that_is_not_its_own(vm: Vm, other: Vm) -> None:
    for line, says in (
        ("pause", "`qvm start` starts it"),
        (f"pause {other.directory}", "`qvm start other` starts it"),
        (f"use {other.directory} && pause", "`qvm start` starts it"),
        (f"use {other.directory} && pause {vm.directory}", "`qvm start demo` starts it"),
    ):
        assert f"hint: {says}\n" in vm.qvm("sh", "-c", line).err, line


def test_use_where_the_session_has_no_machine_gives_it_one(vm: Vm) -> None:
    code = f"print(bool(vm))\nuse {vm.directory}\nprint(vm.name, $VM_KERNEL_PATH)\nstatus -s || vm status -s"
    result = vm.world.run("sh", stdin=code)
    assert result.out == "False\ndemo old/vmlinuz\ndemo: stopped\ndemo: stopped\n", str(result)


def test_session_in_a_session_drops_the_outer_machines_values(vm: Vm, other: Vm) -> None:
    code = f"{QVM} -C {other.directory} sh --shell -c env"
    result = vm.qvm("sh", stdin=code)
    assert "VM_MACHINE_NAME=other\n" in result.out
    assert "VM_KERNEL_PATH" not in result.out
    assert "alpha" not in result.out, str(result)


@pytest.mark.parametrize("ui", ["xonsh", LONG_PTPYTHON, "python"])
def test_use_at_the_prompt_and_cd_that_changes_nothing(vm: Vm, other: Vm, ui: str) -> None:
    with screen_of(vm.world, vm.directory, "--ui", ui) as screen:
        screen.ready()
        if ui == "python":
            screen.run(f"import os; os.chdir({str(other.directory)!r})")
        else:
            screen.run(f"cd {other.directory}")
        assert (screen.prompts()[-1]["name"], screen.prompts()[-1]["cwd"]) == ("demo", "~/other")
        assert screen.run("vm.name, settings.VM_MACHINE_MEM") == "('demo', 97)"
        screen.run(f"use({str(other.directory)!r}).machine" if ui == "python" else f"use {other.directory}")
        assert (screen.prompts()[-1]["name"], screen.prompts()[-1]["cwd"]) == ("other", None)
        assert screen.run("vm.name, settings.VM_MACHINE_MEM") == "('other', 64)"
        assert screen.run("status().machine") == "'other'"
        if ui != "python":
            assert screen.run("env | grep -e ^VM_MACHINE_NAME -e alpha") == "VM_MACHINE_NAME=other"
            assert "in " + str(other.directory) in screen.run("vm | head -1").replace("\n", "")
            assert screen.run("vm").startswith("other in ")  # the word, though `vm` is another object now
            assert screen.run("status -s") == "other: stopped"


# .qvmrc.xsh

CODE = """aliases['hey'] = 'echo hey from', 'rc'
aliases['hey'] = 'echo hey from rc'
$TOKEN = 'rc token'
$EDITOR = 'rc editor'
mine = vm.name
def twice(x):
    return 2 * x
echo loaded
"""


@pytest.fixture
def code(vm: Vm) -> Path:
    path = vm.directory / ".qvmrc.xsh"
    path.write_text(CODE)
    return path


@pytest.mark.parametrize("ui", ["xonsh", LONG_PTPYTHON])
def test_code_of_the_directory_is_loaded_only_once_it_is_allowed(vm: Vm, code: Path, ui: str) -> None:
    with screen_of(vm.world, vm.directory, "--ui", ui) as screen:
        screen.ready()
        assert f"qvm: {code} is not loaded: you have not allowed its content" in screen.text.replace("\n", "")
        assert "hint: look at it, then `allow` loads it" in screen.text
        assert "command not found" in screen.run("hey")
        screen.begin("allow")
        screen.wait("^loaded$")  # at once, without a new session
        screen.ready()
        assert screen.run("hey") == "hey from rc"
        assert screen.run("env | grep ^TOKEN") == "TOKEN=rc token"
        assert screen.run("mine, twice(4)") == "('demo', 8)"
        assert screen.text.count("is not loaded") == 1
    with screen_of(vm.world, vm.directory, "--ui", ui) as screen:
        screen.ready()
        assert screen.run("hey") == "hey from rc"
        assert "not loaded" not in screen.text
    code.write_text(CODE + "echo changed\n")
    with screen_of(vm.world, vm.directory, "--ui", ui) as screen:
        screen.ready()
        assert "is not loaded" in screen.text
        assert "^changed" not in screen.text
        assert "command not found" in screen.run("hey")
        vm.ok("allow")  # in another terminal
        screen.run("echo x")
        assert screen.run("hey") == "hey from rc"


def test_allowed_content_is_for_its_place_only(vm: Vm, other: Vm, code: Path) -> None:
    vm.ok("allow")
    shutil.copy(code, other.directory / code.name)
    with screen_of(vm.world, other.directory) as screen:
        screen.ready()
        assert "is not loaded" in screen.text
        assert "command not found" in screen.run("hey")


def test_use_loads_the_new_machines_code_and_undoes_the_old(vm: Vm, other: Vm, code: Path) -> None:
    vm.ok("allow")
    (other.directory / code.name).write_text("aliases['hey'] = 'echo other rc'\n$OTHER_TOKEN = 'x'\n")
    other.ok("allow")
    with screen_of(vm.world, vm.directory, env={"EDITOR": "mine"}) as screen:
        screen.ready()
        assert screen.run("hey; echo $EDITOR") == "hey from rc\nrc editor"
        screen.run("later = twice(5)")
        screen.run(f"use {other.directory}")
        assert screen.run("hey") == "other rc"
        assert screen.run("env | grep TOKEN") == "OTHER_TOKEN=x"
        assert screen.run("echo $EDITOR; printenv EDITOR") == "mine\nmine"
        assert "not defined" in screen.run("print(mine)") or "not found" in screen.output()
        assert screen.run("later") == "10"
        screen.run(f"use {vm.directory}")
        assert "loaded" in screen.text
        assert screen.run("hey; printenv TOKEN; printenv OTHER_TOKEN") == "hey from rc\nrc token"


def test_broken_code_of_the_directory_leaves_a_working_session(vm: Vm, code: Path) -> None:
    code.write_text("x = 1\n1/0\n")
    vm.ok("allow")
    with screen_of(vm.world, vm.directory) as screen:
        screen.ready()
        assert f'File "{code}", line 2' in screen.text.replace("\n", "")
        assert "ZeroDivisionError" in screen.text
        assert screen.run("status -s") == "demo: stopped"


def test_code_of_the_directory_is_not_loaded_by_scripts(vm: Vm, code: Path) -> None:
    vm.ok("allow")
    assert vm.qvm("sh", stdin="echo ok").out == "ok\n"
    with screen_of(vm.world, vm.directory, "--ui", "python") as screen:
        screen.ready()
        assert "NameError" in screen.run("twice(4)")


def test_allow_reports_what_it_accepted(vm: Vm, code: Path, world: World) -> None:
    vmrc = vm.directory / ".vmrc"
    first, second = vm.ok("allow").out.splitlines()
    assert first.startswith(f"accepted {vmrc} with its current content (")
    assert second.startswith(f"accepted {code} with its current content (")
    assert list(json.loads(vm.ok("--json", "allow").out)["files"]) == [str(vmrc), str(code)]
    note = world.home / ".local/share/qvm/allowed"
    assert note.stat().st_mode & 0o777 == 0o600
    assert len(note.read_text().splitlines()) == 2
    code.unlink()
    assert str(code) not in vm.ok("allow").out
