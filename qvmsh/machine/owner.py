"""The machine's owner where root is at work: QEMU runs as VM_MACHINE_OWNER, and so does its start.

May import: `host.accounts` late, `errors` (one-shot path).

    account = owner.other(vm)       # None, or the account that `start` must run as
    owner.share(vm)                 # what root has made in .qvm is the owner's too
    with owner.rights(vm): ...      # as the owner could: root follows no link of his to a file of root's

Root does not start QEMU and let it drop its rights (`-runas`): QEMU would have parsed images and
opened files as root before, and root would write into a folder that another account controls. It starts
`machine.delegate` as that account, which does what `qvm start` does for everybody. Before that root
gives away those of its own files that QEMU must write: `.qvm`, the images, the logs.
"""

from __future__ import annotations

import contextlib
import os

from qvmsh.errors import QvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvmsh.host.accounts import Account
    from qvmsh.machine.machine import Machine


def other(vm: Machine) -> Account | None:
    """VM_MACHINE_OWNER, where this is root and the owner is somebody else; else None."""
    if os.geteuid() != 0:
        return None
    from qvmsh.host import accounts

    try:
        found = accounts.find(vm.loaded["VM_MACHINE_OWNER"])
    except (KeyError, QvmError):  # the problem says so where it matters
        return None
    return found if found.uid != 0 else None


def acting(vm: Machine) -> Account | None:
    """Whose rights a program gets that works on the machine's images, with which the owner may work too.

    An image names any file as what it stands on, and the image itself may be a link. What is root's of the
    machine becomes the owner's first, as when root starts it.
    """
    account = other(vm)
    if account:
        prepare(vm, account)
    return account


@contextlib.contextmanager
def rights(vm: Machine) -> Iterator[None]:
    """Open, rename and remove files of the machine as its owner could; no program is started meanwhile."""
    account = other(vm)
    if account is None:
        yield
        return
    from qvmsh.host import accounts

    with accounts.rights_of(account):
        yield


def share(vm: Machine) -> None:
    """Give the owner what root has made in `.qvm`: locks, pinned host keys, logs."""
    account = other(vm)
    if account:
        from qvmsh.host import accounts

        accounts.give_folder(vm.files.state, account)


def give(vm: Machine, path: str) -> None:
    """Give the owner a file of the machine that root has made."""
    account = other(vm)
    if account:
        from qvmsh.host import accounts

        accounts.give(path, account)


def give_descriptor(vm: Machine, fd: int) -> None:
    """As `give`, for an open file."""
    account = other(vm)
    if account:
        from qvmsh.host import accounts

        accounts.give_descriptor(fd, account)


def opened(vm: Machine, path: str) -> int:
    """A file of the machine, open for reading with the owner's rights.

    The owner may have put a link there, or have an image stand on a file that is root's.
    """
    with rights(vm):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)


def share_descriptor(vm: Machine, path: str, fd: int) -> None:
    """Give the owner the open file at `path` that root may just have made among the machine's files."""
    account = other(vm)
    if account and os.path.dirname(path) in (vm.directory, vm.files.logs):
        from qvmsh.host import accounts

        accounts.give_descriptor(fd, account)


def prepare(vm: Machine, account: Account) -> None:
    """Give the owner all that its QEMU must write, as far as it is root's."""
    from qvmsh.host import accounts

    vm.state_folder()
    accounts.give_folder(vm.files.state, account)
    settings = vm.settings
    for each in _images(vm):
        accounts.give(os.path.join(vm.directory, each), account)
    for log in ("VM_LOG", "VM_ERRLOG"):
        path = settings.path(log)
        is_inside = bool(path) and os.path.dirname(path) == vm.directory
        if is_inside and not accounts.give(path, account):
            _make(path, account)


def _images(vm: Machine) -> list[str]:
    """Names of the files in the machine's directory that QEMU may write; the pristine image is none."""
    settings = vm.settings
    name, seed = settings.text("VM_MACHINE_NAME"), settings.text("VM_SNAPSHOT_SEEDFILENAME")
    beside = [each for each in os.listdir(vm.directory) if each.startswith((f"{name}-", f"{name}."))]
    lines = settings.lines("VM_DISKS") if "VM_DISKS" in settings else []
    # path[:format[:cache]], and a : may be part of the path: what is not there is not given
    disks = [":".join(line.split(":")[:count]) for line in lines for count in range(1, line.count(":") + 2)]
    inside = [each for each in disks if not os.path.isabs(each) and ".." not in each.split("/")]
    return [each for each in (*beside, *inside) if each != seed]


def _make(path: str, account: Account) -> None:
    """An empty file of the account's, in a folder where it could not make one."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError:
        return
    os.fchown(fd, account.uid, account.gid)
    os.close(fd)
