"""Saved state: the memory of a machine as a snapshot in its disks. `restore.load` resumes it.

    save(vm, note, "ready", has_suspend=True)       # suspend -> snapshot; the guest stays stopped

The guest is sent to sleep first, so that it expects not to run for a while and reads the clock
when it wakes. QEMU before 9.0 loads a sleeping machine as one that runs and can never be woken
(symptom: "guest is not in suspended state"); there the wake-up is begun and stopped at once, and
the snapshot is taken inside the firmware, so that the loaded guest finishes waking by itself.
QEMU's answer shows which it is: after `stop` an old one still says "suspended".
Source: QEMU commits b9ae473d80, b4e9ddccd1 (9.0); measured on 7.2.
"""

from __future__ import annotations

import os

from qvmsh.errors import QmpError, QvmError
from qvmsh.host import files as host_files
from qvmsh.machine import snapshot_names, state
from qvmsh.machine.guest import sleep
from qvmsh.machine.monitor import conversation
from qvmsh.qemu import ich9, qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine


def save(
    vm: BaseMachine, note: LaunchRecord, name: str, *, has_suspend: bool, timeout_s: float | None = None
) -> float:
    """Save memory and disks as the snapshot `name`; the guest is stopped afterwards.

    An older snapshot of that name is removed once the new one has been written.

    Returns:
        The seconds that the guest took to suspend (0 without).

    Raises:
        DeadlineError: the guest does not suspend; it keeps running.
        QmpError: QEMU cannot save; the guest keeps running and no snapshot was changed.
    """
    from qvmsh.machine.snapshot import obstacles
    from qvmsh.machine.snapshot.save import Request, take
    from qvmsh.machine.snapshot.store import live

    snapshot_names.require_name(vm, name)
    seen = state.observe(vm)
    pid = seen.pid or 0
    with live(vm, note) as (store, disks):
        obstacles.require(vm, disks, "save", exchange=store.exchange, pid=pid, has_memory=True)
        kind = state.SUSPENDED if has_suspend else seen.kind
        registers = ich9.read(store.exchange) if kind == state.SUSPENDED else None
    suspended_s = 0.0
    if has_suspend:
        limit_s = sleep.SUSPEND_S if timeout_s is None else timeout_s
        try:
            with conversation.session(vm, note) as qemu:
                suspended_s = sleep.fall_asleep(vm, qemu, note, timeout_s=limit_s)[1]
        except KeyboardInterrupt:
            vm.io.warn(f"{vm.name}: nothing was saved; the guest was asked to suspend, `qvm wakeup` wakes it")
            raise
    try:
        with live(vm, note) as (store, _):
            take(
                store, note, name, Request(is_replacing=True),
                kind=kind, registers=registers, pid=pid, stays_held=True,
            )  # fmt: skip
    except QvmError as error:
        if has_suspend:
            _resume(note)
        error.machine = error.machine or vm.name
        if not os.path.lexists(vm.files.snapshot_journal):
            error.hint = error.hint or "the guest is still running; no snapshot was changed"
        raise
    return suspended_s


def _resume(note: LaunchRecord) -> None:
    """Resume the guest after a save that failed."""
    try:
        with conversation.begin(note) as qemu:
            sleep.resume(qemu)
    except (OSError, QmpError):
        pass


def written_files(note: LaunchRecord) -> list[str]:
    """The files of all disks that the guest writes to, as QEMU names them."""
    from qvmsh.machine.storage.volumes import file_of

    blocks = qmp.ask(note.socket("qmp"), "query-block", timeout_s=5.0)
    found = [block["inserted"] for block in blocks if block.get("inserted")]
    return [file_of(each["image"]["filename"]) for each in found if not each["ro"]]


def sync_images(vm: BaseMachine, files: list[str]) -> None:
    """Make sure that what QEMU wrote is on the disk, not only in the host's memory.

    Args:
        files: from the machine's directory.
    """
    for path in (os.path.join(vm.directory, name) for name in files):
        if os.path.exists(path):  # else QEMU's name of something that is not a file
            host_files.sync(path)
