"""`qvm ssh-config`: Host blocks, with which plain ssh, scp, rsync and others reach the guests.

    host(vm).text           # "Host demo\n    HostName qvm-3f2a...\n..."
    connect(vm)             # what the ProxyCommand of such a block does

The port of a machine is another one at each start (VM_SSH_PORT=auto), so a block asks qvm for a connection:
ssh gets it as a descriptor and speaks to the guest itself. Source: ssh_config(5), `ProxyUseFdpass`.
"""

from __future__ import annotations

import os
import re
import selectors
import socket
import stat
import sys

from qvmsh.config import ssh_options, words
from qvmsh.errors import GuestUnreachableError, QvmError, UsageError, printable
from qvmsh.host import ssh_connection
from qvmsh.machine import identity, launch_record, programs, state
from qvmsh.machine.guest import ssh as guest
from qvmsh.machine.reports import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qvmsh.machine.machine import BaseMachine

CONNECT_S = 10.0
PIECE = 65536
_FLAGS = {
    "4": "AddressFamily inet", "6": "AddressFamily inet6", "A": "ForwardAgent yes", "a": "ForwardAgent no",
    "C": "Compression yes", "q": "LogLevel QUIET", "T": "RequestTTY no", "t": "RequestTTY yes",
    "v": "LogLevel VERBOSE", "X": "ForwardX11 yes", "x": "ForwardX11 no",
}  # fmt: skip
_VALUES = {"c": "Ciphers", "D": "DynamicForward", "i": "IdentityFile", "m": "MACs"}
"""ssh's options, and the keywords that mean the same."""


class Host:
    """The block of one machine.

    Args:
        name: what ssh calls it: the machine's name, with `-` for what a Host line cannot hold.
        directory: of the machine.
        rows: keywords and values.
    """

    def __init__(self, name: str, directory: str, rows: Sequence[tuple[str, str]]) -> None:
        self.name = name
        self.directory = directory
        self.rows = list(rows)

    @property
    def text(self) -> str:
        return f"Host {self.name}\n" + "".join(f"    {key} {value}\n" for key, value in self.rows)


class Blocks(Report):
    """Result of `ssh-config`: the Host blocks; in JSON `hosts`, each with its name, directory and text."""

    __slots__ = ("hosts",)
    is_harmless = True

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = list(hosts)

    def __str__(self) -> str:
        return "\n".join(each.text for each in self.hosts)

    def as_json(self) -> dict[str, object]:
        rows = [{"name": each.name, "directory": each.directory, "text": each.text} for each in self.hosts]
        return {"hosts": rows}


def blocks(machines: Sequence[BaseMachine]) -> Blocks:
    """The blocks of several machines.

    Raises:
        UsageError: two have one name.
        ConfigError, QvmError: as `host`.
    """
    found: dict[str, Host] = {}
    for vm in machines:
        made = host(vm)
        other = found.setdefault(made.name, made)
        if other.directory != made.directory:
            raise same_name(made, other.directory)
    return Blocks([*found.values()])


def same_name(made: Host, other: str) -> UsageError:
    """Two machines that ssh could not distinguish."""
    return UsageError(
        f"ssh-config: two machines are called {made.name}: {printable(made.directory)}, {printable(other)}",
        hint=f"`qvm -C {words.quote(made.directory)} rename NEW` renames one",
    )


