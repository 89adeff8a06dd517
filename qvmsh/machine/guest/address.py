"""The guest's addresses: from its agent, and from what the host knows of its network cards.

    of(vm, None).addresses      # [{"address": "10.0.2.15", "way": "agent", ...}, {"way": "forward", ...}]

The guest's own words are checked: what is no address is left out.
"""

from __future__ import annotations

import ipaddress

from qvmsh.errors import GuestUnreachableError, QmpError
from qvmsh.host import neighbours, process
from qvmsh.machine import state
from qvmsh.machine.guest import agent
from qvmsh.machine.guest.reports import Addresses
from qvmsh.qemu import qga, qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

ASK_S = 10.0
NAMES = {None: "", "inet": "IPv4 ", "inet6": "IPv6 "}
MOST = 256
"""How many addresses are taken from a guest."""


def of(vm: BaseMachine, family: str | None) -> Addresses:
    """The addresses of a machine that has a QEMU.

    Args:
        family: only these (`inet`, `inet6`), and none that is a port of the host.

    Raises:
        StateError: it is not running.
        GuestUnreachableError: none is known; with the reason of each way.
    """
    seen = state.observe(vm)
    pid, note = state.require(vm, seen, "find its addresses")
    cards = Cards(process.arguments(pid))
    refused: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    if seen.kind in (state.RUNNING, state.STARTING):
        rows += _by_agent(vm, note, cards, refused)
    else:
        refused["agent"] = f"the guest is {seen.kind}"
    known = [_row(address, None, way) for address, way in neighbours.of(cards.macs) if _parsed(address)]
    have = {row["address"] for row in rows}
    for row in known:
        if row["address"] not in have:
            have.add(row["address"])
            rows.append(row)
    if not known and not cards.is_user_only:
        refused["host"] = "neither its leases nor its ARP table have the guest's network cards"
    if note.ssh_port and not family:
        rows.append(_row("127.0.0.1", None, "forward") | {"port": note.ssh_port})
    rows = [row for row in rows if family in (None, row["family"])]
    if not rows:
        raise GuestUnreachableError(
            f"no {NAMES[family]}address of the guest is known", machine=vm.name,
            details=[f"{way}: {why}" for way, why in refused.items()],
            hint="the guest agent (qemu-guest-agent) knows them" if refused else "`qvm ip` shows all",
        )  # fmt: skip
    return Addresses(vm.name, rows, refused, family)


class Cards:
    """The network cards of a QEMU, as its arguments have them.

    Args:
        argv: QEMU's arguments.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.macs: set[str] = set()
        kinds = []
        flag = ""
        for word in argv:
            flag, before = word.lstrip("-") if word[:1] == "-" else "", flag
            if before in ("device", "net", "nic", "netdev"):
                values = _options(word)
                mac = values.get("mac") or values.get("macaddr")
                if isinstance(mac, str):
                    self.macs.add(mac.lower())
                kinds += [values.get("type")] if before != "device" else []
        self.is_user_only = all(kind in ("user", "none", "nic") for kind in kinds)
        """All of QEMU's networks are user networking: nothing on the host reaches the guest's addresses."""


def _options(word: str) -> dict[str, Any]:
    """The values of one argument, in JSON or as `user,id=net0`."""
    if word.startswith("{"):
        try:
            found = qmp.loads(word)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
    kind, *rest = word.split(",")
    return {"type": kind} | {
        name: value for name, mark, value in (each.partition("=") for each in rest) if mark
    }


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address by which another host could speak to the guest; None for anything else."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    is_other = found.is_loopback or found.is_unspecified or found.is_multicast or "%" in address
    return None if is_other else found


def _row(address: str, interface: str | None, way: str) -> dict[str, Any]:
    found = ipaddress.ip_address(address)
    return {
        "address": str(found),
        "family": "inet6" if found.version == 6 else "inet",
        "interface": interface,
        "port": None,
        "reachable": True,
        "way": way,
    }


def _by_agent(
    vm: BaseMachine, note: LaunchRecord, cards: Cards, refused: dict[str, str]
) -> list[dict[str, Any]]:
    """The addresses that the agent reports: those of QEMU's cards first, link-local ones last."""
    try:
        with qga.Conversation(note.socket("qga"), agent.PRESENT_S) as talk:
            talk.timeout_s = ASK_S
            answer = talk.ask("guest-network-get-interfaces", tick=vm.io.checkpoint)
    except (OSError, QmpError) as error:
        refused["agent"] = agent.reason(error, ASK_S)
        return []
    found: list[tuple[bool, bool, int, dict[str, Any]]] = []
    for interface in answer:
        is_own = interface.get("hardware-address", "").lower() in cards.macs
        for each in interface.get("ip-addresses", ()):
            address = _parsed(each["ip-address"])
            if address is not None:
                row = _row(str(address), interface["name"], "agent")
                row["reachable"] = not cards.is_user_only
                found.append((address.is_link_local, not is_own, len(found), row))
    if not found:
        refused["agent"] = "it reports no address"
    return [row for *_, row in sorted(found, key=lambda each: each[:3])[:MOST]]
