"""What a QEMU that has ended leaves: sockets, launch record, pid file, disposable overlays."""

from __future__ import annotations

import os
import shutil

from qvmsh.errors import ConfigError, LockedError
from qvmsh.host import files as host_files
from qvmsh.host import locks, sockets
from qvmsh.machine import launch_record
from qvmsh.machine.guest import frozen, serial
from qvmsh.machine.work import hooks
from qvmsh.machine.work.lock import work_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine import state
    from qvmsh.machine.machine import BaseMachine


def clear(vm: BaseMachine, *, has_hook: bool = True, keeps_crash: bool = False) -> None:
    """Remove what a QEMU that has ended left: sockets, launch record, pid file, disposable overlays.

    The record goes last: while it exists, VM_POST_STOP of that run is still due.

    Args:
        keeps_crash: leave the pid file of one that crashed, by which the next command knows of it.
    """
    note = launch_record.read(vm.files)
    frozen.forget(vm)
    if note:
        serial.wait_end(note.runtime)
        sockets.remove_folder(note.runtime, {os.geteuid()})
    if not keeps_crash:
        host_files.remove(vm.files.pid_file)
    if note and has_hook:
        hooks.post_stop(vm)
    host_files.remove(vm.files.launch_record)
    try:
        names = os.listdir(vm.files.state)
    except FileNotFoundError:
        return
    for name in names:
        if is_part(name):
            path = os.path.join(vm.files.state, name)
            if os.path.isdir(path) and not os.path.islink(path):  # of a TPM
                shutil.rmtree(path, ignore_errors=True)
            else:
                host_files.remove(path)


def keep_record(vm: BaseMachine, seen: state.Observation) -> None:
    """Rewrite a launch record that was removed, so that what QEMU leaves is cleared."""
    if seen.note is not None and not os.path.lexists(vm.files.launch_record):
        vm.state_folder()
        seen.note.write(vm.files.launch_record)


def is_part(name: str) -> bool:
    """True for a file in `.qvm` that means nothing without the process that made it."""
    return name.startswith("disposable-") or ".part" in name


def tidy(vm: BaseMachine, *, is_asked: bool = False) -> None:
    """`clear`, unless another command works on the machine or a QEMU runs, which then clears it.

    Also not if this user has not accepted what the files of another account's machine name.

    Args:
        is_asked: this command has ended QEMU, so nothing has crashed.
    """
    try:
        with work_lock(vm, "tidy"):
            if locks.holder(vm.files.pid_file) is None:
                clear(vm, keeps_crash=not is_asked)
    except (LockedError, ConfigError):
        pass
