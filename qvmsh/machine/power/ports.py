"""Ports of the host: those that lead into the guest (ssh, VM_HOSTFWD), the telnet monitor's, and VNC's.

forwards(vm)[0].rule          # "tcp:127.0.0.1:8080-:80"
door(vm)                      # None, or the address of the telnet monitor
vnc(":2,password=on")         # "127.0.0.1:2,password=on"
"""

from __future__ import annotations

from ipaddress import ip_address
from itertools import pairwise

from qvmsh.config import forwards as rules
from qvmsh.errors import ConfigError, QvmError
from qvmsh.host import sockets
from qvmsh.machine.storage import own_disk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from socket import socket

    from qvmsh.config.forwards import Forward
    from qvmsh.machine.machine import BaseMachine

DOOR_NAMES = ("VM_NET_LISTEN", "VM_NET_PORT", "VM_NET_HOST")
"""A telnet monitor is there only if one of these is set."""
DOOR_PORT = 7700
"""Its port is this plus VM_MACHINE_ID. Source: `vm` (bash)."""
OTHER_PORT = "choose another port, or remove VM_SSH_PORT for an automatic one"
_LOCKS = frozenset(("password", "password=on", "sasl", "sasl=on"))
_CHARACTERS = ("-monitor", "-qmp", "-qmp-pretty", "-serial", "-parallel")
_REFUSED = "Could not set up host forwarding rule '"


def forwards(vm: BaseMachine) -> list[Forward]:
    """The forwarded ports of VM_HOSTFWD.

    Raises:
        ConfigError: there are some, but no network.
    """
    found = rules.parse_all(vm.settings.lines("VM_HOSTFWD"))
    if found and vm.settings.text("VM_NET_MODEL") == "none":
        raise ConfigError(
            "VM_HOSTFWD has ports, but VM_NET_MODEL=none leaves the guest without a network",
            machine=vm.name,
            hint="remove one of them",
        )
    return found


def ssh_port(vm: BaseMachine, wish: int = 0, *, is_planned: bool = False) -> int:
    """The port of 127.0.0.1 for the guest's sshd; 0 where qvm makes no network that leads there.

    Args:
        wish: the one to take if it is free and VM_SSH_PORT names none.
        is_planned: it is not used now, so VM_SSH_PORT may be taken.

    Raises:
        QvmError: VM_SSH_PORT is taken.
    """
    wanted = vm.settings.text("VM_SSH_PORT")
    # the network by hand is the user's own: a port that they name is one that they forward
    if (wanted == "auto") if own_disk.is_by_hand(vm) else (vm.settings.text("VM_NET_MODEL") == "none"):
        return 0
    if wanted != "auto":
        port = int(wanted or 0)
        why = "" if is_planned else taken(port)
        if why:
            raise QvmError(f"VM_SSH_PORT={why}", machine=vm.name, hint=OTHER_PORT)
        return port
    forwarded = {each.port for each in forwards(vm)}
    port = wish if wish and sockets.port_is_free(wish) else sockets.free_port()
    while port in forwarded:
        port = sockets.free_port()
    return port


def taken(port: int) -> str:
    """That a port of 127.0.0.1 is taken, and by what; "" if it is free."""
    if sockets.port_is_free(port):
        return ""
    who = sockets.port_user(port)
    return f"{port} is taken" + (f" by {who}" if who else "")


def require_free(vm: BaseMachine) -> None:
    """Make sure that every forwarded port can be bound now.

    Raises:
        ConfigError: one is VM_SSH_PORT.
        QvmError: one cannot; the text says why and, if visible, what uses it.
    """
    for each in forwards(vm):
        if each.protocol == "tcp" and str(each.port) == vm.settings.text("VM_SSH_PORT"):
            raise ConfigError(
                f"port {each.port} is both VM_SSH_PORT and one of VM_HOSTFWD",
                machine=vm.name,
                hint="choose another port for one of them",
            )
        why = sockets.obstacle(each.protocol, each.address, each.port)
        if why:
            raise _not_free(vm, each, why)


def refused(vm: BaseMachine, words: Sequence[str]) -> QvmError | None:
    """The error for a forward that QEMU itself could not set up; None if its output names none."""
    for line in words:
        rule = line.partition(_REFUSED)[2].partition("'")[0]
        for each in forwards(vm):
            if each.rule == rule:
                return _not_free(vm, each, sockets.obstacle(each.protocol, each.address, each.port))
    return None


def refused_rule(words: Sequence[str]) -> str:
    """The forward that QEMU could not set up, as in its output; "" for none."""
    return next((line.partition(_REFUSED)[2].partition("'")[0] for line in words if _REFUSED in line), "")


