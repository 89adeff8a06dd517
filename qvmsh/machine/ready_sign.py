"""What says that a guest is ready (VM_READY).

of(vm, note)                # "ssh", "agent", "console:login:", "none"
"""

from __future__ import annotations

from qvmsh.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine


def of(vm: BaseMachine, note: LaunchRecord) -> str:
    """`ssh`, `agent`, `console:REGEX`, or `none`: the guest is ready as soon as QEMU runs."""
    try:
        now = vm.settings.text("VM_READY")
    except ConfigError:  # the files were changed meanwhile
        now = ""
    if "none" in (note.ready, now):
        return "none"
    sign = note.ready or now or "ssh"
    return "none" if sign == "ssh" and not note.ssh_port else sign


def is_ssh(vm: BaseMachine, note: LaunchRecord) -> bool:
    """True if the guest is ready once its ssh answers: then it may be asked by ssh, too."""
    return of(vm, note) == "ssh"
