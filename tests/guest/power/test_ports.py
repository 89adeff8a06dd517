"""Forwarded ports that a guest answers on, and a guest that root starts for its owner."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.world import Vm, World, create_tiny, end_world, new_world

pytestmark = pytest.mark.guest


def free(kind: socket.SocketKind) -> int:
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def unclaimed(guest: Vm) -> int:
    """`NoPorts` of the guest's UDP. Source: proc_net_snmp."""
    return int(guest.ok("ssh", "grep ^Udp: /proc/net/snmp | tail -n 1").out.split()[2])


def test_forwarded_ports_lead_to_the_guests_services(guest: Vm) -> None:
    tcp, udp = free(socket.SOCK_STREAM), free(socket.SOCK_DGRAM)
    guest.set(VM_HOSTFWD=f"{tcp}:8000\nudp:{udp}:5353", VM_LABELS="web")
    guest.ok("start")
    guest.ok("ssh", "mkdir -p /tmp/www; echo from the guest > /tmp/www/index.html; httpd -p 8000 -h /tmp/www")
    with urllib.request.urlopen(f"http://127.0.0.1:{tcp}/", timeout=60) as page:
        assert page.read() == b"from the guest\n"
    # nobody listens in the guest: its kernel counts datagrams that arrive for a port without a program
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        before = now = unclaimed(guest)
        while now == before:
            sender.sendto(b"hello", ("127.0.0.1", udp))
            now = unclaimed(guest)
    assert guest.world.run("list", "--label", "web").out.splitlines()[1].split()[1] == "running"
    guest.ok("stop")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a machine of another account")
class TestOwner:
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        plain = new_world(tmp_path)

        class OpenWorld(World):
            @property
            def environ(self) -> dict[str, str]:
                return super().environ | {"VM_GLOBAL_CONFIG": "/dev/null"}

        made = OpenWorld(plain.home, plain.runtime)
        yield made
        end_world(made)

    @pytest.fixture
    def account(self) -> Iterator[pwd.struct_passwd]:
        name, home = f"qvmt{uuid.uuid4().hex[:8]}", tempfile.mkdtemp(prefix="qvmt-home-")
        subprocess.run(
            ["useradd", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh", name], check=True
        )
        row = pwd.getpwnam(name)
        os.chown(home, row.pw_uid, row.pw_gid)
        yield row
        subprocess.run(["userdel", name], check=True, capture_output=True)
        shutil.rmtree(home)
        shutil.rmtree(f"/tmp/qvm-{row.pw_uid}", ignore_errors=True)

    def test_guest_of_another_account_started_by_root(
        self, world: World, tiny: str, account: pwd.struct_passwd
    ) -> None:
        """The guest is up, root reaches it by ssh with the owner's key, and powers it off."""
        folder = Path(tempfile.mkdtemp(prefix="qvmt-vms-"))
        folder.chmod(0o755)
        vm = create_tiny(world, where=folder)
        try:
            vm.ok("config", f"VM_MACHINE_OWNER={account.pw_name}")
            started = vm.ok("start")
            assert "ready after" in started.out
            assert Path(f"/proc/{vm.pid}").stat().st_uid == account.pw_uid
            assert vm.ok("ssh", "hostname").out == "demo\n"
            assert vm.ok("status").out.startswith(f"demo: running (pid {vm.pid}, ssh answers")
            assert (vm.directory / ".qvm/known_hosts").stat().st_uid == account.pw_uid
            assert "powered off by guest agent" in vm.ok("stop").out
            assert vm.qvm("status").out == "demo: stopped\n"
        finally:
            vm.kill()
            shutil.rmtree(folder)