def host(vm: BaseMachine) -> Host:
    """The block of a machine, which may be off.

    Raises:
        ConfigError: the machine's files, which may name programs for ssh, were not accepted.
        QvmError: its directory cannot be written in a file of ssh.
    """
    programs.require_accepted(vm)
    name = vm.settings.text("VM_MACHINE_NAME")
    known = [vm.files.known_hosts]
    seen = state.observe(vm)
    note = launch_record.read(vm.files) if seen.is_live else None
    if note and note.disposable:
        known.insert(0, os.path.join(note.runtime, "known_hosts"))
    user = (note and note.user) or vm.settings.text("VM_MACHINE_USER")
    argv = [sys.executable, "-P", "-m", "qvmsh", "-C", vm.directory, "ssh-config", "--connect"]
    rows = _of_user(vm)
    given = {key.lower() for key, _ in rows}
    keys = guest.key_files(vm)
    alias = f"qvm-{identity.uuid_of(vm)}"
    own = [
        ("HostName", alias),  # not an address: the user's ControlPath may be of `%h` or `%C`
        ("User", user),
        ("ProxyCommand", words.joined(argv).replace("%", "%%")),
        ("ProxyUseFdpass", "yes"),
        ("HostKeyAlias", alias),
        ("UserKnownHostsFile", " ".join(map(ssh_connection.quoted, known))),
        ("GlobalKnownHostsFile", "/dev/null"),
        ("StrictHostKeyChecking", "yes"),
        ("CheckHostIP", "no"),
        ("HashKnownHosts", "no"),
        ("UpdateHostKeys", "no"),
        ("ServerAliveInterval", str(ssh_connection.SERVER_ALIVE_S)),
        *(("IdentityFile", ssh_connection.quoted(path)) for path in keys),
        *([("IdentitiesOnly", "yes")] if keys else []),
    ]
    rows += [row for row in own if row[0].lower() not in given or row[0] == "IdentityFile"]
    for _, value in rows:
        if not value.isprintable() or "${" in value:
            raise QvmError(
                f"a file of ssh cannot hold {printable(value)}", machine=vm.name,
                hint="move the machine to a directory without control characters and ${",
            )  # fmt: skip
    return Host(re.sub(r"[^\w.@+-]", "-", name), vm.directory, rows)


def _of_user(vm: BaseMachine) -> list[tuple[str, str]]:
    """The keywords of VM_SSH_OPTIONS; the first value of each counts, so they come first."""
    settings = vm.settings
    found: list[tuple[str, str]] = []
    if not settings.may_run("VM_SSH_OPTIONS"):
        vm.io.warn(f"{vm.name}: VM_SSH_OPTIONS is left out until `qvm allow`")
        return found
    for flag, value in ssh_options.options(settings.ssh_options()):
        if flag == "o":
            found.append(ssh_options.keyword(value.strip()))
        elif flag in _VALUES:
            found.append((_VALUES[flag], ssh_connection.quoted(value) if flag == "i" else value))
        elif flag in _FLAGS:
            key, _, text = _FLAGS[flag].partition(" ")
            found.append((key, text))
        else:
            vm.io.warn(f"{vm.name}: VM_SSH_OPTIONS: -{flag} has no keyword in ssh_config, and is left out")
    return found


def connect(vm: BaseMachine) -> None:
    """Pass a connection to the guest's ssh server to the ssh that called this as its ProxyCommand.

    Where the guest's host key is not known yet, qvm logs in first, so that it is pinned.

    Raises:
        StateError: the machine is not running, or its guest is held.
        GuestUnreachableError: nothing listens there, or another machine answers.
    """
    link = guest.reachable(vm, "reach the guest")
    if not link.is_pinned:
        try:
            link.open(interactive=False, timeout_s=guest.LOG_IN_S)
        except ssh_connection.Refused as refused:
            if refused.kind != "key":  # the host key comes before the login, which is the caller's own
                raise guest.refusal(vm, link, refused) from None
    try:
        with socket.create_connection((link.host, link.port), timeout=CONNECT_S) as made:
            made.settimeout(None)
            if stat.S_ISSOCK(os.fstat(1).st_mode):
                with socket.socket(fileno=os.dup(1)) as caller:
                    socket.send_fds(caller, [b"\0"], [made.fileno()])
            else:
                _relay(made)
    except OSError as error:
        raise GuestUnreachableError(
            f"cannot pass a connection to {link.host}:{link.port}: {error.strerror or error}", machine=vm.name
        ) from None


def _relay(made: socket.socket) -> None:
    """Carry the bytes: for a caller that takes no descriptor."""
    with selectors.DefaultSelector() as ready:
        ready.register(0, selectors.EVENT_READ)
        ready.register(made, selectors.EVENT_READ)
        while made.fileno() in ready.get_map():
            for key, _ in ready.select():
                data = os.read(key.fd, PIECE)
                if not data:
                    ready.unregister(key.fileobj)
                    if key.fd == 0:
                        made.shutdown(socket.SHUT_WR)
                elif key.fd == 0:
                    made.sendall(data)
                else:
                    _write(data)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
