"""Forwarded ports and the telnet monitor: which program has the port, and the report (real QEMU)."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from qvmsh.host import sockets
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.power import launch
from qvmsh.machine.power import ports as machine_ports
from qvmsh.machine.power.request import Launch, Request
from tests.support.monitor import ask
from tests.support.ports import listeners, taken
from tests.support.programs import free_port
from tests.support.world import DEADLINE_S, Blank


def test_start_forwards_listen_on_loopback_by_default(blank: Blank) -> None:
    short, every, dns = free_port(), free_port(), free_port(socket.SOCK_DGRAM)
    vm = blank(VM_HOSTFWD=f"{short}:80\n\n tcp:0.0.0.0:{every}-:81\nudp:127.0.0.1:{dns}-:53")
    vm.ok("start", "--no-wait")
    tcp = listeners(vm.pid, "tcp")
    assert {f"127.0.0.1:{short}", f"0.0.0.0:{every}"} < tcp
    assert len(tcp) == 3  # and ssh
    assert listeners(vm.pid, "udp") == {f"127.0.0.1:{dns}"}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_start_taken_port_is_reported_before_qemu_starts(blank: Blank, protocol: str) -> None:
    with taken(protocol) as port:
        vm = blank(VM_HOSTFWD=f"{protocol}:{port}:80")
        result = vm.qvm("start", "--no-wait")
    assert result.status == 1
    who = f"{Path('/proc/self/comm').read_text().strip()}, pid "
    assert f"demo: VM_HOSTFWD: cannot forward {protocol} 127.0.0.1:{port}: taken by {who}" in result.err
    assert not (vm.directory / ".qvm/log/qemu.stderr").exists()
    assert vm.qvm("status").out == "demo: stopped\n"


def test_start_port_taken_in_between_is_reported_alike(blank: Blank, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU itself reports it: the ssh port is not chosen again for it, and nothing is left."""
    with taken() as port:
        vm = blank(VM_HOSTFWD=f"{port}:80")
        monkeypatch.setattr(machine_ports, "require_free", lambda _vm: None)
        begun: list[launch.Qemu] = []
        chosen: list[int] = []

        def choose(free_port: Callable[[], int] = sockets.free_port) -> int:
            chosen.append(free_port())
            return chosen[-1]

        monkeypatch.setattr(sockets, "free_port", choose)
        with pytest.raises(Exception, match=f"cannot forward tcp 127.0.0.1:{port}: taken by"):
            launch.launch(BaseMachine(vm.directory, environ=vm.world.environ), Launch(Request()), begun)
    assert len(chosen) == 1
    assert not begun
    assert not (vm.directory / ".qvm/running").exists()
    assert vm.qvm("status").out == "demo: stopped\n"


def test_start_forward_that_cannot_be_is_refused(blank: Blank) -> None:
    vm = blank()
    for value, status, why in (
        ("203.0.113.7:8080:80", 1, "203.0.113.7 is not an address of this host"),
        ("80", 2, "it needs two ports, HOST:GUEST"),
        ("8080:80\n8080:81", 2, "another line uses tcp port 8080 already"),
    ):
        vm.set(VM_HOSTFWD=value)
        result = vm.qvm("start", "--no-wait")
        assert result.status == status, value
        assert why in result.err


def test_start_forward_of_the_ssh_port_is_refused(blank: Blank) -> None:
    port = free_port()
    result = blank(VM_HOSTFWD=f"{port}:80", VM_SSH_PORT=str(port)).qvm("start", "--no-wait")
    assert result.status == 2
    assert f"port {port} is both VM_SSH_PORT and one of VM_HOSTFWD" in result.err


def test_dryrun_shows_forwards_and_telnet_monitor(blank: Blank) -> None:
    shown = blank(VM_HOSTFWD="8080:80", VM_NET_HOST="here").ok("dryrun").out
    assert "tcp:127.0.0.1:8080-:80" in shown
    assert "socket,id=telnet,host=127.0.0.1,port=7733,server=on,wait=off,telnet=on" in shown
    assert "-sandbox on" in shown


