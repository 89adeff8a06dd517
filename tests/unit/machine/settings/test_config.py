"""`config`, `env` and `allow` as functions, and through the one-shot door where text matters."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qvmsh.commands.config import config
from qvmsh.commands.env import env
from qvmsh.config import edit
from qvmsh.config.settings import CONTEXT_MARK
from qvmsh.errors import ConfigError, QvmError, UsageError
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.settings.config import Changed, CheckResult, Values
from tests.support.world import QVM, Blank, Vm, write_vmrc

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_vmrc(tmp_path / "demo")
    return tmp_path / "demo"


@pytest.fixture
def vm(directory: Path) -> BaseMachine:
    return machine(directory)


def machine(directory: Path, **environ: str) -> BaseMachine:
    home = str(directory.parent)
    return BaseMachine(directory, environ={"HOME": home, "VM_GLOBAL_CONFIG": "/dev/null"} | environ)


def add(directory: Path, text: str) -> None:
    with (directory / ".vmrc").open("a") as file:
        file.write(text)


def test_config_output_is_read_back_as_the_same_values(directory: Path, tmp_path: Path) -> None:
    add(directory, 'VM_QEMU_EXTRA=\'a "b" $c\'\nMINE="it\'s\n{x,y} \\$HOME"\nVM_FMT=raw\nVM_INCLUDE=more\n')
    (directory / "more").write_text("INNER=1\n")
    shown = config(machine(directory))
    other = tmp_path / "other"
    other.mkdir()
    (other / ".vmrc").write_text(f"{shown}\n")
    before, after = machine(directory).settings, machine(other).settings
    names = [name for name in before.names() if name != "VM_INCLUDE"]
    assert {name: after[name] for name in names} == {name: before[name] for name in names}
    assert "INNER=1" in str(shown).splitlines()


def test_config_name_gives_the_bare_value(vm: BaseMachine) -> None:
    assert str(config(vm, "VM_FMT")) == "qcow2"
    assert str(config(vm, "VM_FMT", "VM_MACHINE_ID")) == "VM_FMT=qcow2\nVM_MACHINE_ID=33"
    assert str(config(vm, "VM_LOG")) == ""


def test_config_explain_says_where_each_value_comes_from(directory: Path) -> None:
    add(directory, "\nVM_FMT=raw\n")
    shown = config(machine(directory, VM_QEMU_CPU="max"), explain=True)
    lines = {line.partition("=")[0]: line.partition("  # ")[2] for line in str(shown).splitlines()}
    assert lines["VM_FMT"] == f"{directory}/.vmrc:6"
    assert lines["VM_QEMU_CPU"] == "environment"
    assert lines["VM_DISK_BUS"] == "built-in"
    assert lines["# VM_SNAPSHOT_BASEFILENAME"] == "computed"
    assert isinstance(shown, Values)
    assert shown.as_json()["values"]["VM_FMT"] == {
        "value": "raw",
        "typed": "raw",
        "origin": {"layer": "vmrc", "file": f"{directory}/.vmrc", "line": 6, "column": 1},
    }


@pytest.mark.parametrize("name", ["VM_NETWORK", "VM_NOTHING", "VM_QEMU_ACEL"])
def test_config_name_without_a_value_is_an_error(vm: BaseMachine, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is not set") as caught:
        config(vm, name)
    assert ("VM_QEMU_ACCEL" in str(caught.value.hint)) == (name == "VM_QEMU_ACEL")


def test_config_check_lists_all_and_its_status_says_it(directory: Path) -> None:
    fine = config(machine(directory), check=True)
    assert isinstance(fine, CheckResult)
    assert fine
    assert fine.exit_status == 0
    assert str(fine).endswith(".vmrc: ok")
    add(directory, "VM_FMT=iso\nA=$(x)\nVM_NET_GUEST=x\n")
    wrong = config(machine(directory), check=True)
    assert isinstance(wrong, CheckResult)
    assert not wrong
    assert wrong.exit_status == 2
    assert [line.partition(": ")[2].split()[0] for line in str(wrong).splitlines()] == [
        "$(...)",
        "VM_FMT",
        f"{directory}/.vmrc:7:1:",
        "2",
    ]
    assert [problem["line"] for problem in wrong.as_json()["problems"]] == [6, 5]


def test_config_set_changes_one_value_and_keeps_every_other_byte(directory: Path) -> None:
    path = directory / ".vmrc"
    path.write_bytes(path.read_bytes() + b"# caf\xe9\nexport VM_FMT=raw # why\n\n\n")
    before = path.read_bytes()
    vm = machine(directory)
    assert vm.settings["VM_FMT"] == "raw"
    changed = config(vm, "VM_FMT=qcow2")
    assert isinstance(changed, Changed)
    assert str(changed) == ""
    assert path.read_bytes() == before.replace(b"VM_FMT=raw", b"VM_FMT=qcow2")
    assert vm.settings["VM_FMT"] == "qcow2"
    config(vm, "VM_MACHINE_MEM=2G", 'MINE=it\'s $5, "so" = x')
    assert vm.settings.VM_MACHINE_MEM == 2048
    assert vm.settings["MINE"] == 'it\'s $5, "so" = x'
    config(vm, "VM_MACHINE_MEM=")
    assert vm.settings.VM_MACHINE_MEM == 1024


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["VM_MACHINE_ID=7"], "nothing was changed: VM_MACHINE_ID is '7'"),
        (["VM_FMT=raw", "VM_MACHINE_MEM=lots"], "nothing was changed: VM_MACHINE_MEM is 'lots'"),
        (["VM_MACHINE_NAME="], "nothing was changed: VM_MACHINE_NAME is empty"),
        (["VM_NETWORK=br0"], "nothing was changed: VM_NETWORK needs bridges"),
        (["VM_SNAPSHOT_BASEFILENAME=x"], "VM_SNAPSHOT_BASEFILENAME is computed and cannot be set"),
        (["VM_HOME=/x"], "VM_HOME is determined before any file is read"),
        (["VM_QEMU_ACEL=kvm"], "VM_QEMU_ACEL is not a variable of qvm"),
        (["1x=2"], "'1x' is not a valid variable name"),
        (["UID=2"], "nothing was changed: UID is reserved by the shell"),
        (["VM_FMT=raw", "VM_FMT"], "cannot show and set"),
        (["VM_INCLUDE=nowhere"], "nothing was changed: VM_INCLUDE: "),
    ],
)
def test_config_set_wrong_value_changes_nothing(directory: Path, words: list[str], message: str) -> None:
    before = (directory / ".vmrc").read_bytes()
    with pytest.raises((ConfigError, UsageError), match=message):
        config(machine(directory), *words)
    assert (directory / ".vmrc").read_bytes() == before
    assert os.listdir(directory) == [".vmrc"]


def test_config_set_that_an_include_would_hide_is_refused(directory: Path) -> None:
    add(directory, "VM_FMT=raw\nVM_INCLUDE=more\n")
    (directory / "more").write_text("\nVM_FMT=vdi\n")
    with pytest.raises(ConfigError, match=r"more:2 would override the new value of VM_FMT"):
        config(machine(directory), "VM_FMT=qcow2")


def test_config_set_in_a_file_with_another_problem_works(directory: Path) -> None:
    add(directory, "VM_FMT=iso\nVM_MACHINE_ID=7\n")
    config(machine(directory), "VM_FMT=raw")
    config(machine(directory), "VM_MACHINE_ID=07")
    assert machine(directory).settings["VM_FMT"] == "raw"


def test_config_set_from_many_sides_at_once_loses_nothing(directory: Path) -> None:
    threads = [
        threading.Thread(target=config, args=(machine(directory), f"MINE_{number}={number}"))
        for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settings = machine(directory).settings
    assert [settings[f"MINE_{number}"] for number in range(12)] == [str(number) for number in range(12)]


def test_config_set_on_a_full_disk_leaves_the_old_file(directory: Path) -> None:
    program = (
        "import resource, sys; from qvmsh.machine.machine import BaseMachine;"
        "from qvmsh.commands.config import config; import signal;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "vm = BaseMachine(sys.argv[1], environ={'VM_GLOBAL_CONFIG': '/dev/null', 'HOME': '/'});"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); config(vm, 'VM_FMT=raw')"
    )
    before = (directory / ".vmrc").read_bytes()
    python = sys.executable
    done = subprocess.run([python, "-c", program, directory], capture_output=True, text=True)
    assert "cannot write" in done.stderr
    assert "did not change" in done.stderr or "QvmError" in done.stderr
    assert (directory / ".vmrc").read_bytes() == before
    assert os.listdir(directory) == [".vmrc"]


def test_env_sets_the_values_and_unsets_another_machines(directory: Path, tmp_path: Path) -> None:
    add(directory, "MINE='it'\\''s\n$x `y` \"z\"'\nVM_NET_GUEST=/a\nONLY_HERE=1\n")
    write_vmrc(tmp_path / "other", "other")
    first = env(machine(directory))
    inside = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | first.environment
    second = env(machine(tmp_path / "other", **inside))
    script = f"{first}\n{second}\n"
    script += 'printf "%s\\0" "${VM_NET_GUEST-gone}" "${ONLY_HERE-gone}" "$VM_MACHINE_NAME"\n'
    for shell in ("bash", "dash"):
        done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.split("\0")[:3] == ["gone", "gone", "other"]
        done = subprocess.run(
            [shell, "-c", f'{first}\nprintf "%s\\0" "$MINE" "${CONTEXT_MARK}"'],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split("\0")[:2] == ['it\'s\n$x `y` "z"', os.path.realpath(directory)]
    assert first.as_json() == {"environment": first.environment, "unset": []}


def test_env_of_a_broken_configuration_is_refused(directory: Path) -> None:
    add(directory, "VM_FMT=iso\n")
    with pytest.raises(ConfigError, match="VM_FMT"):
        env(machine(directory))


# through the door


@pytest.fixture
def box(blank: Blank) -> Vm:
    return blank(has_images=False)


def test_door_config_sets_shows_and_judges(box: Vm) -> None:
    assert box.ok("config", "VM_FMT=raw").out == ""
    assert box.ok("config", "VM_FMT").out == "raw\n"
    assert box.ok("--set", "VM_FMT=vdi", "config", "-e", "VM_FMT").out == "VM_FMT=vdi  # --set\n"
    refused = box.qvm("config", "VM_MACHINE_ID=7")
    assert refused.status == 2
    assert "hint: write VM_MACHINE_ID=07 instead" in refused.err
    box.set(VM_MACHINE_ID="7", VM_SSH_PORT="x")
    judged = box.qvm("config", "--check")
    assert judged.status == 2
    assert judged.out.splitlines()[0].startswith(".vmrc:6:1: VM_MACHINE_ID is '7'")
    assert judged.out.splitlines()[1].startswith(".vmrc:7:1: VM_SSH_PORT is 'x'")
    shown = box.qvm("config")
    assert shown.status == 2
    assert "VM_SSH_PORT=x" in shown.out
    assert ".vmrc:7:1: VM_SSH_PORT" in shown.err


def test_door_every_problem_stops_a_command_with_all_of_them(box: Vm) -> None:
    box.set(VM_FMT="iso", VM_NETWORK="br0")
    result = box.qvm("env")
    assert result.status == 2
    assert result.out == ""
    assert ".vmrc:5:1: VM_FMT is 'iso'" in result.err
    assert ".vmrc:6:1: VM_NETWORK needs bridges" in result.err


def test_door_bytes_that_are_not_utf8_are_kept(box: Vm) -> None:
    with (box.directory / ".vmrc").open("ab") as file:
        file.write(b"MINE='\xff\xfe'\n")
    done = subprocess.run(
        [QVM, "config", "MINE"],
        cwd=box.directory,
        env=box.world.environ | {"LC_ALL": "C.UTF-8"},
        capture_output=True,
    )
    assert (done.stdout, done.returncode) == (b"\xff\xfe\n", 0), done.stderr


def test_door_no_vmrc_and_vm_home_elsewhere_are_different_errors(box: Vm) -> None:
    below = box.directory / "below"
    below.mkdir()
    result = box.world.run("config", cwd=below)
    assert result.status == 2
    assert f"no .vmrc in {below}" in result.err
    assert f"hint: there is one above: `qvm -C {box.directory} ...`" in result.err
    write_vmrc(box.world.home / "other", "other")
    result = box.world.run("config", cwd=box.directory, env={"VM_HOME": str(box.world.home / "other")})
    assert result.status == 2
    assert "VM_HOME names another machine" in result.err


def test_changed_report_names_file_and_values(vm: BaseMachine) -> None:
    changed = config(vm, "MINE=1")
    assert changed.as_json() == {"file": f"{vm.directory}/.vmrc", "values": {"MINE": "1"}}


def test_config_set_in_a_folder_that_cannot_be_written_fails(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit, "unique", str)
    part = directory / "..vmrc.part"
    part.mkdir()
    with pytest.raises(QvmError, match=r"cannot write .*\.vmrc"):
        config(machine(directory), "VM_FMT=raw")


def test_config_check_asks_ssh_about_its_keywords(directory: Path) -> None:
    add(directory, "VM_SSH_OPTIONS='ServerAliveIntreval 60\nCompression=yes\n-o LogLevel=loud'\n")
    found = config(machine(directory), check=True)
    assert isinstance(found, CheckResult)
    assert [each.message for each in found.problems] == [
        "VM_SSH_OPTIONS: ssh does not take ServerAliveIntreval=60: Bad configuration option: "
        "serveraliveintreval",
        "VM_SSH_OPTIONS: ssh does not take LogLevel=loud: unsupported log level 'loud'",
    ]
    assert found.problems[0].hint == "did you mean serveraliveinterval?"
    assert found.problems[0].line == 5
