"""Launching: ports, logs, names, the foreground on a terminal (real QEMU)."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pexpect
import pytest

from qvmsh.host import sockets
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.power import launch
from qvmsh.machine.power.request import Launch, Request
from tests.support.world import DEADLINE_S, QVM, Blank, World


def test_launch_automatic_port_just_taken_is_chosen_again(
    blank: Blank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the choice of a port and QEMU's own bind, another program may take it."""
    vm = blank()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        offered = iter([taken, taken])
        begun: list[launch.Qemu] = []
        machine = BaseMachine(vm.directory, environ=vm.world.environ)
        free_port = sockets.free_port
        monkeypatch.setattr(sockets, "free_port", lambda: next(offered, None) or free_port())
        qemu = launch.launch(machine, Launch(Request()), begun)
    assert qemu.note.ssh_port not in (0, taken)
    vm.ok("status", "-s")
    vm.ok("kill")
    qemu.child.wait()


def test_start_stop_write_the_log_in_its_date_format(blank: Blank) -> None:
    vm = blank(VM_LOG="qvm.log", VM_ERRLOG="errors.log", VM_DATEFMT="%Y-%m-%dT%H:%M")
    vm.ok("-q", "start", "--no-wait")
    vm.ok("-q", "kill")
    vm.qvm("--set", "VM_QEMU_EXTRA=-device nothing", "start")
    stamp = r"^\d{4}-\d\d-\d\dT\d\d:\d\d demo: "
    lines = (vm.directory / "qvm.log").read_text().splitlines()
    assert [re.sub(stamp, "", line).split(",")[0].split(" by")[0] for line in lines] == ["started", "killed"]
    assert all(re.match(stamp, line) for line in lines)
    assert "QEMU exited immediately" in (vm.directory / "errors.log").read_text()


def test_name_of_a_started_machine_is_known_from_anywhere(blank: Blank) -> None:
    vm = blank("lonely", where="deep")
    vm.ok("start", "--no-wait")
    vm.ok("kill")
    assert vm.world.run("-M", "lonely", "status", cwd=Path("/")).out == "lonely: stopped\n"
    assert vm.world.run("status", "lonely", cwd=Path("/")).out == "lonely: stopped\n"
    unknown = vm.world.run("-M", "nobody", "status", cwd=Path("/"))
    assert unknown.status == 2
    assert "hint: known: lonely" in unknown.err


def test_run_on_a_terminal_gives_it_to_qemu(blank: Blank) -> None:
    """Without a desktop the monitor is on the terminal: Ctrl-A C shows it, Ctrl-A X quits."""
    vm = blank()
    child = pexpect.spawn(QVM, ["run"], cwd=str(vm.directory), env=vm.world.environ, timeout=DEADLINE_S)
    try:
        while not vm.qvm("status", "-s").out.startswith("demo: running"):
            assert child.isalive()
        child.send("\x01c")
        child.expect_exact("(qemu)")
        child.sendline("info name")
        child.expect_exact("demo")
        child.send("\x01c\x01x")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
    finally:
        child.close(force=True)
    assert vm.qvm("status").out == "demo: stopped\n"


def test_run_words_for_qemu_reach_it_untouched(blank: Blank) -> None:
    vm = blank()
    running = vm.world.popen("run", "-b", "-S", "-fw_cfg", "name=opt/x,string=a b", cwd=vm.directory)
    while "paused" not in vm.qvm("status", "-s").out:
        assert running.poll() is None
    argv = Path(f"/proc/{vm.pid}/cmdline").read_bytes().decode().split("\0")
    assert argv[-4:-1] == ["-S", "-fw_cfg", "name=opt/x,string=a b"]
    assert any("demo-base.qcow2" in word for word in argv)
    vm.ok("kill")
    assert running.wait(DEADLINE_S) == 0
    running.communicate()


def test_run_base_only_with_data_above_it_is_refused(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    vm.ok("cmd", "savevm", "x")
    vm.ok("kill")
    for verb in ("run", "start"):
        result = vm.qvm(verb, "--base-only")
        assert result.status == 1
        assert "demo-backing.qcow2 holds data that depends on the base" in result.err
    vm.ok("start", "--no-wait", "--base-only", "--disposable")


def test_use_snapshots_no_runs_one_image_and_refuses_layers(blank: Blank, world: World) -> None:
    vm = blank("flat", VM_USE_SNAPSHOTS="no", has_images=False)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "flat.qcow2", "1M"], cwd=vm.directory, check=True
    )
    vm.ok("start", "--no-wait")
    assert "flat.qcow2" in vm.ok("cmd", "info", "block", "disk0").out
    vm.ok("kill")
    for words in (["init"], ["start", "--base-only"], ["run", "-b"]):
        result = vm.qvm(*words)
        assert result.status == 2
        assert "VM_USE_SNAPSHOTS=no" in result.err
    assert sorted(path.name for path in vm.directory.glob("*.qcow2")) == ["flat.qcow2"]


def test_dryrun_output_can_be_pasted(blank: Blank) -> None:
    vm = blank(where="odd, name")
    shown = vm.ok("dryrun", "-S").out
    assert shown.count(" \\\n") > 10
    child = subprocess.Popen(["bash", "-c", f"exec {shown}"], cwd=vm.directory, env=vm.world.environ)
    try:
        while not (vm.directory / ".qvm/qemu.pid").exists():
            assert child.poll() is None
    finally:
        child.terminate()
        child.wait()
        for path in vm.world.runtime.rglob("*"):
            if path.is_socket():
                path.unlink()
