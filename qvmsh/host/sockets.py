"""Unix sockets: where they are, how long their names may be, listening before QEMU runs.

The sockets are made and listen before QEMU is executed, which inherits them: so a client can
connect at once and its first reply is the moment QEMU is up; nothing polls for a file::

    listening("/run/user/1000/qvm/3f2a", ["qmp", "monitor"])     # {"qmp": socket, ...}
"""

from __future__ import annotations

import os
import sys

from qvmsh.errors import QvmError
from qvmsh.host import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from socket import socket

MAX_PATH_BYTES = 107
"""What a Unix socket's name may have: sockaddr_un holds 108 with the final NUL. Source: unix(7)."""

TMP = "/tmp"  # noqa: S108

OURS = frozenset((
    "qmp", "session", "events", "watch", "told", "monitor", "serial", "serial.in", "serial.out", "qga",
    "dir", "ssh", "known_hosts", "ssh_config", "lock", "lock0", "taken", "console", "console.lock", "pane",
    "tmux", "fs",
))  # fmt: skip
"""What qvm puts into a runtime folder, besides `ssh.*` and root's `ssh0*` in another account's."""

LONGEST_NAME = "ssh.99.XXXXXXXXXXXXXXXX"
"""ssh makes its control socket under a name with 17 bytes more, then renames it."""


def runtime_base(environ: Mapping[str, str], uid: int) -> str:
    """The user's folder for sockets: `$XDG_RUNTIME_DIR/qvm`, else `/run/qvm` (root), else `/tmp/qvm-UID`.

    If another account has taken that name: `/tmp/qvm-UID.XXXXXXXX`, which nobody can predict.
    """
    wanted = environ.get("XDG_RUNTIME_DIR")
    if wanted and os.path.isdir(wanted) and os.access(wanted, os.W_OK):
        return os.path.join(wanted, "qvm")
    if uid == 0 and os.access("/run", os.W_OK):
        return "/run/qvm"
    usual = f"{TMP}/qvm-{uid}"
    if not os.path.lexists(usual) or _is_folder_of(usual, uid):
        return usual
    with os.scandir(TMP) as entries:
        others = sorted(each.path for each in entries if each.name.startswith(f"qvm-{uid}."))
    return next((each for each in others if _is_folder_of(each, uid)), f"{usual}.{os.urandom(4).hex()}")


def _is_folder_of(path: str, uid: int) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return status.st_mode & 0o170000 == 0o040000 and status.st_uid == uid


def runtime_path(base: str, identity: str) -> str:
    """Where the sockets of the machine `identity` are, below `base`."""
    from _blake2 import blake2b

    return os.path.join(base, blake2b(os.fsencode(identity), digest_size=5).hexdigest())


def runtime_folder(base: str, identity: str, machine: str) -> str:
    """The folder for the sockets of one machine, made if it is not there.

    Args:
        base: from `runtime_base`.
        identity: what the machine is known by; its hash names the folder.
        machine: name for messages.

    Raises:
        QvmError: the names of sockets in it would be too long, or it is not a private folder.
    """
    path = runtime_path(base, identity)
    length = len(os.fsencode(os.path.join(path, LONGEST_NAME)))
    if length > MAX_PATH_BYTES or "\n" in path:
        raise QvmError(
            f"the runtime folder {base} is too long for sockets: their names would have "
            f"{length} bytes, {MAX_PATH_BYTES} is the limit",
            machine=machine,
            hint="set XDG_RUNTIME_DIR to a folder with a shorter name",
        )
    try:
        files.private_folder(base)
        files.private_folder(path)
    except OSError as error:
        raise QvmError(
            f"cannot use the runtime folder {error.filename}: {error.strerror}",
            machine=machine,
            hint="remove it, or set XDG_RUNTIME_DIR to a folder of your own",
        ) from error
    return path


def listening(folder: str, names: Iterable[str]) -> dict[str, socket]:
    """Listening sockets `folder/NAME` for QEMU to inherit, replacing what a dead QEMU left."""
    from socket import AF_UNIX, socket

    made: dict[str, socket] = {}
    for name in names:
        path = os.path.join(folder, name)
        files.remove(path)
        made[name] = made_socket = socket(AF_UNIX)
        made_socket.bind(path)
        made_socket.listen(128)
    return made


