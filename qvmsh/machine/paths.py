"""Every file name of a machine, in one place.

    Files("/vm/demo").pid_file      # /vm/demo/.qvm/qemu.pid

What must last is in the machine's directory; sockets are in the runtime folder. Its name is in the launch
record `.qvm/running`, so that sudo, cron and a system unit find the same machine.
"""

from __future__ import annotations

import os

from qvmsh.host import files as host_files

PID_FILE = os.path.join(".qvm", "qemu.pid")
SERIAL_LOG = os.path.join(".qvm", "log", "serial.log")


class Files:
    """Names below one machine's directory."""

    __slots__ = ("_prefix", "directory")

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._prefix = directory if directory.endswith("/") else f"{directory}/"

    def _at(self, *names: str) -> str:
        return self._prefix + "/".join(names)

    def inside(self, path: str) -> str:
        """`path` from the directory, which may move; as it is where it leads out of it, or through a link."""
        found = os.path.relpath(path, self.directory)
        return path if found.startswith("..") else found

    @property
    def vmrc(self) -> str:
        return self._at(".vmrc")

    @property
    def state(self) -> str:
        """The folder of what qvm keeps about the machine."""
        return self._at(".qvm")

    @property
    def pid_file(self) -> str:
        """Locked by QEMU for as long as it runs: that lock is what "running" means."""
        return self._at(PID_FILE)

    @property
    def launch_record(self) -> str:
        """What the launch chose (runtime folder, ssh port); valid while the pid file is locked."""
        return self._at(".qvm", "running")

    @property
    def work_lock(self) -> str:
        """Held by a command while it changes the machine."""
        return self._at(".qvm", "work.lock")

    @property
    def wait_lock(self) -> str:
        """Held by a `start` that waits for the guest."""
        return self._at(".qvm", "wait.lock")

    @property
    def freeze_lock(self) -> str:
        """Held by what thaws the guest that `freeze` has frozen."""
        return self._at(".qvm", "freeze.lock")

    @property
    def archive_journal(self) -> str:
        """The journal of an archive or restore; while it exists, the next command recovers that first."""
        return self._at(".qvm", "archive.unfinished")

    @property
    def uuid(self) -> str:
        return self._at(".qvm", "uuid")

    @property
    def place(self) -> str:
        """Where the machine is: device, inode and path of its directory. A copy has that of the original."""
        return self._at(".qvm", "place")

    @property
    def known_hosts(self) -> str:
        return self._at(".qvm", "known_hosts")

    @property
    def logs(self) -> str:
        return self._at(".qvm", "log")

    @property
    def serial_log(self) -> str:
        """The guest's serial console since its start; if long, the beginning and the end."""
        return self._at(SERIAL_LOG)

    @property
    def qemu_stdout(self) -> str:
        return self._at(".qvm", "log", "qemu.stdout")

    @property
    def qemu_stderr(self) -> str:
        return self._at(".qvm", "log", "qemu.stderr")

    def hook_log(self, name: str) -> str:
        """The output of the last VM_PRE_START (`pre-start`) or VM_POST_STOP (`post-stop`)."""
        return self._at(".qvm", "log", f"{name}.log")

    @property
    def qvm_log(self) -> str:
        """What qvm did with the machine, over all its runs."""
        return self._at(".qvm", "log", "qvm.log")

    @property
    def snapshots(self) -> str:
        """What qvm knows about the snapshots: messages, parents, the hardware at the time (JSON)."""
        return self._at(".qvm", "snapshots.json")

    @property
    def snapshot_journal(self) -> str:
        """The journal of work on snapshots or a disk; if no command runs, it was interrupted."""
        return self._at(".qvm", "snapshot.unfinished")

    @property
    def adding(self) -> str:
        """The path of the image that `disk add` creates; if no command runs, it was interrupted."""
        return self._at(".qvm", "disk.adding")

    @property
    def recovered(self) -> str:
        """What a guardian has recovered: messages for the next command."""
        return self._at(".qvm", "settled")

    def disposable(self, token: str) -> str:
        """The overlay that receives the writes of `--disposable`; unlinked once QEMU has it open."""
        return self._at(".qvm", f"disposable-{token}.qcow2")


def tail(path: str, lines: int) -> list[str]:
    """The last lines of a log as a person reads them; empty where there is none.

    Without escape sequences (colours, moves of the cursor, titles) and trailing blanks.
    """
    import re

    try:
        fd = host_files.opened(path)
    except OSError:
        return []
    try:
        text = os.pread(fd, 400 * lines, max(0, os.fstat(fd).st_size - 400 * lines)).decode(errors="replace")
    finally:
        os.close(fd)
    text = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]", "", text)
    text = "".join(c if c >= " " or c in "\r\n\t" else "" for c in text)
    found = [line.rstrip() for line in text.replace("\r", "\n").split("\n")]
    return [line for line in found if line][-lines:]