def _not_free(vm: BaseMachine, forward: Forward, why: str) -> QvmError:
    where = f"{forward.protocol} {forward.address}:{forward.port}"
    return QvmError(
        f"VM_HOSTFWD: cannot forward {where}: {why or 'it was taken at that moment'}",
        machine=vm.name,
        hint="choose another port or address in VM_HOSTFWD, or end the process that uses it",
    )


def door(vm: BaseMachine) -> tuple[str, int] | None:
    """Address of the telnet monitor; None where nobody asked for one. Port 0 = any free one."""
    settings = vm.settings
    if not any(settings.is_set(name) for name in DOOR_NAMES):
        return None
    port = settings.text("VM_NET_PORT")
    number = DOOR_PORT + int(settings.text("VM_MACHINE_ID"))
    if port:
        number = 0 if port == "auto" else int(port)
    return settings.text("VM_NET_LISTEN").strip("[]") or rules.LOOPBACK, number


def open_door(vm: BaseMachine) -> socket | None:
    """The listening socket of the telnet monitor, for QEMU to inherit; and the warning that it is open.

    Raises:
        QvmError: the address cannot be listened on.
    """
    wanted = door(vm)
    if wanted is None:
        return None
    import socket as net

    host, port = wanted
    try:
        family, *_, address = net.getaddrinfo(
            host, port, type=net.SOCK_STREAM, flags=net.AI_PASSIVE | net.AI_NUMERICSERV
        )[0]
        made = net.create_server(address[:2], family=family, backlog=1)
    except OSError as error:  # net.gaierror is one
        who = sockets.port_user(port) if port else ""
        raise QvmError(
            f"the telnet monitor cannot listen on {host}:{port}: "
            + (f"taken by {who}" if who else f"{error.strerror or error}".lower()),
            machine=vm.name,
            hint="VM_NET_LISTEN and VM_NET_PORT name its address; without VM_NET_... there is none",
        ) from None
    at = made.getsockname()
    name = vm.settings.text("VM_NET_HOST") or at[0]
    is_local = at[0] == "::1" or at[0].startswith("127.")
    who = "every account of this host" if is_local else "everybody who can reach this host"
    vm.io.warn(
        f"{vm.name}: an open port: {who} can control QEMU with `telnet {name} {at[1]}`, without a password"
    )
    return made


def vnc(value: str) -> str:
    """An address for QEMU's -vnc; one without a host means this host only (to QEMU: every address)."""
    return rules.LOOPBACK + value if value.startswith(":") else value


def warn_of_doors(vm: BaseMachine, argv: Sequence[str]) -> None:
    """Warn of what QEMU's arguments `argv` open to others than this host, also in the user's own words."""
    for word, value in pairwise([*argv, ""]):
        what, address, options = (
            _door("-" + word.lstrip("-"), value) if word.startswith("-") else ("", "", [])
        )
        if what and _is_open(address):
            is_free = not any(o in _LOCKS or o.startswith("password-secret=") for o in options)
            vm.io.warn(
                f"{vm.name}: an open port: everybody who can reach this host can {what} on {address}"
                + (", without a password" if is_free else "")
            )


def _door(option: str, value: str) -> tuple[str, str, list[str]]:
    """What one of QEMU's arguments lets others do, where it listens, and with which options."""
    head, *options = value.removeprefix("vnc=").split(",")
    fields = dict(each.partition("=")[::2] for each in (head, *options))
    if option == "-vnc" or (option == "-display" and value.startswith("vnc=")):
        return "use the guest's screen and keyboard over VNC", head, options
    if option == "-spice" and fields.get("unix") != "on" and fields.keys() & {"port", "tls-port"}:
        port = fields.get("port") or fields["tls-port"]
        return ("use the guest's screen and keyboard over SPICE", f"{fields.get('addr', '')}:{port}", options)
    if option in ("-s", "-gdb"):
        scheme, _, address = (value if option == "-gdb" else "tcp::1234").split(",")[0].partition(":")
        return ("control the guest with gdb", address, []) if scheme == "tcp" else ("", "", [])
    is_server = not {"server", "server=on", "server=yes"}.isdisjoint(options)
    if option in _CHARACTERS and is_server and head.partition(":")[0] in ("tcp", "telnet", "websocket"):
        return f"use what is on {option}", head.partition(":")[2], options
    if option == "-chardev" and head == "socket" and is_server and "port" in fields:
        name = fields.get("id", "")
        return f"use the character device {name}", f"{fields.get('host', '')}:{fields['port']}", options
    return "", "", []


def _is_open(address: str) -> bool:
    """True if an address can be reached from elsewhere; one without a host is every address."""
    host, colon, _ = address.rpartition(":")
    if not colon or address.startswith("unix:") or host == "localhost":
        return False
    try:
        return not ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return True
