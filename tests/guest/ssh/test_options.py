"""`qvm ssh -A -L -R -D -o`: for one call, over a connection of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import free_port
from tests.support.world import DEADLINE_S, QVM, Vm, wait_until

pytestmark = pytest.mark.guest


@contextlib.contextmanager
def waiting(vm: Vm, *options: str) -> Iterator[None]:
    """A call with these options, while its command waits."""
    child = subprocess.Popen(
        [QVM, "ssh", *options, "echo begun; cat"], cwd=vm.directory, env=vm.world.environ,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    try:
        yield
    finally:
        child.communicate(timeout=DEADLINE_S)
    assert child.returncode == 0


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_ssh_local_port_leads_in_until_the_command_ends(running: Vm) -> None:
    port = free_port()
    with waiting(running, "-L", f"{port}:127.0.0.1:22"):
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as line:
            assert line.recv(4) == b"SSH-"
        table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        owners = [row.split()[1] for row in table.splitlines() if f":{port:04X} " in row and " 0A " in row]
        assert owners == [f"0100007F:{port:04X}"]
    wait_until(lambda: not listens(port))
    assert not list(running.runtime.glob("ssh.p*"))


def test_ssh_dynamic_port_speaks_socks(running: Vm) -> None:
    port = free_port()
    with (
        waiting(running, "-D", str(port)),
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as line,
    ):
        line.sendall(b"\5\1\0")
        assert line.recv(2) == b"\5\0"


def test_ssh_remote_port_leads_to_this_host(running: Vm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            with server.accept()[0] as line:
                line.sendall(b"from the host\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        result = running.ok("ssh", "-R", f"2099:127.0.0.1:{port}", "nc 127.0.0.1 2099 </dev/null")
        thread.join(DEADLINE_S)
    assert result.out == "from the host\n"


def test_ssh_agent_is_in_the_guest_for_that_call_only(running: Vm) -> None:
    probe = 'test -S "$SSH_AUTH_SOCK" && echo there || echo none'
    refused = running.qvm("ssh", "-A", probe, env={"SSH_AUTH_SOCK": ""})
    assert refused.status == 1
    assert "there is no ssh agent to forward: SSH_AUTH_SOCK is not set\nhint:" in refused.err
    folder = running.world.runtime / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", folder], stdout=subprocess.DEVNULL)
    try:
        wait_until(folder.exists)
        env = {"SSH_AUTH_SOCK": str(folder)}
        assert running.ok("ssh", "-A", probe, env=env).out == "there\n"
        assert running.ok("ssh", probe, env=env).out == "none\n"
    finally:
        agent.terminate()
        agent.wait()


def test_ssh_option_is_for_one_call(running: Vm) -> None:
    words = ("-o", "SendEnv=NOTHING", "-o", "Compression=yes")
    assert running.qvm("ssh", *words, "echo out; exit 7").status == 7
    script = "print(ssh('echo in; exit 3', option=['Compression=yes'], check=False).status)"
    assert running.ok("sh", "-c", script).out == "3\n"
    assert not list(running.runtime.glob("ssh.p*"))


def test_ssh_options_in_the_file_are_lines_too(running: Vm) -> None:
    lines = "# why\nServerAliveInterval 60\nCompression=yes\n-o IPQoS=none"
    result = running.ok("--set", f"VM_SSH_OPTIONS={lines}", "ssh", "-o", "LogLevel=DEBUG", "true")
    assert "Enabling compression" in result.err
    assert "\\r" not in result.err


def test_ssh_option_that_fails_is_named_as_a_reason(running: Vm) -> None:
    result = running.qvm("ssh", "-o", "ProxyCommand=false", "echo run")
    assert (result.status, result.out) == (125, "")
    assert "hint: options for ssh may be the reason (-o, VM_SSH_OPTIONS)" in result.err
    lines = "VM_SSH_OPTIONS=LocalForward=2299:localhost:22"
    result = running.qvm("--set", lines, "ssh", "-o", "Compression=yes", "echo run")
    assert (result.status, result.out) == (125, "")
    assert "argument" in result.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("-L", "1:2"), "Bad local forwarding specification"),
        (("-D", "x"), "Bad dynamic forwarding specification"),
        (("-o", "Compresion=yes"), "Bad configuration option: compresion"),
        (("-o", "ControlPath=/x"), "-o ControlPath: qvm caches the connections itself"),
        (("-o", "Match exec evil"), "-o Match: it is for configuration files of ssh"),
        (("-o", "User=root"), "-o User: VM_MACHINE_USER names the account, or `qvm exec --user`"),
        (("-o", "StrictHostKeyChecking=no"), "-o StrictHostKeyChecking: qvm pins the host key itself"),
        (("-o", ""), "-o '' is not a keyword with its value"),
        (("-L", ""), "Bad local forwarding specification"),
    ],
)
def test_ssh_wrong_option_is_refused(running: Vm, words: tuple[str, str], why: str) -> None:
    result = running.qvm("ssh", *words, "echo run")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"qvm: demo: ssh: {why}")


def test_ssh_port_in_use_runs_nothing(running: Vm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = running.qvm("ssh", "-L", f"{server.getsockname()[1]}:127.0.0.1:22", "echo run")
    assert (result.status, result.out) == (125, "")
    assert "demo: ssh cannot forward a port, so nothing was run" in result.err
    assert "Address already in use" in result.err
