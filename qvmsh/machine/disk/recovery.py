"""Work on the overlays of disks that was interrupted: completed or undone.

The overlay of a commit is right as it is. An interrupted rebase gets the old base again: the header may name
the new one before the tables say where the data from below now is.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass

from qvmsh.errors import QmpError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process
from qvmsh.machine import journal as journals
from qvmsh.machine import launch_record, programs
from qvmsh.machine.journal import Kind, Phase
from qvmsh.machine.snapshot import recovery as snapshot_recovery
from qvmsh.machine.storage import chain, selection
from qvmsh.machine.storage.volumes import file_of
from qvmsh.qemu import image, qemuimg, qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.machine.journal import Journal, Record
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.snapshot.store import Live, Store

COMMIT, STREAM = "qvm-commit", "qvm-stream"


def recover(journal: Journal) -> str:
    """See `work.recovery`."""
    vm, record = journal.vm, journal.record
    note = launch_record.read(vm.files)
    if locks.holder(vm.files.pid_file) is None or note is None:
        return snapshot_recovery.recover_off(vm, record, _recover_off)
    with snapshot_recovery.live(vm, note, record) as store:
        outcome = _recover_live(store, record)
        snapshot_recovery.resume(vm, note, record, store)
        return outcome


def left(vm: BaseMachine, record: Record) -> tuple[str, str | None]:
    """See `work.recovery`."""
    if journals.is_on_its_base(record) and locks.holder(vm.files.pid_file) is not None:
        return f"the guest is paused and {journals.HELD}; nothing else is", journals.HELD_HINT
    return "", None


def _recover_off(store: Store, record: Record) -> str:
    """Of a machine that is off: its guest wrote nothing in between."""
    outcome = "has ended: the content of the disk is the same"
    for each in store.volumes:
        remove_layer(each.path)
        if record.backing is not None and image.header(each.path, each.format).backing != record.backing:
            below = ["-F", record.backing_format] if record.backing else []
            words = ["rebase", "-u", "-f", "qcow2", *below, "-b", record.backing, image.safe_name(each.path)]
            what = f"restore the base of {each.name}"
            qemuimg.run(programs.qemu_img(store.vm), words, what=what)
            outcome = "was undone: the disk has its old base"
    return outcome


LAYER = ".part0"
"""Suffix of the overlay that a commit makes while the machine is on."""


def layer(path: str) -> str:
    """Where a commit while on makes the empty overlay for a disk, which may be a link."""
    return os.path.realpath(path) + LAYER


def remove_layer(path: str) -> None:
    """Remove that overlay, if there is one."""
    host_files.remove(layer(path))


def flush(store: Live, node: str) -> None:
    """Let QEMU flush a disk; its monitor has no other command for one disk."""
    command = {"command-line": f'qemu-io {node} "flush"'}
    answer = store.jobs.execute("human-monitor-command", command).strip()
    if answer:
        raise QmpError(f"flush of {node}: {answer}", machine=store.vm.name)


def _recover_live(store: Live, record: Record) -> str:
    """While QEMU keeps running."""
    name = COMMIT if record.kind is Kind.DISK_COMMIT else STREAM
    job = store.jobs.until(name, "ready", "running", "paused")
    if job is not None:
        if job["status"] != "concluded":
            store.jobs.execute("block-job-cancel", {"device": name, "force": True})
            store.jobs.until(name)
        store.jobs.execute("job-dismiss", {"id": name})
    if record.kind is Kind.DISK_REBASE:
        for each in store.volumes:
            flush(store, each.node)
    path = record.disks[0][1]
    if record.phase is Phase.PIVOT:
        pid = locks.holder(store.vm.files.pid_file) or 0
        file = block_of(store, record.device).file
        if not os.path.samefile(os.path.join(store.vm.directory, file), path):
            under_new_layer(store, path, record.node, record.device, pid)
            return "was completed"
    remove_layer(path)
    return "was undone: the content of the disk is the same" if job is not None else "has ended"


@dataclass(frozen=True)
class Block:
    """A disk in QEMU, from `query-block`; `layers` are those below its active one."""

    device: str
    node: str
    file: str
    layers: int
    backing: str


def block_of(store: Live, name: str) -> Block:
    """The disk that has this node, or this device.

    Raises:
        QmpError: QEMU no longer has it.
    """
    for each in store.jobs.execute("query-block"):
        found, device = each.get("inserted"), each.get("qdev")
        if found and name in (found["node-name"], device):
            layers, backing = found["backing_file_depth"], found.get("backing_file", "")
            return Block(
                device or "", found["node-name"], file_of(found["image"]["filename"]), layers, backing
            )
    raise QmpError("QEMU no longer has the disk", machine=store.vm.name)


def options_of(pid: int, node: str) -> str:
    """What `-blockdev` said of a node when QEMU was started, "" if it did not name it."""
    for word, value in itertools.pairwise(process.arguments(pid)):
        if word == "-blockdev" and value.startswith("{") and qmp.loads(value).get("node-name") == node:
            return value
    return ""


def new_layer(vm: BaseMachine, path: str) -> None:
    """An empty overlay like the one at `path`, on the same base.

    The base is not opened (`-u`): QEMU looks for a relative name beside the link, if the disk is one.
    """
    header, place = image.header(path, "qcow2"), layer(path)
    kind = chain.layers(path, "qcow2", vm.name, vm.directory)[1].format
    host_files.remove(place)
    words = ["create", "-q", "-u", "-f", "qcow2", "-F", kind, "-b", header.backing, place]
    words.append(str(header.size_bytes))
    selection.run(vm, words, f"create an empty {os.path.basename(path)}")
    was = os.stat(path)
    os.chmod(place, was.st_mode & 0o7777)
    if os.geteuid() == 0:
        os.chown(place, was.st_uid, was.st_gid)


def under_new_layer(store: Live, path: str, node: str, device: str, pid: int) -> None:
    """Put an empty overlay on the base that QEMU works on after a commit; the guest is paused."""
    options = qmp.loads(options_of(pid, node))
    nodes = {each["node-name"] for each in store.jobs.execute("query-named-block-nodes", {"flat": True})}
    if node in nodes:  # the overlay that is no longer in use
        store.jobs.execute("blockdev-del", {"node-name": node})
    place = os.path.realpath(path)
    if not os.path.exists(layer(path)):
        new_layer(store.vm, path)
    os.rename(layer(path), place)
    host_files.sync_folder(os.path.dirname(place))
    base = block_of(store, device).node
    store.jobs.execute("blockdev-add", {**options, "backing": None})
    store.jobs.execute("blockdev-snapshot", {"node": base, "overlay": node})
