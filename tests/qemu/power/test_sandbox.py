"""What stands around QEMU: its sandbox, its name, its limits (real QEMU)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.programs import process_status
from tests.support.world import Blank, Vm


def test_start_qemu_is_in_a_sandbox(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    assert process_status(vm.pid, "Seccomp") == "2"  # a filter. Source: proc(5)
    assert vm.command_line.count("-sandbox") == 1


def test_sandboxed_qemu_saves_its_state_and_does_all_verbs(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait", "--disposable")
    vm.ok("kill")
    vm.ok("start", "--no-wait")
    vm.ok("stop", "--savevm", "here", "--no-suspend")
    vm.ok("start", "--no-wait", "--loadvm", "here")
    assert process_status(vm.pid, "Seccomp") == "2"
    assert "here" in vm.ok("cmd", "info", "snapshots").out
    vm.qvm("cmd", 'migrate -d "exec:cat > state"')  # a program of the user's own: spawn is not denied
    while "Migration status: completed" not in (output := vm.ok("cmd", "info", "migrate").out):
        assert "failed" not in output
    assert (vm.directory / "state").stat().st_size > 0


def test_start_users_own_sandbox_wins(blank: Blank) -> None:
    vm = blank()
    for more, filtered in (
        ("VM_QEMU_SANDBOX=off", False),
        ("VM_QEMU_EXTRA=-sandbox off", False),
        ("VM_QEMU_EXTRA=-sandbox on,spawn=deny", True),
        ("VM_QEMU_SANDBOX=on,elevateprivileges=deny,resourcecontrol=deny", True),
    ):
        vm.ok("--set", more, "start", "--no-wait")
        assert process_status(vm.pid, "Seccomp") == ("2" if filtered else "0"), more
        assert vm.command_line.count("-sandbox") == (0 if more == "VM_QEMU_SANDBOX=off" else 1), more
        vm.ok("kill")


def without_sandbox(vm: Vm) -> Path:
    """A QEMU that was built without seccomp: it prints QEMU's error, else it is the real one."""
    path = vm.directory / "qemu"
    path.write_text(
        '#!/bin/sh\nfor w in "$@"; do [ "$w" != -sandbox ] || {\n'
        'echo "qemu-system-x86_64: -sandbox on: -sandbox support is not enabled in this QEMU binary" >&2\n'
        f'exit 1; }}; done\nexec {shutil.which("qemu-system-x86_64")} "$@"\n'
    )
    path.chmod(0o755)
    return path


def test_start_qemu_that_has_no_sandbox_runs_without(blank: Blank) -> None:
    vm = blank()
    without_sandbox(vm)
    vm.set(VM_QEMU_BIN="./qemu", VM_PRE_START='sh -c "echo again >> count"')
    vm.ok("start", "--no-wait")
    assert process_status(vm.pid, "Seccomp") == "0"
    assert (vm.directory / "count").read_text() == "again\n"
    vm.ok("kill")
    assert "-sandbox" not in vm.ok("dryrun").out
    vm.set(VM_QEMU_SANDBOX="on")  # a request for it succeeds, or fails with a message
    result = vm.qvm("start", "--no-wait")
    assert result.status == 1
    assert "-sandbox support is not enabled" in result.err


def test_start_process_is_named_after_the_machine_and_found(blank: Blank) -> None:
    vm = blank("a-machine-of-a-long-name")
    vm.ok("start", "--no-wait")
    assert Path(f"/proc/{vm.pid}/comm").read_text() == "qvm-a-machine-o\n"  # the kernel keeps 15 bytes
    assert vm.ok("cmd", "info", "name").out == "a-machine-of-a-long-name\n"
    assert vm.ok("status", "-s").out.startswith("a-machine-of-a-long-name: running")
    uuid = (vm.directory / ".qvm/uuid").read_text()
    assert vm.ok("cmd", "info", "uuid").out == uuid
    vm.ok("kill")
    vm.ok("start", "--no-wait")
    assert vm.ok("cmd", "info", "uuid").out == uuid


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="this host has a systemd that holds limits")
def test_start_limit_that_is_not_enforced_warns_each_time(blank: Blank) -> None:
    vm = blank(VM_LIMIT_MEM="512", VM_LIMIT_CPUS="1.5")
    result = vm.ok("start", "--no-wait")
    output = (
        "cannot enforce VM_LIMIT_MEM and VM_LIMIT_CPUS here, the machine runs without: this host is not run"
    )
    assert result.err.count(output) == 1
    assert vm.ok("config", "VM_LIMIT_CPUS").out == "1.5\n"


@pytest.mark.skipif(not Path("/run/systemd/system").is_dir(), reason="no systemd runs this host")
def test_start_limit_is_held_by_a_scope(blank: Blank) -> None:
    vm = blank(VM_LIMIT_MEM="512", VM_LIMIT_CPUS="1.5")
    vm.ok("start", "--no-wait")
    assert "qvm-demo-" in Path(f"/proc/{vm.pid}/cgroup").read_text()


def test_start_limit_below_the_guests_memory_is_refused(blank: Blank) -> None:
    result = blank(VM_LIMIT_MEM="64").qvm("start", "--no-wait")
    assert result.status == 2
    assert "VM_LIMIT_MEM=64 is too small for a guest of 64 MiB" in result.err
