"""The guest over ssh: cached connections, host key pinned.

with taken(vm, "reach the guest", interactive=False) as own:
    own.command(["uname", "-a"], tty=False)               # argument list for ssh
"""

from __future__ import annotations

import os
import time

from qvmsh.errors import GuestUnreachableError
from qvmsh.host import files as host_files
from qvmsh.host import ssh_connection, sshd
from qvmsh.io import isatty
from qvmsh.machine import identity, programs, ready_sign, state
from qvmsh.machine.guest import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine

PROBE_S = 0.5
BANNER_S = 1.5
"""How long a guest that has not answered yet is listened to; one that has, gets longer."""
LOG_IN_S = 15.0
KEY_NAMES = ("id_ed25519", "id_ecdsa", "id_rsa")


def link(vm: BaseMachine, note: LaunchRecord) -> ssh_connection.Link:
    """How to reach the guest of a running machine.

    Raises:
        GuestUnreachableError: the machine has no network, so no ssh.
    """
    settings = vm.settings
    if not note.ssh_port:
        raise GuestUnreachableError(
            "the machine has no network for ssh (VM_NET_MODEL=none)",
            machine=vm.name,
            hint="`qvm cmd` still reaches the monitor",
        )
    if not os.path.isdir(note.runtime):  # somebody removed it; ssh can do without the old one
        note.runtime = identity.runtime_folder(vm)
    host_files.link(vm.directory, note.socket("dir"))  # the directory may have moved
    alias = f"qvm-{identity.uuid_of(vm)}"
    known = _known_hosts(note)
    found = ssh_connection.Link(
        port=note.ssh_port,
        user=note.user or settings.text("VM_MACHINE_USER"),
        folder=note.runtime,
        known_hosts=known,
        alias=alias,
        is_pinned=any(_pins(vm, path, alias) for path in known),
        identities=identities(vm, note),
        options=settings.ssh_options() if settings.may_run("VM_SSH_OPTIONS") else (),
    )

    def lost(line: str, why: str) -> None:
        address, port = line.split(":")[:2]
        vm.io.warn(f"{vm.name}: tcp {address}:{port} is no longer forwarded: ssh says: {why}")

    found.lost = lost
    return found


def _known_hosts(note: LaunchRecord) -> list[str]:
    """Where the host key is pinned; a key made in a disposable run is pinned for that run only."""
    lasting = os.path.join(note.runtime, "dir", ".qvm", "known_hosts")
    return [os.path.join(note.runtime, "known_hosts"), lasting] if note.disposable else [lasting]


def _pins(vm: BaseMachine, path: str, alias: str) -> bool:
    """True if the file holds a host key of this machine.

    GuestUnreachableError: it cannot be used, so a key could neither be checked nor pinned.
    """
    try:
        return any(line.split(" ", 1)[0] == alias for line in host_files.read(path).text.split("\n"))
    except FileNotFoundError:
        if os.access(os.path.dirname(os.path.realpath(path)), os.W_OK):
            return False
        why = "its folder cannot be written to"
    except OSError as error:
        why = error.strerror or str(error)
    raise GuestUnreachableError(
        f"the host key cannot be pinned in .qvm/known_hosts: {why}",
        machine=vm.name,
        hint="repair .qvm/known_hosts (a file that you own); it identifies the guest",
    )


def identities(vm: BaseMachine, note: LaunchRecord) -> list[str]:
    """The keys of `key_files`; those in the machine's directory by its link in the runtime folder."""
    found = []
    for path in key_files(vm):
        inside = os.path.relpath(path, vm.directory)
        found.append(path if inside.startswith("..") else os.path.join(note.runtime, "dir", inside))
    return found


def key_files(vm: BaseMachine) -> list[str]:
    """Private keys to try: VM_SSH_IDENTITY, else those of VM_MACHINE_OWNER if it is another account."""
    import pwd

    if vm.settings.text("VM_SSH_IDENTITY"):
        return [vm.settings.path("VM_SSH_IDENTITY")]
    owner = pwd.getpwnam(vm.settings.text("VM_MACHINE_OWNER"))
    if owner.pw_uid == os.geteuid():
        return []  # ssh's own defaults, and the agent
    keys = [os.path.join(owner.pw_dir, ".ssh", name) for name in KEY_NAMES]
    return [key for key in keys if os.path.exists(key)]