def hmp(port: int, line: str, until: str) -> str:
    """Ask the telnet monitor, as telnet does."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(line.encode() + b"\r\n")
        text = ""
        while until not in text:
            data = connection.recv(4096)
            assert data, text
            text += data.decode(errors="replace")
    return text


def test_start_without_a_telnet_variable_opens_no_tcp_but_ssh(blank: Blank) -> None:
    vm = blank()
    vm.ok("start", "--no-wait")
    assert len(listeners(vm.pid, "tcp")) == 1


def test_start_telnet_monitor_answers_on_loopback_and_warns(blank: Blank) -> None:
    vm = blank(VM_NET_PORT="auto")
    result = vm.ok("start", "--no-wait")
    found = re.search(r"demo: an open port: every account .* `telnet 127\.0\.0\.1 (\d+)`", result.err)
    assert found, result
    port = int(found[1])
    assert f"127.0.0.1:{port}" in listeners(vm.pid, "tcp")
    assert "VM status: running" in hmp(port, "info status", "running")
    assert "VM status: running" in vm.ok("cmd", "info", "status").out  # the usual monitor is there too


def test_start_telnet_monitor_listens_at_its_address(blank: Blank) -> None:
    port = free_port()
    vm = blank(VM_NET_LISTEN="0.0.0.0", VM_NET_PORT=str(port), VM_NET_HOST="myhost")
    result = vm.ok("start", "--no-wait")
    assert f"everybody who can reach this host can control QEMU with `telnet myhost {port}`" in result.err
    assert f"0.0.0.0:{port}" in listeners(vm.pid, "tcp")


def test_start_telnet_port_that_is_taken_fails_cleanly(blank: Blank) -> None:
    with taken() as port:
        vm = blank(VM_NET_PORT=str(port))
        result = vm.qvm("start", "--no-wait")
    assert result.status == 1
    assert f"the telnet monitor cannot listen on 127.0.0.1:{port}: taken by " in result.err
    assert not [path for path in vm.world.runtime.rglob("*") if path.is_socket()]


def test_included_file_acts_at_its_line(blank: Blank) -> None:
    """What stands before VM_INCLUDE is overridden by the file, what stands after it is not."""
    vm = blank()
    (vm.directory / "common").write_text("VM_MACHINE_MEM=48\nVM_MACHINE_CPUS=3\nVM_INCLUDE=more\n")
    (vm.directory / "more").write_text("VM_QEMU_CPU=qemu64\n")
    with (vm.directory / ".vmrc").open("a") as file:
        file.write("VM_MACHINE_MEM=32\nVM_MACHINE_CPUS=1\nVM_INCLUDE=common\nVM_MACHINE_CPUS=2\n")
    vm.ok("start", "--no-wait")
    argv = Path(f"/proc/{vm.pid}/cmdline").read_text().split("\0")
    assert [argv[argv.index(each) + 1] for each in ("-m", "-smp", "-cpu")] == ["48", "2", "qemu64"]
    assert "common:1" in vm.ok("config", "--explain", "VM_MACHINE_MEM").out


def test_start_vnc_without_a_host_is_for_this_host_only(blank: Blank) -> None:
    vm = blank()
    for host, warned in (("", False), ("localhost", False), ("0.0.0.0", True), ("[::]", True)):
        err = vm.ok("--set", f"VM_QEMU_VNC={host}:{free_port() - 5900}", "start", "--no-wait").err
        server = ask(vm, "query-vnc")
        is_local = server["host"] in ("127.0.0.1", "::1")
        assert is_local is not warned, (host, server)
        assert ("everybody who can reach this host" in err and "without a password" in err) is warned, err
        vm.ok("kill")


def test_start_vnc_in_own_words_for_qemu_warns(blank: Blank) -> None:
    vm = blank(VM_QEMU_EXTRA=f"-vnc :{free_port() - 5900},password=on")
    err = vm.ok("start", "--no-wait").err
    assert "an open port" in err
    assert "without a password" not in err
