"""The launch record: which runtime folder and ssh port the running QEMU was given.

It is written before QEMU begins, under the work lock, and means something only while the pid file
is locked; so it is never the answer to "does it run".
"""

from __future__ import annotations

import os

from qvmsh.host import files as host_files
from qvmsh.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.paths import Files


CONSOLE_READY = "console-ready"
"""A file in the runtime folder: what the guest's console has to show was seen, or from where to look."""


class LaunchRecord:
    """The choices of one launch.

    Args:
        runtime: folder of the sockets.
        boot: the host's boot in which it was started (distinguishes a crash from a restarted host).
        ssh_port: port of 127.0.0.1 that leads to the guest's sshd; 0 = none.
        user: the guest's account.
        disposable: True if the changes are discarded.
        base_only: True where the base runs without its overlay.
        loading: the snapshot that is being loaded; "" once the guest runs. If its `start` was killed,
            the guest's memory is incomplete.
        paused_s: when it was last paused, in seconds since the epoch: `resume` corrects its clock.
            0 where that is not known, or a snapshot was restored since.
        ready: what makes the guest ready (VM_READY).
        shares: the directories that the guest was given, see `guest.shares.plan`.
        directory: device and inode of the machine's directory: a copy of the directory has the
            record too, but the QEMU is not the copy's.
    """

    __slots__ = (
        "base_only", "boot", "directory", "disposable", "loading", "paused_s", "ready", "runtime", "shares",
        "ssh_port", "user",
    )  # fmt: skip

    def __init__(
        self, runtime: str = "", boot: str = "", ssh_port: int = 0, user: str = "", disposable: bool = False,
        directory: str = "", base_only: bool = False, loading: str = "", paused_s: int = 0, ready: str = "",
        shares: str = "",
    ) -> None:  # fmt: skip
        self.base_only = base_only
        self.loading = loading
        self.paused_s = paused_s
        self.ready = ready
        self.shares = shares
        self.directory = directory
        self.runtime = runtime
        self.boot = boot
        self.ssh_port = ssh_port
        self.user = user
        self.disposable = disposable

    def socket(self, name: str) -> str:
        return f"{self.runtime}/{name}"

    def write(self, path: str) -> None:
        host_files.write_atomic(
            path,
            f"runtime {self.runtime}\nboot {self.boot}\nssh_port {self.ssh_port}\nuser {self.user}\n"
            f"disposable {'yes' if self.disposable else 'no'}\ndirectory {self.directory}\n"
            f"base_only {'yes' if self.base_only else 'no'}\nloading {self.loading}\n"
            f"paused_s {self.paused_s}\nready {self.ready}\nshares {self.shares}\n",
        )

    @property
    def is_of_this_boot(self) -> bool:
        return self.boot == process.boot_id()


def place(directory: str) -> str:
    """What distinguishes a directory from its copies: device and inode; unchanged by a move."""
    status = os.stat(directory)
    return f"{status.st_dev}:{status.st_ino}"


def read(files: Files) -> LaunchRecord | None:
    """The launch record of the machine with these files; None if there is none, or it is another's."""
    found = _parse(files.launch_record)
    return found if found and found.directory == place(files.directory) else None


def is_of_a_copy(files: Files) -> bool:
    """True if the record belongs to the directory that this one was copied from."""
    found = _parse(files.launch_record)
    return found is not None and found.directory != place(files.directory)


def _parse(path: str) -> LaunchRecord | None:
    try:
        text = host_files.read(path).text
    except OSError:
        return None
    values = dict(line.partition(" ")[::2] for line in text.split("\n"))
    if not values.get("runtime") or "\0" in text:
        return None
    return LaunchRecord(
        runtime=values["runtime"],
        boot=values.get("boot", ""),
        ssh_port=process.number(values.get("ssh_port", "")),
        user=values.get("user", ""),
        disposable=values.get("disposable") == "yes",
        directory=values.get("directory", ""),
        base_only=values.get("base_only") == "yes",
        loading=values.get("loading", ""),
        paused_s=process.number(values.get("paused_s", "")),
        ready=values.get("ready", ""),
        shares=values.get("shares", ""),
    )
