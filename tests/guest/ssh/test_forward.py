"""`qvm forward` over ssh, and into a real guest by QEMU."""

from __future__ import annotations

import json
import socket
import subprocess

import pytest

from tests.support.programs import free_port
from tests.support.world import DEADLINE_S, Vm, wait_until

pytestmark = pytest.mark.guest


def greeting(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as line:
        return line.recv(4)


def test_forward_by_qemu_and_by_ssh_lead_into_the_guest(running: Vm) -> None:
    by_qemu, by_ssh = free_port(), free_port()
    running.ok("forward", "add", f"{by_qemu}:22")
    added = json.loads(running.ok("--json", "forward", "add", f"{by_ssh}:22", "--via", "ssh").out)
    assert [row["via"] for row in added["forwards"]] == ["ssh"]
    try:
        assert greeting(by_qemu) == greeting(by_ssh) == b"SSH-"
        rows = json.loads(running.ok("--json", "forward", "list").out)["forwards"]
        assert {(row["port"], row["via"], row["ssh"]) for row in rows} > {
            (by_qemu, "qemu", False), (by_ssh, "ssh", False)
        }  # fmt: skip
        assert running.qvm("forward", "add", f"{by_ssh}:1").status == 3
    finally:
        removed = running.ok("forward", "remove", str(by_qemu), str(by_ssh))
    assert removed.out.splitlines() == [
        f"demo: removed tcp 127.0.0.1:{by_qemu}", f"demo: removed tcp 127.0.0.1:{by_ssh}"
    ]  # fmt: skip
    for port in (by_qemu, by_ssh):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def end_master(vm: Vm) -> None:
    master = vm.runtime / "ssh"
    subprocess.run(["ssh", "-O", "exit", "-S", master, "x"], capture_output=True, env=vm.world.environ)
    wait_until(lambda: not master.exists())


def test_forward_by_ssh_outlives_its_connection(running: Vm) -> None:
    port, other = free_port(), free_port()
    running.ok("forward", "add", f"{port}:22", f"{other}:22", "--via", "ssh")
    end_master(running)
    listed = running.ok("forward", "list").out.splitlines()
    closed = [each for each in listed if each.endswith("by ssh, closed until the next `qvm ssh`")]
    assert sorted(each.split()[1] for each in closed) == sorted(f"127.0.0.1:{each}" for each in (port, other))
    with socket.create_server(("127.0.0.1", other)):
        warned = running.ok("ssh", "true").err
        assert f"demo: tcp 127.0.0.1:{other} is no longer forwarded: ssh says: " in warned
    assert greeting(port) == b"SSH-"
    listed = running.ok("forward", "list").out.splitlines()
    assert [each.endswith("by ssh") for each in listed if f":{port} " in each] == [True]
    assert not [each for each in listed if f":{other} " in each]
    running.ok("forward", "remove", str(port))


def test_forward_by_ssh_port_in_use_names_the_program(running: Vm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = running.qvm("forward", "add", f"{port}:22", "--via", "ssh")
    assert result.status == 1
    assert f"demo: cannot forward tcp 127.0.0.1:{port}: taken by " in result.err
