"""The addresses that this host knows of a network card: from its ARP table, and from DHCP leases it gave.

    of({"52:54:00:12:34:56"})       # [("10.9.0.50", "lease"), ("10.9.0.50", "neighbour")]

Source: the kernel's net/ipv4/arp.c (/proc/net/arp); dnsmasq(8), the lease file: time, MAC, address, name, id;
libvirt's leaseshelper, `virbr0.status`: JSON.
"""

from __future__ import annotations

import glob
import json

from qvmsh.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ARP = "/proc/net/arp"
LEASES = (
    "/var/lib/misc/dnsmasq*.leases", "/var/lib/dnsmasq/*.leases", "/var/lib/NetworkManager/dnsmasq-*.leases",
    "/var/lib/libvirt/dnsmasq/*.status",
)  # fmt: skip
_COMPLETE = 0x2
"""The flag of an ARP entry that has been answered."""


def of(macs: set[str], *, arp: str = ARP, leases: Sequence[str] = LEASES) -> list[tuple[str, str]]:
    """Address and source (`lease`, `neighbour`) of each entry for one of the cards.

    Args:
        macs: in lower case.
    """
    found = [(address, "lease") for mac, address in _leased(leases) if mac.lower() in macs]
    return found + [(address, "neighbour") for mac, address in _answered(arp) if mac.lower() in macs]


def _text(path: str) -> str:
    try:
        return files.read(path).text
    except (OSError, ValueError):
        return ""


def _answered(path: str) -> Iterator[tuple[str, str]]:
    for line in _text(path).splitlines()[1:]:
        words = line.split()
        if len(words) >= 4 and words[2].startswith("0x") and int(words[2], 16) & _COMPLETE:
            yield words[3], words[0]


def _leased(patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    for path in (path for pattern in patterns for path in sorted(glob.glob(pattern))):
        text = _text(path)
        if path.endswith(".status"):
            yield from _of_libvirt(text)
            continue
        for line in text.splitlines():
            words = line.split()
            if len(words) >= 4:
                yield words[1], words[2]


def _of_libvirt(text: str) -> Iterator[tuple[str, str]]:
    try:
        rows = json.loads(text)
    except ValueError:
        return
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.keys() >= {"mac-address", "ip-address"}:
            yield str(row["mac-address"]), str(row["ip-address"])
