"""Forwarded ports that a guest answers on, and a guest that root starts for its owner."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.owner import OpenWorld, throw_away_account
from tests.support.programs import free_port
from tests.support.world import DEADLINE_S, Vm, World, create_tiny, end_world, new_world

pytestmark = pytest.mark.guest


def unclaimed(guest: Vm) -> int:
    """`NoPorts` of the guest's UDP. Source: proc_net_snmp."""
    return int(guest.ok("ssh", "grep ^Udp: /proc/net/snmp | tail -n 1").out.split()[2])


def test_forwarded_ports_lead_to_the_guests_services(loadable: Vm) -> None:
    tcp, udp = free_port(), free_port(socket.SOCK_DGRAM)
    loadable.set(VM_HOSTFWD=f"{tcp}:8000\nudp:{udp}:5353", VM_LABELS="web")
    loadable.load()
    loadable.ok(
        "ssh", "mkdir -p /tmp/www; echo from the guest > /tmp/www/index.html; httpd -p 8000 -h /tmp/www"
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{tcp}/", timeout=DEADLINE_S) as page:
        assert page.read() == b"from the guest\n"
    # nobody listens in the guest: its kernel counts datagrams that arrive for a port without a program
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        before = now = unclaimed(loadable)
        while now == before:
            sender.sendto(b"hello", ("127.0.0.1", udp))
            now = unclaimed(loadable)
    assert loadable.world.run("list", "--label", "web").out.splitlines()[1].split()[1] == "running"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a machine of another account")
class TestOwner:
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        plain = new_world(tmp_path)

        made = OpenWorld(plain.home, plain.runtime)
        yield made
        end_world(made)

    @pytest.fixture
    def account(self) -> Iterator[pwd.struct_passwd]:
        with throw_away_account() as made:
            yield made

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
            assert vm.answering().out.startswith(f"demo: running (pid {vm.pid}, ssh answers")
            assert (vm.directory / ".qvm/known_hosts").stat().st_uid == account.pw_uid
            assert re.search("powered off by (guest agent|ssh)", vm.ok("stop").out)
            assert vm.qvm("status").out == "demo: stopped\n"
        finally:
            vm.kill()
            shutil.rmtree(folder)
