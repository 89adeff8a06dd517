"""Addresses that the host knows of a card: real forms of the kernel's and dnsmasq's files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qvmsh.host import neighbours

ARP = """\
IP address       HW type     Flags       HW address            Mask     Device
10.9.0.50        0x1         0x2         52:54:00:12:34:56     *        br0
10.9.0.51        0x1         0x0         52:54:00:12:34:56     *        br0
10.9.0.52        0x1         0x6         52:54:00:aa:aa:aa     *        br0
"""
LEASES = """\
1795000000 52:54:00:12:34:56 10.9.0.50 debian 01:52:54:00:12:34:56
1795000000 52:54:00:bb:bb:bb 10.9.0.60 * *
duid 00:01:00:01
broken
"""
STATUS = '[{"ip-address": "10.9.1.7", "mac-address": "52:54:00:12:34:56", "expiry-time": 1}, 5, {}]'
OWN = {"52:54:00:12:34:56"}


def test_addresses_of_a_card_come_from_leases_and_the_arp_table(tmp_path: Path) -> None:
    arp, leases, status = tmp_path / "arp", tmp_path / "dnsmasq.leases", tmp_path / "virbr0.status"
    arp.write_text(ARP)
    leases.write_text(LEASES)
    status.write_text(STATUS)
    found = neighbours.of(OWN, arp=str(arp), leases=(str(leases), str(tmp_path / "*.status")))
    assert found == [("10.9.0.50", "lease"), ("10.9.1.7", "lease"), ("10.9.0.50", "neighbour")]


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff", "a b c d\n" * 3, '{"a": 1}'])
def test_addresses_in_broken_files_are_none(tmp_path: Path, text: str) -> None:
    for name in ("arp", "x.leases", "x.status"):
        (tmp_path / name).write_text(text)
    leases = (str(tmp_path / "x.leases"), str(tmp_path / "x.status"), str(tmp_path / "none*"))
    assert neighbours.of(OWN, arp=str(tmp_path / "arp"), leases=leases) == []
    assert neighbours.of(OWN, arp=str(tmp_path / "none"), leases=(str(tmp_path),)) == []


KERNELS = """
ip link add d0 type veth peer name d1 && ip addr add 10.9.0.1/24 dev d0 && ip link set d0 up &&
ip neigh add 10.9.0.50 lladdr 52:54:00:12:34:56 dev d0 && exec "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a network of its own")
def test_addresses_in_the_kernels_own_table_are_found() -> None:
    code = f"from qvmsh.host import neighbours; print(neighbours.of({OWN!r}, leases=()))"
    argv = ["unshare", "-n", "sh", "-c", KERNELS, "sh", sys.executable, "-P", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "not permitted" in done.stderr or "Unknown device type" in done.stderr:
        pytest.skip("this host gives root no such network")
    assert done.stdout == "[('10.9.0.50', 'neighbour')]\n", done.stderr
