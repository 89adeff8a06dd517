"""Lines of VM_HOSTFWD: ports of the host that are forwarded to the guest.

    parse("8080:80").rule                # "tcp:127.0.0.1:8080-:80", as QEMU's hostfwd= has it
    parse("udp:*:5353:53").rule          # "udp:0.0.0.0:5353-:53"

The default address is 127.0.0.1, even in QEMU's form, where QEMU would use all addresses.
Source: qemu-system-x86_64(1), `hostfwd=[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`.
"""

from __future__ import annotations

LOOPBACK = "127.0.0.1"
ANY = "0.0.0.0"  # noqa: S104  # only where the user writes it
FORMS = "lines like 8080:80, udp:5353:53, 0.0.0.0:8080:80 or tcp:127.0.0.1:8080-:80"
GUEST = "10.0.2.15"
"""The guest's address in QEMU's user mode network: the first that its DHCP gives."""
_NAMES = {"": LOOPBACK, "localhost": LOOPBACK, "*": ANY}


class Forward:
    """One forwarded port.

    Args:
        protocol: `tcp` or `udp`.
        address, port: where the host listens.
        guest_address: "" = the first address that QEMU's DHCP gives.
        guest_port: where the guest listens.
    """

    __slots__ = ("address", "guest_address", "guest_port", "port", "protocol")

    def __init__(self, protocol: str, address: str, port: int, guest_address: str, guest_port: int) -> None:
        self.protocol = protocol
        self.address = address
        self.port = port
        self.guest_address = guest_address
        self.guest_port = guest_port

    def __repr__(self) -> str:
        return f"Forward({self.rule!r})"

    @property
    def rule(self) -> str:
        """The syntax of QEMU's `hostfwd=`."""
        host = f"{self.protocol}:{self.address}:{self.port}"
        return f"{host}-{self.guest_address}:{self.guest_port}"

    def is_at(self, other: Forward) -> bool:
        """True if both are about the same port of the host."""
        return (self.protocol, self.address, self.port) == (other.protocol, other.address, other.port)

    def leads_as(self, other: Forward) -> bool:
        """True if both lead from the same port to the same; one without an address takes that of QEMU."""
        here, there = (each.guest_address or GUEST for each in (self, other))
        return self.is_at(other) and (here, self.guest_port) == (there, other.guest_port)

    def clashes(self, other: Forward) -> bool:
        """True if both cannot listen at the same time."""
        is_same_port = (self.protocol, self.port) == (other.protocol, other.port)
        return is_same_port and (self.address == other.address or ANY in (self.address, other.address))


def parse(line: str) -> Forward:
    """Parse one line.

    Raises:
        ValueError: it is invalid; the text says why.
    """
    rest, protocol = line.strip(), "tcp"
    head, mark, tail = rest.rpartition("/")
    if mark and tail in ("tcp", "udp"):
        rest, protocol = head, tail
    head, mark, tail = rest.partition(":")
    if mark and head in ("tcp", "udp"):
        if rest is not line.strip() and head != protocol:
            raise ValueError(f"both {head} and {protocol}")
        rest, protocol = tail, head
    if "-" in rest:
        host, _, guest = rest.partition("-")
        address, _, port = host.rpartition(":")
        guest_address, _, guest_port = guest.rpartition(":")
    else:
        parts = rest.split(":")
        if len(parts) not in (2, 3):
            raise ValueError("it needs two ports, HOST:GUEST" if len(parts) < 2 else "too many :")
        address, port, guest_port = parts if len(parts) == 3 else ["", *parts]
        guest_address = ""
    if guest_address and not _is_address(guest_address):
        raise ValueError(f"{guest_address} is not an IPv4 address")
    return Forward(protocol, _address(address), _port(port), guest_address, _port(guest_port))


def parse_all(lines: list[str], what: str = "line") -> list[Forward]:
    """The forwards of all lines.

    Args:
        what: how an error calls another of them.

    Raises:
        ValueError: a line is invalid, or two use the same port.
    """
    found: list[Forward] = []
    for line in lines:
        try:
            forward = parse(line)
        except ValueError as error:
            raise ValueError(f"{line!r}: {error}") from None
        for other in found:
            if forward.clashes(other):
                raise ValueError(f"{line!r}: another {what} uses {other.protocol} port {other.port} already")
        found.append(forward)
    return found


def _address(text: str) -> str:
    found = _NAMES.get(text, text)
    if not _is_address(found):
        raise ValueError(f"{text} is not an IPv4 address")
    return found


def _is_address(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(
        p.isascii() and p.isdigit() and len(p) <= 3 and int(p) < 256 for p in parts
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError(f"{text!r} is not a port (1 to 65535)" if text else "a port is missing")
    return int(text)