def may_ask(vm: BaseMachine) -> bool:
    """True if ssh may ask for a password: its caller is in the foreground of a terminal, not in a pipe."""
    io = vm.io
    if io.capture or not (isatty(io.stdin) and isatty(io.stdout)):
        return False
    try:
        return os.tcgetpgrp(io.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # it is not our own terminal
        return False


def connect(
    vm: BaseMachine, what: str, *, interactive: bool, timeout_s: float = LOG_IN_S
) -> ssh_connection.Link:
    """The guest's ssh with its cached connection open.

    Raises:
        ConfigError: the machine's files, which may name programs for ssh, were not accepted.
        StateError: the machine is not running, or its guest is held or sleeps: ssh would hang.
        GuestUnreachableError: it is, but ssh cannot log in; the text says why.
    """
    found = reachable(vm, what)
    try:
        found.open(interactive=interactive, timeout_s=timeout_s)
    except ssh_connection.Refused as refused:
        raise refusal(vm, found, refused) from None
    return found


class taken:  # noqa: N801  # used as a function
    """The guest's ssh with a cached connection that no other command uses until the block ends.

    Args:
        options: words for ssh; with them it is a connection that ends with the block.

    Raises:
        UsageError: ssh does not take these options.
        ConfigError, StateError, GuestUnreachableError: as for `connect`.
    """

    def __init__(
        self,
        vm: BaseMachine,
        what: str,
        *,
        interactive: bool,
        timeout_s: float = LOG_IN_S,
        options: Sequence[str] = (),
    ) -> None:
        self._vm = vm
        self._options = options
        self._link = found = reachable(vm, what)
        self._opened: AbstractContextManager[ssh_connection.Link]
        if options:
            from qvmsh.machine.guest import ssh_private

            opened = ssh_private.opened(vm, found, options, interactive=interactive, timeout_s=timeout_s)
            self._opened = opened
        else:
            self._opened = found.taken(interactive=interactive, timeout_s=timeout_s)

    def __enter__(self) -> ssh_connection.Link:
        try:
            return self._opened.__enter__()
        except ssh_connection.Refused as refused:
            raise refusal(self._vm, self._link, refused, self._options) from None

    def __exit__(self, *what: Any) -> None:
        self._opened.__exit__(*what)


def reachable(vm: BaseMachine, what: str) -> ssh_connection.Link:
    """The ssh of a machine whose guest may answer; errors as for `connect`, without a login."""
    programs.require_accepted(vm)
    awake = (state.RUNNING, state.STARTING, state.SHUT_DOWN, state.CRASHED, state.BROKEN)
    _, note = state.require(vm, state.observe(vm), what, *awake)
    frozen.require_thawed(vm, f"cannot {what}")
    return link(vm, note)


def refusal(
    vm: BaseMachine,
    found: ssh_connection.Link,
    refused: ssh_connection.Refused,
    options: Sequence[str] = (),
) -> GuestUnreachableError:
    """What a failed login means, and what to do about it.

    Args:
        options: words for ssh of this call alone.
    """
    words = [line.strip() for line in refused.words.splitlines() if line.strip(" @\r")]
    kind, given = refused.kind, [*options, *found.options]
    if kind == "connection" and not words and given:  # it had no log yet
        from qvmsh.host import ssh_check

        words = [*filter(None, [ssh_check.complaint(given)])]
        kind = "client" if words else kind
    if kind == "host key":
        return GuestUnreachableError(
            f"another machine answers at {found.host}:{found.port}: its host key is not the one that is "
            "pinned for this machine",
            machine=vm.name,
            hint="if the guest was reinstalled, remove .qvm/known_hosts; else find out what answers there",
        )
    if kind == "key":
        for key in found.identities:
            _require_usable(vm, key)
        tried = ", ".join(vm_relative(vm, key) for key in found.identities) or "your own keys and agent"
        return GuestUnreachableError(
            f"the guest refused the ssh key for account {found.user} at {found.host}:{found.port} "
            f"(tried: {tried}); the machine is still running",
            machine=vm.name,
            details=[line.partition(" (")[0] for line in words[-1:]],  # without the ways in that it offers
            hint="VM_SSH_IDENTITY names the key, VM_MACHINE_USER the account; the guest's "
            "~/.ssh/authorized_keys must hold its public half (`qvm console` logs in without ssh)",
        )
    if kind == "busy":
        return GuestUnreachableError(refused.words, machine=vm.name, hint="answer it there, or end it")
    if kind == "forward":
        return GuestUnreachableError(
            "ssh cannot forward a port, so nothing was run",
            machine=vm.name,
            details=[line.rstrip(".") for line in words[-3:]],
            hint="another program may use that port: choose another one",
        )
    return GuestUnreachableError(
        f"the guest does not answer ssh at {found.host}:{found.port}",
        machine=vm.name,
        details=words[-2:],
        hint="`qvm status` shows its state; VM_SSH_OPTIONS is passed to ssh unchanged"
        if kind == "client"
        else "options for ssh may be the reason (-o, VM_SSH_OPTIONS); `qvm status` shows its state"
        if given
        else "it may still be booting: `qvm status`; its console is in .qvm/log/serial.log",
    )


def _require_usable(vm: BaseMachine, key: str) -> None:
    """Report a problem of our own key rather than of the guest.

    GuestUnreachableError: others can read it, or it needs a passphrase that nobody could give.
    """
    import subprocess

    shown = vm_relative(vm, key)
    try:
        mode = os.stat(key).st_mode
    except OSError as error:
        raise GuestUnreachableError(
            f"the ssh key {shown} cannot be read: {error.strerror}",
            machine=vm.name,
            hint="VM_SSH_IDENTITY names the key",
        ) from None
    if mode & 0o077:
        raise GuestUnreachableError(
            f"ssh does not use the key {shown}: others can read it",
            machine=vm.name,
            hint=f"chmod 600 {shown}",
        )
    argv = ["ssh-keygen", "-y", "-P", "", "-f", key]
    if subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True).returncode:
        raise GuestUnreachableError(
            f"the ssh key {shown} has a passphrase, or is not a key",
            machine=vm.name,
            hint="`ssh-add` it; or `qvm ssh true`, on a terminal, asks for it once",
        )


