"""Looking at a machine runs nothing that its files name; another account's starts after `qvm allow` only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qvmsh.commands.index import COMMANDS
from tests.support.owner import Owner
from tests.support.world import Blank, Vm

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of several accounts")
NOBODY = 65534

LOOKING = [
    "config", "config --check", "config --explain", "env", "status", "list", "dryrun", "doctor", "disk list",
    "disk check", "snapshot list", "snapshot show x", "snapshot verify", "snapshot diff x", "archive --list",
    "archive --verify", "logs qvm", "img list", "session list", "completion bash", "sh -c pass", "sh -c echo",
    "--json config", "--json status", "--json disk list", "--json dryrun",
]  # fmt: skip
OTHER = ("allow", "config edit", "img build")
"""What accepts it, what opens the user's editor, and what needs no machine and takes minutes."""


class Trapped:
    """A machine in whose directory every program that its files name leaves a trace."""

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "demo"
        self.traces = folder / "ran"
        self.log = folder / "log"
        self.traces.touch()
        self.traces.chmod(0o666)
        self.directory.mkdir()
        self.evil = self.trap("evil")
        for name in ("bin/dircolors", "bin/echo", "bin/qemu-img", "info", "check", "json.py"):
            self.trap(name)
        self.write()
        for words in (
            ["demo-base.qcow2", "1M"],
            ["-b", "demo-base.qcow2", "-F", "qcow2", "demo-backing.qcow2"],
        ):
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", *words], cwd=self.directory, check=True
            )

    def trap(self, name: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "$0 $*" >> {self.traces}\nexit 1\n')
        if name.endswith(".py"):
            path.write_text(f"open({str(self.traces)!r}, 'a').write(__file__)\n")
        path.chmod(0o755)
        return path

    def write(self, **more: str) -> None:
        """The `.vmrc`, with `more` in place of these values."""
        values = {
            "VM_MACHINE_NAME": "demo", "VM_MACHINE_ID": "17", "VM_MACHINE_OWNER": "root",
            "VM_NET_MODEL": "none", "VM_QEMU_BIN": "./evil", "VM_QEMU_IMG": "./evil",
            "VM_SSH_OPTIONS": "-oProxyCommand=./evil", "VM_PRE_START": "./evil", "VM_POST_STOP": "./evil",
            "VM_LOG": str(self.log), "PATH": f"{self.directory}/bin:/usr/bin:/bin",
            "PYTHONPATH": str(self.directory), "PYTHONSTARTUP": "json.py",
        } | more  # fmt: skip
        (self.directory / ".vmrc").write_text("".join(f"{k}='{v}'\n" for k, v in values.items()))

    def give(self, uid: int) -> None:
        for path in (self.directory, *self.directory.rglob("*")):
            os.chown(path, uid, -1, follow_symlinks=False)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="qvmt-looking-"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made)


@as_root
@pytest.mark.parametrize("whose", ["own", "foreign"])
def test_look_at_a_directory_runs_nothing_of_it(folder: Path, owner: Owner, whose: str) -> None:
    trapped = Trapped(folder)
    is_own = whose == "own"
    trapped.give(owner.row.pw_uid if is_own else NOBODY)
    # in another account's directory that is for every command
    lines = LOOKING if is_own else [each for each in COMMANDS if each not in OTHER]

    def look(line: str) -> tuple[str, int, str]:
        done = owner.run(*line.split(), cwd=trapped.directory)
        return line, done.status, done.err

    with ThreadPoolExecutor(4) as pool:
        done = {line: (status, err) for line, status, err in pool.map(look, lines)}
    assert trapped.traces.read_text() == ""
    assert "Traceback" not in "".join(err for _, err in done.values())
    for line in ("config", "env", "disk list", "snapshot list", *(["dryrun"] if is_own else [])):
        assert done[line][0] == 0, (line, done[line])
    for line, name in (("dryrun", "VM_QEMU_BIN"), ("snapshot verify", "VM_QEMU_IMG")):
        if is_own or line == "dryrun":  # of another account, the folder .qvm cannot be made
            assert done[line][1].count(f"{name}=./evil is not run by read-only commands") == 1, line
            assert "qvm allow" in done[line][1]
    assert "until `qvm allow`: PATH, PYTHONPATH" in done["env"][1]
    if not is_own:
        assert not trapped.log.exists()
        for line in ("start", "run", "restart", "stop", "init", "disk resize disk0 1G", "archive"):
            result = owner.run(*line.split(), cwd=trapped.directory)
            assert result.status == 2, str(result)
            assert f"{trapped.directory} belongs to nobody, and you have not accepted" in result.err
            assert "qvm allow" in result.err