def remove_folder(folder: str, owners: Iterable[int]) -> None:
    """Remove a runtime folder with what qvm puts there; anything else stays.

    The name comes from a file, so it is not believed: only a private folder of one of `owners`,
    below a folder of qvm's name, is touched, and only the names that qvm makes.
    """
    try:
        status = os.lstat(folder)
    except OSError:
        return
    above = os.path.basename(os.path.dirname(folder))
    is_private_folder = status.st_mode & 0o170077 == 0o040000
    if not is_private_folder or status.st_uid not in owners or not above.startswith("qvm"):
        return
    try:
        for name in os.listdir(folder):
            if name in OURS or name.startswith(("ssh.", "ssh0")):
                files.remove(os.path.join(folder, name))
            elif name == "screen":  # screen wants a folder; it is empty once the session has ended
                for inner in os.listdir(os.path.join(folder, name)):
                    files.remove(os.path.join(folder, name, inner))
                os.rmdir(os.path.join(folder, name))
        os.rmdir(folder)
    except OSError:  # something that is not qvm's is there
        pass


def is_dead(folder: str, young_s: float) -> bool:
    """True if it is an unused runtime folder: none of its sockets has a listener.

    One that was changed within `young_s` and holds no socket yet may be about to be used.
    """
    import stat
    import time

    try:
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return False
        names = os.listdir(folder)
        ours = [name for name in names if name in OURS or name.startswith("ssh.")]
        has_socket = False
        for name in names:
            path = os.path.join(folder, name)
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                has_socket = True
                if _has_listener(path):
                    return False
    except OSError:
        return False
    if len(ours) < len(names) or (not ours and names):
        return False
    return has_socket or time.time() - status.st_mtime > young_s


def _has_listener(path: str) -> bool:
    from socket import AF_UNIX, socket

    with socket(AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free at this moment."""
    from socket import socket

    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def port_is_free(port: int) -> bool:
    """True if `127.0.0.1:port` can be bound now."""
    from socket import SO_REUSEADDR, SOL_SOCKET, socket

    with socket() as probe:
        probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def obstacle(protocol: str, address: str, port: int) -> str:
    """Why `address:port` cannot be bound now, in a few words; "" if it can."""
    import errno
    from socket import SO_REUSEADDR, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, socket

    with socket(type=SOCK_STREAM if protocol == "tcp" else SOCK_DGRAM) as probe:
        if protocol == "tcp":
            probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            if protocol == "tcp":
                probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"taken by {port_user(port, protocol, address) or 'another program'}"
            if error.errno == errno.EADDRNOTAVAIL:
                return f"{address} is not an address of this host"
            if error.errno == errno.EACCES:
                return "only root may use a port below 1024"
            return error.strerror or str(error)
    return ""


def port_user(port: int, protocol: str = "tcp", address: str = "") -> str:
    """The process that listens on the port: `nginx, pid 812`; "" if it cannot be seen.

    Args:
        address: where it would be in the way; "" for any.
    """
    inodes = set()
    state = {"tcp": "0A", "udp": "07"}[protocol]  # TCP_LISTEN, TCP_CLOSE
    for table in (f"/proc/net/{protocol}", f"/proc/net/{protocol}6"):
        try:
            with open(table) as file:
                for line in file.readlines()[1:]:
                    fields = line.split()
                    where, _, number = fields[1].rpartition(":")
                    if fields[3] == state and int(number, 16) == port and _is_in_the_way(where, address):
                        inodes.add(f"socket:[{fields[9]}]")
        except OSError:
            continue
    from qvmsh.host import process

    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with os.scandir(f"/proc/{pid}/fd") as fds:
                if any(os.readlink(fd.path) in inodes for fd in fds):
                    return f"{process.program(int(pid))}, pid {pid}"
        except OSError:
            continue
    return ""


def _is_in_the_way(where: str, address: str) -> bool:
    """True if a listener keeps others from an IPv4 address.

    Args:
        where: the listener's address as /proc/net has it: words of four bytes in this host's order.
        address: "" and 0.0.0.0 for any.
    """
    from socket import inet_aton

    words = [where[at : at + 8] for at in range(0, len(where), 8)]
    held = b"".join(int(each, 16).to_bytes(4, sys.byteorder) for each in words)
    mapped = b"\0" * 10 + b"\xff\xff"
    held = held.removeprefix(mapped) if len(held) == 16 else held
    every = (b"\0" * 4, b"\0" * 16)
    return not address or inet_aton(address) in (held, b"\0" * 4) or held in every
