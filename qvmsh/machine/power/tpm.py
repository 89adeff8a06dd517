"""The TPM of a machine: swtpm, a program of its own that lives and ends with QEMU.

    companion = Companion(vm, token="")
    companion.qemus_end.fileno()            # for QEMU's -chardev
    companion.words                         # for host/lock_and_exec.py, which begins it

QEMU and swtpm talk over a pair of connected sockets that has no name: nobody else can reach the TPM,
and nothing of it is left in the file system. `host/lock_and_exec.py` starts swtpm as a child of the process
that becomes QEMU; it ends when QEMU closes its end of the pair, and the kernel ends it with QEMU.

Its state (keys that it must not lose) is in `.qvm/tpm`. What a running guest has changed is also
part of a saved state.
"""

from __future__ import annotations

import os
import shutil
import socket

from qvmsh.errors import MissingProgramError, QvmError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process
from qvmsh.machine import paths
from qvmsh.qemu import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine

STATE = os.path.join(".qvm", "tpm")
LOG = os.path.join(".qvm", "log", "swtpm.log")

END_S = 5.0
"""How long the swtpm of a QEMU that has ended may take to end."""


def is_wanted(vm: BaseMachine) -> bool:
    """True if the machine has a TPM."""
    return vm.settings.boolean("VM_TPM") and not vm.settings.text("VM_QEMU_ARGS")


def program(vm: BaseMachine) -> str:
    """Path of swtpm.

    Raises:
        MissingProgramError: it is not installed.
    """
    try:
        return programs.find("swtpm", environ=vm.environ)
    except MissingProgramError as error:
        raise MissingProgramError(
            f"{error.what}, and VM_TPM=yes needs it", machine=vm.name, hint=error.hint
        ) from None


def arguments(vm: BaseMachine, top: str, control: str, state: str = STATE) -> list[str]:
    """swtpm's argument list.

    Args:
        top: prefix of its paths; "" if it runs in the machine's directory.
        state: where its state is, from there.
        control: how QEMU reaches it: `clientfd=N`, or `path=...`.
    """
    return [
        program(vm), "socket", "--tpm2", "--terminate",
        "--tpmstate", f"dir={os.path.join(top, state)},mode=0600",
        "--ctrl", f"type=unixio,{control}", "--log", f"file={os.path.join(top, LOG)},level=1,truncate",
    ]  # fmt: skip


def by_hand(vm: BaseMachine, control: str) -> list[str]:
    """What `dryrun` shows: the swtpm that must run before QEMU, reached by a socket with a name."""
    _folder(vm, "")
    return [*arguments(vm, vm.directory, f"path={control}"), "--daemon"]  # as a daemon it works in /


def last_words(vm: BaseMachine) -> list[str]:
    """What swtpm complained of, for the report of a launch that failed."""
    return paths.tail(os.path.join(vm.directory, LOG), 5) if is_wanted(vm) else []


class Companion:
    """The swtpm to be: its end and QEMU's end of the pair of sockets.

    Args:
        token: of a disposable run, which gets a temporary copy of the state; "" for the real one.

    Raises:
        QvmError: another program holds the state.
    """

    def __init__(self, vm: BaseMachine, token: str) -> None:
        where = _folder(vm, token)
        _wait_until_free(vm, where)
        host_files.remove(os.path.join(vm.directory, LOG))
        self.qemus_end, self._own_end = socket.socketpair()
        words = arguments(vm, "", f"clientfd={self._own_end.fileno()}", where)
        self.words = ["--with", str(self._own_end.fileno()), str(len(words)), *words]

    @property
    def fds(self) -> list[int]:
        """What the launched process inherits."""
        return [self.qemus_end.fileno(), self._own_end.fileno()]

    def close(self) -> None:
        """Close our copies of both ends: when the others do so too, swtpm ends."""
        self.qemus_end.close()
        self._own_end.close()


def _folder(vm: BaseMachine, token: str) -> str:
    """The folder of the state, made if it is not there, from the machine's directory."""
    path = os.path.join(vm.directory, STATE)
    os.makedirs(path, mode=0o700, exist_ok=True)
    if not token:
        return STATE
    copy = os.path.join(".qvm", f"disposable-{token}-tpm")
    shutil.copytree(path, os.path.join(vm.directory, copy), ignore=shutil.ignore_patterns(".lock"))
    return copy


def _wait_until_free(vm: BaseMachine, where: str) -> None:
    """Wait until the swtpm of a QEMU that has just ended has released its state."""
    pid = locks.holder(os.path.join(vm.directory, where, ".lock"))
    if pid is None:
        return
    try:
        with process.Process(pid) as handle:
            if handle.wait(END_S):
                return
    except ProcessLookupError:
        return
    raise QvmError(
        f"the TPM's state {where} is in use by {process.program(pid)} (pid {pid})",
        machine=vm.name,
        hint="end that process first",
    )