@as_root
@pytest.mark.parametrize("foreign", ["directory", ".vmrc", "include"])
def test_start_of_a_foreign_machine_needs_its_content_accepted(
    folder: Path,
    owner: Owner,
    foreign: str,
) -> None:
    trapped = Trapped(folder)
    hook = trapped.directory / "hook"
    hook.write_text(f"#!/bin/sh\necho hook >> {trapped.traces}\n")
    hook.chmod(0o755)
    more = trapped.directory / "more"
    more.write_text("VM_PRE_START=./hook\n")
    usual = {"VM_QEMU_BIN": "", "VM_QEMU_IMG": "", "VM_POST_STOP": "", "VM_MACHINE_OWNER": owner.name}
    trapped.write(**usual, VM_PRE_START="", VM_MACHINE_MEM="64", VM_INCLUDE="more")
    trapped.give(owner.row.pw_uid)
    path = {"directory": trapped.directory, ".vmrc": trapped.directory / ".vmrc", "include": more}[foreign]
    os.chown(path, NOBODY, -1)
    trapped.directory.chmod(0o777)
    try:
        refused = owner.run("start", "--no-wait", cwd=trapped.directory)
        assert refused.status == 2, str(refused)
        assert f"{path} belongs to nobody, and you have not accepted" in refused.err
        assert owner.run("ssh", "true", cwd=trapped.directory).status == 2
        assert trapped.traces.read_text() == ""
        owner.ok("allow", cwd=trapped.directory)
        owner.ok("start", "--no-wait", cwd=trapped.directory)
        assert trapped.traces.read_text() == "hook\n"
        owner.ok("stop", "--force", "--timeout", "0", cwd=trapped.directory)
        with path.open("a") if path.is_file() else more.open("a") as file:
            file.write("# changed\n")
        assert owner.run("start", "--no-wait", cwd=trapped.directory).status == 2
        assert trapped.traces.read_text() == "hook\n"
    finally:
        owner.run("kill", cwd=trapped.directory)


def wrapper(vm: Vm, name: str, program: str) -> Path:
    """A program of the machine's own that notes its calls and runs the real one."""
    path = vm.directory / name
    path.write_text(f'#!/bin/sh\necho called >> {vm.directory}/calls\nexec {shutil.which(program)} "$@"\n')
    path.chmod(0o755)
    return path


def test_start_of_an_own_machine_accepts_its_wrapper(blank: Blank) -> None:
    vm = blank()
    calls = vm.directory / "calls"
    wrapper(vm, "qemu", "qemu-system-x86_64")
    wrapper(vm, "img", "qemu-img")
    vm.set(VM_QEMU_BIN="./qemu", VM_QEMU_IMG="./img")
    looks = (["dryrun"], ["doctor"], ["disk", "check"], ["snapshot", "verify"])
    for words in looks:
        assert "is not run by read-only commands" in "".join(vm.qvm(*words).err + vm.qvm(*words).out)
    assert vm.ok("dryrun").out.startswith(f"{vm.directory}/./qemu ")  # what a start would run
    assert not calls.exists()
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    assert calls.exists()
    for words in looks:
        calls.unlink()
        result = vm.qvm(*words)
        assert "only look" not in result.err + result.out
        assert calls.exists() or words[0] == "dryrun"  # what it asks QEMU is kept
        calls.touch()
    vm.set(VM_LABELS="other")
    assert "VM_QEMU_BIN=./qemu is not run by read-only commands" in vm.ok("dryrun").err
    vm.ok("allow")
    assert vm.ok("dryrun").err == ""


def test_status_does_not_use_ssh_options_that_were_not_accepted(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    evil = vm.directory / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {vm.directory}/ran\n")
    evil.chmod(0o755)
    vm.set(VM_SSH_OPTIONS="-oProxyCommand=./evil")
    result = vm.ok("status")
    assert result.out.startswith("demo: running")
    assert "ssh is not tried" in result.err
    assert json.loads(vm.ok("status", "--json").out)["ssh"] is None
    vm.ok("allow")
    result = vm.qvm("status")
    assert "ssh does not answer" in result.out
    assert result.err == ""
    vm.ok("kill")
    assert not (vm.directory / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="others read what they like")
def test_status_of_a_vmrc_that_root_does_not_use_is_not_broken(blank: Blank) -> None:
    vm = blank(VM_READY="none")
    vm.ok("start")
    vmrc = vm.directory / ".vmrc"
    vmrc.chmod(0o666)
    told = vm.qvm("status")
    assert told.status == 1
    assert told.out.startswith(f"demo: running (pid {vm.pid}): root does not use {vmrc}: it is writable")
    assert "hint: read it, then accept it with `qvm allow`" in told.out + told.err
    vm.ok("allow")
    assert vm.ok("status").out == f"demo: running (pid {vm.pid})\n"