def vm_relative(vm: BaseMachine, path: str) -> str:
    """`path` as the user wrote it: without the runtime folder's link."""
    head, mark, rest = path.partition("/dir/")
    return rest if mark and "qvm" in head else path


def answers(vm: BaseMachine, note: LaunchRecord, *, timeout_s: float) -> tuple[bool, str]:
    """True if a command can be run in the guest; else False and why, in a few words."""
    if not ready_sign.is_ssh(vm, note):
        return False, "no ssh"
    found = link(vm, note)
    was_up = found.is_open()  # then no connection is swallowed: one look, and patience with a busy guest
    first_s, least_s = (timeout_s, timeout_s / 2) if was_up else (PROBE_S, BANNER_S)
    if not speaks(found, timeout_s=least_s, first_s=first_s):
        return False, "ssh does not answer"
    try:
        found.open(interactive=False, timeout_s=timeout_s)
    except ssh_connection.Refused as refused:
        reason = {
            "key": "ssh refuses the key", "host key": "another machine answers at its ssh port",
            "busy": refused.words,
        }  # fmt: skip
        return False, reason.get(refused.kind, "ssh does not answer")
    return True, ""


def speaks(found: ssh_connection.Link, *, timeout_s: float, first_s: float = PROBE_S) -> bool:
    """True if an ssh server answers at the port.

    Args:
        first_s: how long the first connection is listened to.
    """
    deadline = time.monotonic() + timeout_s
    with sshd.Knocking(found.host, found.port, first_s=first_s) as knocking:
        while knocking.step(-1, max(0.0, deadline - time.monotonic())) != "ssh":
            if time.monotonic() >= deadline:
                return False
    return True


def close(vm: BaseMachine, note: LaunchRecord) -> None:
    """End the cached connection, if there is one."""
    if note.ssh_port and os.path.isdir(note.runtime):
        link(vm, note).close()
