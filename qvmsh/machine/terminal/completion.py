"""What completion asks a machine: QEMU's words, and the snapshots in its images.

    of(vm).human(["info", "bl"])
    snapshots(vm)                   # [("ready", "with memory")]

A person waits with the finger on Tab: whatever does not answer at once has no answer.
"""

from __future__ import annotations

import os

from qvmsh.errors import QvmError
from qvmsh.host import locks
from qvmsh.io import QUIET
from qvmsh.machine import launch_record
from qvmsh.machine.storage import own_disk
from qvmsh.qemu import qemuimg, qga, qmp
from qvmsh.qemu.monitor_completion import Vocabulary, snapshot_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.machine import BaseMachine

    Found = list[tuple[str, str]]

ANSWER_S = 2.0
AGENT_S = 1.0


def run_of(vm: BaseMachine) -> tuple[int, str] | None:
    """What distinguishes one run of the machine from another: pid and QMP socket; None if it is off."""
    try:
        pid, note = locks.holder(vm.files.pid_file), launch_record.read(vm.files)
    except OSError:
        return None
    return (pid, note.socket("qmp")) if pid is not None and note is not None else None


def of(vm: BaseMachine) -> Vocabulary | None:
    """The vocabulary of the QEMU that runs `vm`; None if there is none."""
    run = run_of(vm)
    if run is None:
        return None
    path = run[1]

    def ask(command: str, arguments: dict[str, Any] | None) -> Any:
        return qmp.ask(path, command, arguments, timeout_s=ANSWER_S)

    return Vocabulary(ask)


def agent_commands(vm: BaseMachine) -> Found:
    """The commands of the guest agent; none where it does not answer at once."""
    if run_of(vm) is None:
        return []
    note = launch_record.read(vm.files)
    assert note is not None
    found = qga.ask(note.socket("qga"), "guest-info", timeout_s=AGENT_S)["supported_commands"]
    return [(row["name"], "") for row in sorted(found, key=lambda row: row["name"]) if row["enabled"]]


def snapshots(vm: BaseMachine) -> Found:
    """Name and kind of each snapshot: from QEMU while it runs, else from the images."""
    vocabulary = of(vm)
    try:
        return vocabulary.snapshots() if vocabulary is not None else _in_images(vm)
    except (OSError, QvmError):
        return []


def _in_images(vm: BaseMachine) -> Found:
    from qvmsh.machine import programs
    from qvmsh.qemu import image

    name = own_disk.disk_name(vm)
    path, kind = os.path.join(vm.directory, name), own_disk.image_format(vm, name)
    if not os.path.exists(path) or not image.header(path, kind).snapshots:
        return []
    words = ["info", "-U", "-f", kind, "--output=json", image.safe_name(path)]
    program = programs.qemu_img(vm.with_io(QUIET))  # nobody reads a warning while a word is completed
    found = qmp.loads(qemuimg.run(program, words, what="read the snapshots"))
    return snapshot_rows(found.get("snapshots", []))
