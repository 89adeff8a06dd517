"""What a user does wrong in a script is reported as such, on the script's line, and never as a bug in qvm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.world import Result, Vm, World, write_vmrc


@pytest.fixture(scope="module")
def vm(module_world: World) -> Vm:
    directory = module_world.home / "demo"
    write_vmrc(directory)
    return Vm(module_world, directory)


def ran(vm: Vm, tmp_path: Path, text: str, name: str = "mine.py") -> Result:
    path = tmp_path / name
    path.write_text(text)
    result = vm.qvm("sh", path)
    assert "bug in qvm" not in result.err, str(result)
    assert "/qvmsh/" not in result.err, str(result)
    return result


@pytest.mark.parametrize("name", ["words", "words.py"])
def test_script_of_bare_words_begins_nothing(vm: Vm, tmp_path: Path, name: str) -> None:
    result = ran(
        vm, tmp_path, "#!/usr/bin/env -S qvm sh\nopen('begun', 'w')\nstop\nif status: pass\nvm.start\n", name
    )
    where = tmp_path / name
    output = (
        "qvm: the script names commands without calling them; nothing was run\n"
        f"  {where}:3: stop (did you mean stop()?)\n"
        f"  {where}:4: status (did you mean status()?)\n"
        f"  {where}:5: vm.start (did you mean vm.start()?)\n"
    )
    if name == "words":
        output += "hint: the file was read as Python; shell lines belong in a file named .xsh, "
        output += "or call it with `qvm sh --xonsh`\n"
    assert (result.status, result.out, result.err) == (1, "", output)
    assert not (vm.directory / "begun").exists()


def test_truth_of_a_command_is_an_error(vm: Vm, tmp_path: Path) -> None:
    for text in (
        "x = bool(eval('status'))",
        "print(any([stop]))",
        "x = [start]\nif x[0]: pass",
        "bool(disk)",
    ):
        result = ran(vm, tmp_path, text)
        assert result.status == 1
        assert "neither true nor false" in result.err.splitlines()[-1]
        assert f'File "{tmp_path}/mine.py", line {text.count(chr(10)) + 1}' in result.err
    assert vm.ok("sh", "-c", "stop?\nprint('ok')").out.endswith("ok\n")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("ssh(['ls', '-l'])", "TypeError: ssh(): words must be strings, not a list: ssh(*words)"),
        ("ssh(5)", "TypeError: ssh(): each of words must be a string, not int"),
        ("vm.ssh('kill', 5)", "TypeError: ssh(): each of words must be a string, not int"),
        ("cmd(5)", "TypeError: cmd(): each of line must be a string, not int"),
        ("run(1)", "TypeError: run(): each of arguments must be a string, not int"),
        ("vm.qmp(5)", "TypeError: qmp(): each of words must be a string, not int"),
        ("disk.resize('disk0', 5)", "TypeError: disk.resize(): size must be a string, not int"),
        ("disk.resize(disk='disk0', size=5)", "TypeError: disk.resize(): size must be a string, not int"),
        ("vm.disk_rebase(None)", "TypeError: disk.rebase(): disk must be a string, not None"),
        ("snapshot.save(5)", "TypeError: snapshot.save(): name must be a string, not int"),
        ("start(loadvm=5)", "TypeError: start(): loadvm must be a string, not int"),
        ("start(wait='no')", "TypeError: start(): wait must be True or False, not 'no'"),
        ("stop(timeout='2')", "TypeError: stop(): timeout must be a number, not '2'"),
        ("archive(keep=1.5)", "TypeError: archive(): keep must be a whole number, not float"),
        ("logs(lines=True)", "TypeError: logs(): lines must be a whole number, not bool"),
        ("start(1)", "TypeError: start(): too many positional arguments"),
        ("vm.start(nosuch=1)", "TypeError: start() got an unexpected keyword argument 'nosuch'"),
        ("use(5)", "TypeError: use(): where must be a string, not int"),
        ("create(b'x')", "TypeError: create(): name must be a string, not bytes"),
        ("settings.TYPO", "AttributeError: TYPO is not set"),
        ("settings.VM_FM", "AttributeError: VM_FM is not set. Did you mean: 'VM_FMT'?"),
        ("vm.settings.TYPO", "AttributeError: TYPO is not set"),
        ("settings['TYPO']", "KeyError: 'TYPO'"),
        ("vm.stat()", "AttributeError: 'Machine' object has no attribute 'stat'. Did you mean: 'start'?"),
        ("disk.nosuch()", "AttributeError: disk: no command 'nosuch', only add, check, commit, "),
        ("__import__('qvmsh').Machine.open(5)", "TypeError: expected str, bytes or os.PathLike object, "),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("def f():\n    status(ssh_check=False)\n    f()\nf()", "RecursionError: "),
        ("def f():\n    vm.status(ssh_check=False)\n    f()\nf()", "RecursionError: "),
    ],
)  # fmt: skip
def test_wrong_call_is_reported_on_its_line(vm: Vm, tmp_path: Path, call: str, expected: str) -> None:
    for name in ("mine.py", "mine.xsh")[: 2 if "settings" in call or "(5)" in call else 1]:
        result = ran(vm, tmp_path, f"x = 1\n{call}\n", name)
        assert (result.status, result.out) == (1, "")
        assert result.err.splitlines()[-1].startswith(expected), str(result)
        assert f'File "{tmp_path}/{name}", line {2 + call.count(chr(10))}, in <module>' in result.err


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("settings.VM_MACHINE_MEM = 512", "VM_MACHINE_MEM", "512"),
        ("settings['VM_MACHINE_MEM'] = '512'", "VM_MACHINE_MEM", "512"),
        ("vm.settings.VM_MACHINE_MEM = 512", "VM_MACHINE_MEM", "512"),
        ("vm.settings['VM_MACHINE_MEM'] = 512", "VM_MACHINE_MEM", "512"),
        ("settings.VM_X = True", "VM_X", "yes"),
        ("settings.VM_MACHINE_MEM += 1", "VM_MACHINE_MEM", "65"),
        ("setattr(settings, 'VM_X', 1)", "VM_X", "1"),
    ],
)
def test_setting_assigned_is_refused_with_a_hint(
    vm: Vm, tmp_path: Path, line: str, name: str, value: str
) -> None:
    result = ran(vm, tmp_path, line)
    assert result.status == 2
    assert result.err.splitlines()[-2:] == [
        f"qvm: settings.{name} cannot be assigned: settings are read from the files",
        f"hint: `config('{name}={value}')` writes it to the .vmrc; `qvm --set {name}={value} ...` sets it "
        "for one call",
    ]


def test_paths_may_be_path_objects(vm: Vm, tmp_path: Path) -> None:
    other = vm.directory.parent / "other"
    write_vmrc(other, "other", VM_MACHINE_ID="34")
    text = f"""
