"""A machine of root's that QEMU runs as another account (VM_MACHINE_OWNER): what that account is given."""

from __future__ import annotations

import os

from qvmsh.errors import ConfigError, QvmError
from qvmsh.machine import owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.host.accounts import Account
    from qvmsh.machine.machine import BaseMachine


def require_roots(vm: BaseMachine) -> None:
    """Refuse to start as root what VM_MACHINE_OWNER says is another account's.

    Raises:
        QvmError: a program of root's starts it; the command line hands such a machine over first.
    """
    account = owner.named(vm.loaded, vm.directory)
    if account:
        raise QvmError(
            f"VM_MACHINE_OWNER is {account.name}: root does not start the machine with its own rights",
            machine=vm.name,
            hint=f"`qvm -C {vm.directory} start` starts it as {account.name}, or set VM_MACHINE_OWNER=root",
        )


def hand_over(vm: BaseMachine, account: Account) -> None:
    """Give the account a machine that root has made for it: its images, `.qvm`, and the directory last.

    Until the directory is given nobody else can change what is in it. `.vmrc`, the seed, and what has a
    second name stay root's.

    Raises:
        ConfigError: the directory is an account's home.
    """
    from qvmsh.host import accounts

    real = os.path.realpath(vm.directory)
    if real == "/" or real in accounts.homes():
        raise ConfigError(
            f"{real} is the home directory of an account: it cannot be given to {account.name}",
            machine=vm.name,
            hint="give the machine a directory of its own, or set VM_MACHINE_OWNER=root",
        )
    if os.path.isdir(vm.files.state):
        accounts.give_folder(vm.files.state, account)
    for name in _images(vm):
        accounts.give(os.path.join(vm.directory, name), account)
    accounts.give(vm.directory, account)


def _images(vm: BaseMachine) -> list[str]:
    """Names of the files in the machine's directory that QEMU may write; not the seed."""
    settings = vm.loaded
    name, seed = settings["VM_MACHINE_NAME"], settings["VM_SNAPSHOT_SEEDFILENAME"]
    beside = [each for each in os.listdir(vm.directory) if each.startswith((f"{name}-", f"{name}."))]
    lines = settings.lines("VM_DISKS") if "VM_DISKS" in settings else []
    # path[:format[:cache]], and a : may be part of the path: what is not there is not given
    disks = [":".join(line.split(":")[:count]) for line in lines for count in range(1, line.count(":") + 2)]
    logs = [settings[each] for each in ("VM_LOG", "VM_ERRLOG") if each in settings]
    inside = [each for each in (*disks, *logs) if not os.path.isabs(each) and ".." not in each.split("/")]
    return [each for each in (*beside, *inside) if each and each != seed]
