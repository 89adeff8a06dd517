"""Which parts of a disk have changed since it was archived: QEMU's dirty bitmaps, and backups by them.

    with Tracking(vm, qemu, archive, stored, point.id) as tracking:
        tracking.add(drive, source, is_whole=False)     # only what has changed since a state that is there
        ...one transaction with tracking.actions...
        path = tracking.wait(drive)               # an image that holds just that

Each archived state leaves a bitmap `qvm-<its id>-<role>` on every disk, which records what is written from
then on. Ids are random, so states of the same date in two stores differ. A bitmap moves with its file, and
its role names the disk, whatever the file is called now. The next state is copied by it and leaves its own;
the older one is removed once the new state is complete. So after a kill at any time, a bitmap always records
the changes since a state that exists. In qcow2 images bitmaps survive a stop. Loading or restoring a snapshot
ends them: QEMU refuses to go back in a disk that has some.
"""

from __future__ import annotations

import contextlib
import os
import secrets

from qvmsh.errors import DeadlineError, ImageError, QmpError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import launch_record, programs, state
from qvmsh.machine.archive import live_copy
from qvmsh.machine.monitor import conversation
from qvmsh.machine.storage import bitmaps
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qvmsh.machine.archive.drives import Drive
    from qvmsh.machine.archive.model import Archive, Point
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.session import Session

NODE = "qvm-changes"
"""Prefix of the nodes and jobs that copy changes."""
CHAIN_MOST = 16
"""The longest chain of states; the next one is copied whole."""
STAGED = "staged-"


def tag_id(tag: dict[str, Any]) -> str:
    """What distinguishes snapshots of the same name."""
    return f"{tag['id']} {tag['name']} {tag['date-sec']}.{tag['date-nsec']:09}"


def staged(vm: BaseMachine, suffix: str) -> str:
    """A path in `.qvm` for a temporary file; `clear_staged` removes it after a kill."""
    return os.path.join(vm.files.state, f"{STAGED}{os.getpid()}-{secrets.token_hex(4)}{suffix}")


def clear_staged(vm: BaseMachine) -> None:
    """Remove such files of killed commands, and their unfinished journals."""
    kinds = [
        os.path.basename(path) + ".part" for path in (vm.files.archive_journal, vm.files.snapshot_journal)
    ]
    for name in os.listdir(vm.files.state):
        kind = next((each for each in (STAGED, *kinds) if name.startswith(each)), "")
        pid = name.removeprefix(kind).partition("-")[0]
        if kind and not process.exists(process.number(pid)):
            host_files.remove(os.path.join(vm.files.state, name))


def bitmap_of(id: str, role: str) -> str:
    """The bitmap that records what was written to a disk since a state."""
    return f"{bitmaps.BITMAP}{id}-{role}"


def clear(vm: BaseMachine, qemu: Session) -> None:
    """End in QEMU what a killed `archive` left there: backup jobs, their nodes, inconsistent bitmaps."""
    for job in qemu.execute("query-jobs"):
        if job["id"].startswith(NODE):
            _end(vm, qemu, job["id"])
    for node in qemu.execute("query-named-block-nodes", {"flat": True}):
        if node["node-name"].startswith(NODE):
            qemu.execute("blockdev-del", {"node-name": node["node-name"]})
        for each in node.get("dirty-bitmaps", []):
            if each.get("name", "").startswith(bitmaps.BITMAP) and each.get("inconsistent"):
                _remove(qemu, node["node-name"], each["name"])
    clear_staged(vm)


def clear_running(vm: BaseMachine) -> None:
    """`clear` with a conversation of its own; nothing is left of a QEMU that has ended.

    Raises:
        QmpError: QEMU does not answer.
    """
    note = launch_record.read(vm.files)
    try:
        if note is not None:
            with conversation.session(vm, note) as qemu:
                clear(vm, qemu)
    except QmpError as error:
        if not state.has_ended(vm, error):
            raise


def _end(vm: BaseMachine, qemu: Session, job: str) -> None:
    """Cancel a job and wait until it is gone."""
    with contextlib.suppress(QmpError), qemu.listen("JOB_STATUS_CHANGE") as events:
        with contextlib.suppress(QmpError):
            qemu.execute("job-cancel", {"id": job})
        while [
            each for each in qemu.execute("query-jobs") if each["id"] == job and each["status"] != "concluded"
        ]:
            with contextlib.suppress(DeadlineError):
                events.wait(timeout_s=0.5)
        qemu.execute("job-dismiss", {"id": job})


def _remove(qemu: Session, node: str, name: str) -> None:
    with contextlib.suppress(QmpError):
        qemu.execute("block-dirty-bitmap-remove", {"node": node, "name": name})