from pathlib import Path
from qvmsh import Machine
disk.add(Path("a.qcow2"), "1M")
vm.disk_add(Path("b.qcow2"), size="1M")
Machine.open(Path(".")).disk_add(file=Path("c.qcow2"), size="1M")
print(len(Machine.open(Path(".")).settings.VM_DISKS))
use(Path({str(other)!r}))
print(vm.name)
"""
    assert ran(vm, tmp_path, text).out == "3\nother\n"
    vm.ok("config", "VM_DISKS=")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("import sys; sys.stdout.close(); status()", 0),
        ("import sys; sys.stdout = None; print(1); status()", 0),
        ("import sys; sys.stdin.close(); sys.stderr.close(); status()", 0),
        ("import sys; sys.stdout.close(); print(1)", 1),
        ("import sys; sys.stdout.close(); stop()", 3),
        ("import os; os.close(1); status()", 0),
    ],
)
def test_closed_streams_are_the_scripts_own_affair(vm: Vm, tmp_path: Path, text: str, status: int) -> None:
    for name in ("mine.py", "mine.xsh"):
        assert ran(vm, tmp_path, text, name).status == status


def test_excepthook_of_the_script_is_called(vm: Vm, tmp_path: Path) -> None:
    hook = "import sys\nsys.excepthook = lambda kind, error, trace: print('mine', kind.__name__, error)\n"
    for name in ("mine.py", "mine.xsh"):
        for line, output, status in (
            ("1/0", "ZeroDivisionError division by zero", 1),
            ("stop()", "StateError demo: ", 3),
        ):
            result = ran(vm, tmp_path, hook + line, name)
            assert (result.status, result.err) == (status, ""), str(result)
            assert result.out.startswith(f"mine {output}")


def test_byte_order_mark_is_not_part_of_a_script(vm: Vm, tmp_path: Path) -> None:
    for name in ("mine.py", "mine.xsh"):
        assert ran(vm, tmp_path, "\ufeffprint('ok')\n", name).out == "ok\n"
    assert vm.ok("sh", stdin="\ufeffecho ok\n").out == "ok\n"


def test_words_in_single_quotes_arrive_as_they_are(vm: Vm, tmp_path: Path) -> None:
    text = r"""
config 'VM_A=$HOME "x" \n'
vm config VM_B='$HOME b' | cat
config 'VM_C=it\'s $HOME' && config '''VM_D=$HOME
two'''
for n in range(1):
    config "VM_E=$QVM_TEST_MARK" VM_F=$QVM_TEST_MARK
for each in 'ABCDEF':
    print(settings['VM_' + each])
x = $(config 'VM_A')
print(x)
echo '$QVM_TEST_MARK'
"""
    mark = vm.world.mark
    shown = f'$HOME "x" \\n\n$HOME b\nit\'s $HOME\n$HOME\ntwo\n{mark}\n{mark}\n$HOME "x" \\n\n{mark}\n'
    result = ran(vm, tmp_path, text, "mine.xsh")
    assert result.out == shown, str(result)
    assert vm.ok("sh", "-c", text).out == shown
    vm.ok("config", *(f"VM_{each}=" for each in "ABCDEF"))
