"""What a machine is known by: its UUID, kept in its directory, its number, and its MAC address."""

from __future__ import annotations

import os

from qvmsh.errors import QvmError, UsageError
from qvmsh.host import files as host_files
from qvmsh.host import sockets
from qvmsh.machine import launch_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qvmsh.machine.machine import BaseMachine


def uuid_of(vm: BaseMachine) -> str:
    """The machine's UUID, made at its first use and kept in `.qvm/uuid`."""
    text = known_uuid(vm)
    if text:
        return text
    from uuid import uuid4

    vm.state_folder()
    made = str(uuid4())
    host_files.write_atomic(vm.files.uuid, made + "\n")
    return made


def known_uuid(vm: BaseMachine) -> str:
    """The machine's UUID, "" if it has none yet."""
    try:
        text = host_files.read(vm.files.uuid).text.strip()
    except FileNotFoundError:
        return ""
    return text if len(text) == 36 and all(c in "0123456789abcdef-" for c in text) else ""


def runtime_folder(vm: BaseMachine) -> str:
    """The folder for the sockets of this directory's machine, made if it is not there.

    A copy of the directory, or another machine at its old place, has another one.
    """
    base = sockets.runtime_base(vm.environ, os.geteuid())
    return sockets.runtime_folder(base, f"{uuid_of(vm)} {launch_record.place(vm.directory)}", vm.name)


def runtime_path(vm: BaseMachine, uuid: str, uid: int) -> str:
    """Where the sockets of a QEMU are that the account `uid` started with this UUID."""
    identity = f"{uuid} {launch_record.place(vm.directory)}"
    return sockets.runtime_path(sockets.runtime_base(vm.environ, uid), identity)


def process_name(vm: BaseMachine) -> str | None:
    """What `ps` shows QEMU as; only Linux lets QEMU choose. The kernel keeps 15 bytes of it."""
    import sys

    return f"qvm-{vm.settings.text('VM_MACHINE_NAME')}" if sys.platform == "linux" else None


def mac_address(machine_id: str) -> str:
    """The address of the first network card, from VM_MACHINE_ID. Source: `vm` (bash)."""
    return f"DE:AD:BE:EF:{machine_id}:11"


def own_mac_address(vm: BaseMachine) -> str:
    """The address of the machine's first network card (VM_NET_MAC)."""
    wanted = vm.settings.text("VM_NET_MAC")
    if wanted == "auto":
        digits = uuid_of(vm).replace("-", "")[-6:]
        return f"52:54:00:{digits[:2]}:{digits[2:4]}:{digits[4:]}"
    return wanted or mac_address(vm.settings.text("VM_MACHINE_ID"))


SHARED_ID = "00"
"""The VM_MACHINE_ID of machines that are made once all others are taken."""


def ids(environ: Mapping[str, str]) -> dict[str, str]:
    """The VM_MACHINE_ID of each known machine, also in the trash, and its directory."""
    return values("VM_MACHINE_ID", environ)


def values(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The values of a variable in the known machines, also those in the trash, and their directories."""
    from qvmsh.machine import registry
    from qvmsh.machine.machine import BaseMachine

    found = {}
    for directory in (*registry.in_the_trash(environ), *registry.directories(environ)):
        try:
            found[BaseMachine(directory, environ={}).loaded[name]] = directory
        except (QvmError, KeyError):
            continue
    return found


UNIQUE = ("VM_NET_MAC", "VM_SSH_PORT", "VM_NET_PORT")
"""What two machines must not both have, besides the number, if it is not `auto` or empty."""


def require_unique(made: BaseMachine, verb: str) -> None:
    """Refuse a machine whose file gives it an address or a port that a known one has.

    Raises:
        UsageError: the text names the variable and that machine.
    """
    for name in UNIQUE:
        wanted = made.settings.text(name)
        is_own = made.settings.is_set(name) and made.settings.origin(name).file == made.files.vmrc
        other = values(name, made.environ).get(wanted) if is_own and wanted not in ("", "auto") else None
        if other:
            raise UsageError(
                f"{verb}: {name}={wanted} is that of the machine in {other}", hint=f"`--set {name}=auto`"
            )


def free_id(environ: Mapping[str, str]) -> str | None:
    """A VM_MACHINE_ID that no known machine has; None if all are taken."""
    taken = ids(environ)
    return next((f"{n:02}" for n in range(1, 100) if f"{n:02}" not in taken), None)


class settled:  # noqa: N801  # used as a function; `contextlib` would be in the way of `qvm ssh`
    """Let a machine that is made become known in the block, with a number that no other has got.

    Args:
        made: in its temporary folder.
        is_fixed: its number was asked for.
    """

    def __init__(self, made: BaseMachine, *, is_fixed: bool) -> None:
        self._made = made
        self._is_fixed = is_fixed

    def __enter__(self) -> None:
        self._lock = _turn(self._made.environ)
        try:
            if not self._is_fixed:
                _number(self._made)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._lock >= 0:
            os.close(self._lock)


def _number(made: BaseMachine) -> None:
    """Give a machine a number that no other has, if its own is another's."""
    from qvmsh.config import edit

    was = made.settings.text("VM_MACHINE_ID")
    if was in ids(made.environ) and was != SHARED_ID:
        number = free_id(made.environ)
        values = {"VM_MACHINE_ID": number or SHARED_ID} | ({} if number else {"VM_NET_MAC": "auto"})
        if made.settings.text("VM_NET_PORT") == f"77{was}":
            values["VM_NET_PORT"] = f"77{number or SHARED_ID}"
        for name, value in values.items():
            edit.assign_in_file(made.files.vmrc, name, value)


def _turn(environ: Mapping[str, str]) -> int:
    """A lock: one process at a time chooses what no known machine has; -1 where there can be none."""
    import fcntl

    from qvmsh.machine import registry

    path = registry.list_file(environ)
    if path is None:
        return -1
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(f"{path}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError:  # a full disk: without
        return -1
    return fd
