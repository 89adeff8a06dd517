"""Started by root, QEMU runs as VM_MACHINE_OWNER; both use the same machine (real QEMU, a real account)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.owner import Owner
from tests.support.programs import process_status
from tests.support.world import DEADLINE_S, Blank, Vm

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a machine of another account")


def test_start_as_root_qemu_is_the_owners_from_its_first_moment(
    theirs: Callable[..., Vm], owner: Owner
) -> None:
    vm = theirs(VM_LOG="demo.log", VM_NET_MODEL="virtio")
    result = vm.ok("start", "--no-wait")
    assert f"(pid {vm.pid}, " in result.out
    status = Path(f"/proc/{vm.pid}/status").read_text()
    assert set(process_status(vm.pid, "Uid").split()) == {str(owner.row.pw_uid)}
    assert re.search(rf"^Gid:\s*{owner.row.pw_gid}\s", status, re.MULTILINE)
    assert re.search(rf"^Groups:\s*{owner.row.pw_gid}\s*$", status, re.MULTILINE)
    assert "CapEff:\t0000000000000000" in status
    mine = [path for path in (vm.directory / ".qvm").rglob("*") if path.stat().st_uid != owner.row.pw_uid]
    assert not mine
    assert (vm.directory / ".vmrc").stat().st_uid == 0  # root still trusts it
    assert (vm.directory / "demo-seed.qcow2").stat().st_uid == 0
    assert (vm.directory / "demo-backing.qcow2").stat().st_uid == owner.row.pw_uid
    assert "started, pid" in (vm.directory / "demo.log").read_text()


def test_owner_and_root_see_and_end_the_same_machine(theirs: Callable[..., Vm], owner: Owner) -> None:
    vm = theirs()
    vm.ok("start", "--no-wait")
    seen = f"demo: running (pid {vm.pid})\n"
    assert vm.ok("status", "-s").out == owner.ok("status", "-s", cwd=vm.directory).out == seen
    assert (
        owner.ok("cmd", "info", "name", cwd=vm.directory).out == vm.ok("cmd", "info", "name").out == "demo\n"
    )
    assert vm.qvm("start").status == 3
    assert owner.ok("-M", "demo", "status", "-s", cwd=Path("/")).out == seen
    assert vm.world.run("-M", "demo", "status", "-s", cwd=Path("/")).out == seen
    owner.ok("stop", "--force", "--timeout", "0", cwd=vm.directory)
    assert vm.qvm("status").out == "demo: stopped\n"
    owner.ok("start", "--no-wait", cwd=vm.directory)
    vm.ok("stop", "--savevm", "x", "--no-suspend")
    vm.ok("start", "--no-wait", "--loadvm", "x")
    assert set(process_status(vm.pid, "Uid").split()) == {str(owner.row.pw_uid)}
    vm.ok("kill")
    owner.ok("start", "--no-wait", cwd=vm.directory)  # nothing of root's is in the way
    vm.ok("kill")


def test_run_as_root_is_the_owners_too(theirs: Callable[..., Vm], owner: Owner) -> None:
    vm = theirs()
    running = vm.world.popen("run", cwd=vm.directory)
    while not vm.qvm("status", "-s").out.startswith("demo: running"):
        assert running.poll() is None
    assert set(process_status(vm.pid, "Uid").split()) == {str(owner.row.pw_uid)}
    owner.ok("cmd", "quit", cwd=vm.directory)
    running.communicate()
    assert running.returncode == 0


def test_start_errors_of_the_owners_process_are_reported(theirs: Callable[..., Vm]) -> None:
    vm = theirs()
    result = vm.qvm("--set", "VM_QEMU_EXTRA=-device nothing", "start")
    assert result.status == 1
    assert "qvm: demo: QEMU exited immediately (exit status 1)" in result.err
    assert "'nothing' is not a valid device model name" in result.err
    assert result.err.count("hint: ") == 1
    assert vm.qvm("--json", "--set", "VM_QEMU_EXTRA=-device nothing", "start").out.count("LaunchError") == 1
    (vm.directory / "demo-backing.qcow2").unlink()
    assert "demo-backing.qcow2 is missing" in vm.qvm("start").err
    assert vm.qvm("status").out == "demo: stopped\n"


def test_start_interrupted_leaves_nothing_of_the_owners(theirs: Callable[..., Vm]) -> None:
    vm = theirs(VM_NET_MODEL="virtio")
    starting = vm.world.popen("start", cwd=vm.directory)
    while not vm.qvm("status", "-s").out.startswith(("demo: running", "demo: starting (pid")):
        assert starting.poll() is None
    starting.terminate()
    starting.communicate(timeout=DEADLINE_S)
    assert starting.returncode == 143
    assert vm.qvm("status").out == "demo: stopped\n"


def test_start_where_the_owner_cannot_go_is_refused(blank: Blank, owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    vm = blank(where=str(tmp_path / "closed/demo"), VM_MACHINE_OWNER=owner.name)
    result = vm.qvm("start", "--no-wait")
    assert result.status == 1
    assert f"the machine's owner, {owner.name}, cannot enter {vm.directory}: Permission denied" in result.err


def test_hooks_are_the_owners_programs_also_when_root_stops(theirs: Callable[..., Vm], owner: Owner) -> None:
    vm = theirs(VM_PRE_START='sh -c "id -un"', VM_POST_STOP='sh -c "id -un; echo $HOME"')
    vm.ok("start", "--no-wait")
    assert (vm.directory / ".qvm/log/pre-start.log").read_text() == f"{owner.name}\n"
    vm.ok("kill")
    log = vm.directory / ".qvm/log/post-stop.log"
    assert log.read_text() == f"{owner.name}\n{owner.row.pw_dir}\n"
    assert log.stat().st_uid == owner.row.pw_uid


def test_start_gives_away_nothing_but_what_is_the_machines(
    theirs: Callable[..., Vm], owner: Owner, tmp_path: Path
) -> None:
    """The owner may have put links where root expects files of the machine."""
    vm = theirs()
    secret, other = tmp_path / "secret", tmp_path / "other"
    secret.write_text("root's\n")
    other.write_text("root's\n")
    state = vm.directory / ".qvm"
    (state / "link").symlink_to(secret)
    (state / "hard").hardlink_to(other)
    base = vm.directory / "demo-base.qcow2"
    base.rename(tmp_path / "base")
    os.chown(tmp_path / "base", 0, 0)  # as if it were a file of root's that the owner leads to
    base.symlink_to(tmp_path / "base")
    vm.qvm("start", "--no-wait")
    assert {path.stat().st_uid for path in (secret, other, tmp_path / "base")} == {0}


def test_command_as_root_does_not_follow_a_link_for_state(theirs: Callable[..., Vm], owner: Owner) -> None:
    vm = theirs()
    state = vm.directory / ".qvm"
    shutil.rmtree(state)
    state.symlink_to("/etc")
    os.chown(state, owner.row.pw_uid, -1, follow_symlinks=False)
    result = vm.qvm("start", "--no-wait")
    assert result.status == 1
    assert f"{state}/log: Permission denied" in result.err
    assert not Path("/etc/log").exists()
    state.unlink()


def test_machine_of_root_stays_roots(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    assert set(process_status(vm.pid, "Uid").split()) == {"0"}
