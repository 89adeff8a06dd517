"""What a QEMU that ended before it answered means for the user."""

from __future__ import annotations

import os
import re

from qvmsh.config.words import quote
from qvmsh.errors import LaunchError, LockedError, QvmError
from qvmsh.host import files as host_files
from qvmsh.host import lock_and_exec, process
from qvmsh.machine import paths
from qvmsh.machine.guest.shares import virtiofsd
from qvmsh.machine.power import ports, tpm
from qvmsh.qemu import image, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.machine import BaseMachine


def no_room(vm: BaseMachine, verb: str, mount: str) -> LaunchError:
    return LaunchError(
        f"cannot {verb}: no space is left on the file system of {mount}",
        machine=vm.name,
        hint=f"free some space there (`df -h {quote(mount)}`), then try again; nothing was changed",
    )


def of(vm: BaseMachine, verb: str, binary: str, status: int) -> QvmError:
    """The error for a QEMU that ended with this return code, from its output."""
    if status == lock_and_exec.HELD:
        return LockedError(f"cannot {verb}: another command just started it", machine=vm.name)
    words = [
        line.removeprefix(f"{binary}: ").removeprefix(f"{os.path.basename(binary)}: ")
        for line in paths.tail(vm.files.qemu_stderr, 10)
    ]
    for folder in (vm.files.state, os.path.dirname(vm.files.qemu_stderr)):
        if host_files.is_full(folder):
            error = no_room(vm, verb, host_files.mount_of(folder))
            error.details = tuple(words)
            return error
    how = process.signal_name(-status) if status < 0 else f"exit status {status}"
    found = re.search(r"Is another process using the image \[(.*)\]", "\n".join(words))
    if found:
        return image.in_use(os.path.join(vm.directory, found[1]), vm.name)
    taken = ports.refused(vm, words)
    if taken:
        return taken
    words += [*tpm.last_words(vm), *virtiofsd.last_words(vm)]
    hint = "`qvm dryrun` shows its command line; .qvm/log/qemu.stderr has its full output"
    text = "\n".join(words)
    if re.search(r"-display |\bgtk\b|\bsdl\b|open display", text, re.IGNORECASE):
        hint = "`--set VM_QEMU_DISPLAY=none` runs without a window"
        if re.search("not available|not found|not accept", text):
            hint = f"{programs.install('gtk')} adds QEMU's windows; {hint}"
    return LaunchError(f"QEMU exited immediately ({how})", machine=vm.name, details=words, hint=hint)