class Tracking:
    """The bitmaps and backup jobs of one new state.

    Args:
        archive: where the earlier states are.
        stored: the files that are there, with their sizes in bytes.
        own: id of the new one.
    """

    def __init__(
        self, vm: BaseMachine, qemu: Session, archive: Archive, stored: dict[str, int], own: str
    ) -> None:
        self.vm = vm
        self.qemu = qemu
        self.archive = archive
        self.stored = stored
        self.own = own
        self.actions: list[dict[str, Any]] = []
        self.since: dict[str, str] = {}
        """For each role of which only changes are copied: the stamp of the state before."""
        self.why_whole = ""
        self._nodes: dict[str, str] = {}
        """The new bitmap of each node that is tracked."""
        self._jobs: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> Tracking:
        return self

    def add(self, drive: Drive, source: str, *, is_whole: bool) -> None:
        """Track a disk from the new state on, and copy only its changes where they are known.

        Args:
            source: its place, as the archive notes it.
        """
        node = next(
            each
            for each in self.qemu.execute("query-named-block-nodes", {"flat": True})
            if each["node-name"] == drive.node
        )
        details = node["image"].get("format-specific", {}).get("data", {})
        if drive.format not in ("raw", "qcow2") or details.get("compat") == "0.10":
            return
        name = bitmap_of(self.own, drive.role)
        bitmap = {"node": drive.node, "name": name, "persistent": drive.format == "qcow2"}
        self.actions.append({"type": "block-dirty-bitmap-add", "data": bitmap})
        self._nodes[drive.node] = name
        bitmaps = [each for each in node.get("dirty-bitmaps", []) if each.get("name")]
        names = {each["name"] for each in bitmaps if each["recording"]}
        size = node["image"]["virtual-size"]
        since = None if is_whole else self._since(drive, source, size, names)
        if since is not None:
            self._back_up(drive, since, size)

    def _since(self, drive: Drive, source: str, size_bytes: int, names: set[str]) -> Point | None:
        """The newest state that the changes are known since; None if a whole copy is due."""
        tags = []
        if drive.format == "qcow2":
            tags = [tag_id(each) for each in bitmaps.tags_of(programs.qemu_img(self.vm), drive.path)]
        for point in reversed(self.archive.done):
            part = point.part(drive.role)
            if bitmap_of(point.id, drive.role) not in names or part is None or not part.name:
                continue
            if part.source != source:  # the disks have changed places
                continue
            if part.tags != tags:
                self.why_whole = "snapshots were added or removed"
                return None
            if part.virtual_bytes > size_bytes:
                self.why_whole = f"{drive.name} was made smaller"
                return None
            try:
                chain = self.archive.chain(point, drive.role)
            except ImageError:
                continue
            if len(chain) >= CHAIN_MOST:
                self.why_whole = f"a chain of {CHAIN_MOST} states is the limit"
                return None
            below = [each for one in chain for each in one.parts if each.role == drive.role]
            damaged = [each.name for each in below if self.stored.get(each.name) != each.stored_bytes]
            if damaged:
                self.why_whole = f"{damaged[0]} of an earlier state is missing or truncated"
                return None
            return point
        self.why_whole = "what has changed since the last state is not known"
        return None

    def _back_up(self, drive: Drive, since: Point, size_bytes: int) -> None:
        """Prepare a backup of what a bitmap names; it begins with the transaction."""
        path = staged(self.vm, ".qcow2")
        words = ["create", "-q", "-f", "qcow2", image.safe_name(path), str(size_bytes)]
        qemuimg.run(programs.qemu_img(self.vm), words, what="create an image for the changes")
        name = f"{NODE}{len(self._jobs)}"
        inside = os.path.join(".", os.path.relpath(path, self.vm.directory))
        self._jobs[drive.role] = (name, path)
        self.qemu.execute(
            "blockdev-add",
            {"node-name": name, "driver": "qcow2", "file": {"driver": "file", "filename": inside}},
        )
        self.actions.append(
            {
                "type": "blockdev-backup",
                "data": {
                    "job-id": name, "device": drive.node, "target": name, "sync": "bitmap",
                    "bitmap": bitmap_of(since.id, drive.role), "bitmap-mode": "never", "auto-dismiss": False,
                },
            }
        )  # fmt: skip
        self.since[drive.role] = since.stamp

    def wait(self, drive: Drive) -> str:
        """Wait until a disk's changes are copied; the path of the image that holds them.

        Raises:
            QmpError: QEMU could not copy them.
        """
        name, path = self._jobs[drive.role]
        with (
            self.vm.io.stage(f"copying the changes of {drive.name}"),
            self.qemu.listen("JOB_STATUS_CHANGE") as events,
        ):
            while True:
                job = next(each for each in self.qemu.execute("query-jobs") if each["id"] == name)
                if job["status"] == "concluded":
                    break
                with contextlib.suppress(DeadlineError):
                    events.wait(lambda event: event["data"]["id"] == name, timeout_s=0.5)
        self.qemu.execute("job-dismiss", {"id": name})
        self.qemu.execute("blockdev-del", {"node-name": name})
        if job.get("error"):
            raise QmpError(
                f"the changes of {drive.name} could not be copied: {job['error']}", machine=self.vm.name
            )
        return path

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove what the copies needed, and after a failure the new bitmaps."""
        with live_copy.uninterrupted(self.qemu):
            for name, path in self._jobs.values():
                with contextlib.suppress(QmpError):
                    if kind is not None:
                        _end(self.vm, self.qemu, name)
                        self.qemu.execute("blockdev-del", {"node-name": name})
                host_files.remove(path)
            if kind is not None:
                self._remove_bitmaps(are_new=True)

    def remove_old(self, qemu: Session, *, is_whole: bool) -> None:
        """Remove the bitmaps that are no longer needed: the older ones, or those of a failed state."""
        self.qemu = qemu
        self._remove_bitmaps(are_new=not is_whole)

    def _remove_bitmaps(self, *, are_new: bool) -> None:
        with contextlib.suppress(QmpError):
            for node in self.qemu.execute("query-named-block-nodes", {"flat": True}):
                own = self._nodes.get(node["node-name"])
                for each in node.get("dirty-bitmaps", []) if own else []:
                    name = each.get("name", "")
                    if name.startswith(bitmaps.BITMAP) and (name == own) == are_new:
                        _remove(self.qemu, node["node-name"], name)
