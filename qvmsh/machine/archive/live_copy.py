"""Taking the state of all disks at one moment while the guest runs, and joining them again.

    with LiveCopy(vm, note, qemu, drives):               # the disks' files are at rest now
        ...copy them...
                                                    # and now QEMU writes to them again

QEMU lays an empty overlay on every disk in one transaction (milliseconds), so the files below do not
change while they are copied, with all their internal snapshots. Then QEMU commits each overlay back.
`.qvm/archive.unfinished` names the overlays, so that none is lost when qvm, or QEMU, or both are killed:

- QEMU lives: the commit is begun, adopted or completed.
- QEMU has ended: an overlay that is still in use holds what the guest wrote last; qemu-img commits it.
  One that had been committed is stale: it is marked so before QEMU lets the guest write to the disk
  itself again (the job waits for that, `auto-finalize`), and is only removed.

Source: QEMU's QMP reference, `blockdev-snapshot`, `block-commit`; measured on 7.2.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from dataclasses import replace

from qvmsh.errors import DeadlineError, QmpError, QvmError
from qvmsh.host import files as host_files
from qvmsh.host import process
from qvmsh.machine import launch_record, programs, state
from qvmsh.machine.guest import filesystems, sleep
from qvmsh.machine.journal import Overlay
from qvmsh.machine.monitor import conversation
from qvmsh.machine.storage import chain, volumes
from qvmsh.qemu import image, qemuimg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from qvmsh.machine.archive.drives import Drive
    from qvmsh.machine.journal import Journal, Record
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.qemu.session import Session

PATIENCE_S = 10.0
"""How long Ctrl-C waits until the disks are in order."""
FROZEN, CRASH, HELD = "frozen", "crash-consistent", "with memory"
_NAME = re.compile(r"\.qvm/cut-[0-9a-f]{8}-[0-9]+\.qcow2")


class LiveCopy:
    """The disks of a running machine, held still while the block lasts.

    Args:
        drives: the disks to copy.
        more: additional actions of the same transaction: dirty bitmaps, backup jobs.
        is_held: the guest is paused; it is resumed once the overlays are in place.
        journal: of the archive, which gets the overlays.

    Raises:
        QmpError: QEMU refused; nothing changed.
    """

    def __init__(
        self,
        vm: BaseMachine,
        note: LaunchRecord,
        qemu: Session,
        drives: Sequence[Drive],
        journal: Journal,
        *,
        more: Sequence[dict[str, Any]] = (),
        is_held: bool = False,
    ) -> None:
        self.vm = vm
        self.note = note
        self.qemu = qemu
        self.more = list(more)
        self.is_held = is_held
        self.consistency = CRASH
        self.pause_s = 0.0
        self._until_joined = contextlib.ExitStack()
        token = secrets.token_hex(4)
        self.journal = journal
        self.overlays = tuple(
            Overlay(
                disk=vm.files.inside(each.path),
                format=each.format,
                node=each.node,
                file=os.path.join(".qvm", f"cut-{token}-{at}.qcow2"),
                file_node=f"{volumes.OVERLAY_NODE}{at}",
            )
            for at, each in enumerate(drives)
        )

    def __enter__(self) -> LiveCopy:
        with contextlib.ExitStack() as stack:
            stack.callback(self._join)
            self.journal.write(overlays=self.overlays, is_frozen=False, is_held=self.is_held)
            self._prepare()
            guest = filesystems.Freezing(self.vm, self.note, is_trying=not self.is_held)
            stack.callback(guest.thaw)
            if not self.is_held:
                guest.write_out()
            with process.Shielded(process.SIGTSTP):  # Ctrl-Z must not keep the guest frozen
                self._take(guest)
            self._until_joined = stack.pop_all()
        return self

    def _prepare(self) -> None:
        """Make the overlays and open them in QEMU."""
        program = programs.qemu_img(self.vm)
        for overlay in self.overlays:
            path = os.path.join(self.vm.directory, overlay.file)
            below = overlay.disk
            if not os.path.isabs(below):
                folder = os.path.realpath(self.vm.directory)
                below = os.path.relpath(os.path.join(folder, below), os.path.realpath(os.path.dirname(path)))
            qemuimg.create_overlay(program, path, below, overlay.format)
            self.qemu.execute(
                "blockdev-add",
                {
                    "node-name": overlay.file_node,
                    "driver": "qcow2",
                    "discard": "unmap",
                    "file": {"driver": "file", "filename": f"./{overlay.file}", "discard": "unmap"},
                    "backing": None,
                },
            )

    def _take(self, guest: filesystems.Freezing) -> None:
        """The moment itself: freeze, put the overlays in place, thaw."""
        actions = [
            *self.more,
            *(
                {"type": "blockdev-snapshot", "data": {"node": overlay.node, "overlay": overlay.file_node}}
                for overlay in self.overlays
            ),
        ]
        if self.is_held:
            self.consistency = HELD
        elif guest.has_agent:
            self.journal.write(is_frozen=True)
        began = time.monotonic()
        try:
            if guest.freeze():
                self.consistency = FROZEN
            self.qemu.execute("transaction", {"actions": actions})
        finally:
            if self.journal.record.is_frozen:
                guest.thaw()
                self.pause_s = time.monotonic() - began
                self.journal.change(is_frozen=False)
            if self.is_held:
                with conversation.begin(self.note) as qemu:
                    sleep.resume(qemu)
                self.journal.change(is_held=False)
        self.journal.write()

    def __exit__(self, *_: object) -> None:
        """Commit the overlays back, and forget them.

        Raises:
            QvmError: they cannot be committed; the guest keeps running, the next command tries again.
        """
        self._until_joined.close()

    def _join(self) -> None:
        with uninterrupted(self.qemu):
            join(self.journal, is_running=True, qemu=self.qemu)


@contextlib.contextmanager
def uninterrupted(qemu: Session) -> Iterator[None]:
    """Hold back Ctrl-C, which may have started the recovery, so that it does not end it too.

    Raises:
        KeyboardInterrupt: another one after a long wait; the guardian continues.
    """
    began = time.monotonic()

    def checkpoint() -> None:
        if time.monotonic() - began > PATIENCE_S and process.is_interrupted():
            raise KeyboardInterrupt

    with process.Shielded(process.SIGINT, process.SIGTERM, process.SIGTSTP), qemu.undisturbed(checkpoint):
        yield


# Joining


def join(journal: Journal, *, is_running: bool, qemu: Session | None = None) -> str:
    """Join the overlays, whether QEMU runs or not; returns what was done, "" if there were none.

    Raises:
        QvmError: it cannot be done now; nothing is lost.
    """
    vm = journal.vm
    _require_own(vm, journal.record)
    if is_running:
        try:
            return _join_live(journal, qemu)
        except QmpError as error:
            if not state.has_ended(vm, error):
                raise
    return _join_off(journal)


def _require_own(vm: BaseMachine, record: Record) -> None:
    """Another account may write to the journal: what it names must be overlays of an archive."""
    if all(_NAME.fullmatch(overlay.file) and _is_file(vm, overlay.file) for overlay in record.overlays):
        return
    raise QvmError(
        ".qvm/archive.unfinished does not name overlays of an archive",
        machine=vm.name,
        hint="check that file; remove it if you do not know where it comes from",
    )


def _is_file(vm: BaseMachine, name: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(os.path.join(vm.directory, name)).st_mode)
    except FileNotFoundError:
        return True


def is_joined(record: Record) -> bool:
    """True if nothing that the guest wrote is in an overlay any more, and nothing holds the guest."""
    is_whole = all(overlay.is_merged for overlay in record.overlays)
    return is_whole and not (record.is_frozen or record.is_held)


def _join_live(journal: Journal, qemu: Session | None) -> str:
    vm, record = journal.vm, journal.record
    # an overlay that is still there may be in use: QEMU waits until its job is finalized
    has_overlay = any(os.path.lexists(os.path.join(vm.directory, each.file)) for each in record.overlays)
    if is_joined(record) and not has_overlay:
        return ""
    note = launch_record.read(vm.files)
    if note is None:
        raise QvmError("the launch record of the running machine is missing", machine=vm.name)
    if record.is_frozen:
        filesystems.thaw(note)
        journal.change(is_frozen=False)
    if record.is_held:
        with contextlib.suppress(OSError, QmpError), conversation.begin(note) as held:
            sleep.resume(held)
            journal.change(is_held=False)
    if qemu is not None:
        _join_each(journal, qemu)
    else:
        with conversation.session(vm, note) as own:
            _join_each(journal, own)
    return "the running guest's disks are joined again"


def _join_each(journal: Journal, qemu: Session) -> None:
    for overlay in journal.record.overlays:
        nodes = {each["node-name"] for each in qemu.execute("query-named-block-nodes", {"flat": True})}
        tops = {
            block["inserted"]["node-name"] for block in qemu.execute("query-block") if block.get("inserted")
        }
        jobs = {each["id"] for each in qemu.execute("query-jobs")}
        job = f"qvm-join-{overlay.file_node}"
        if overlay.file_node in tops or job in jobs:
            _commit(journal, overlay, qemu, job, is_begun=job in jobs)
        if overlay.file_node in nodes:
            qemu.execute("blockdev-del", {"node-name": overlay.file_node})
        _forget(journal, overlay)


def _commit(journal: Journal, overlay: Overlay, qemu: Session, job: str, *, is_begun: bool) -> None:
    """Let QEMU commit the overlay into the disk below, and take it off."""
    with qemu.listen("JOB_STATUS_CHANGE") as events:
        if not is_begun:
            qemu.execute(
                "block-commit",
                {
                    "job-id": job,
                    "device": overlay.file_node,
                    "top-node": overlay.file_node,
                    "base-node": overlay.node,  # without it QEMU commits into the lowest layer
                    "auto-finalize": False,
                    "auto-dismiss": False,
                },
            )
        seen = why = ""
        while True:
            found = [each for each in qemu.execute("query-jobs") if each["id"] == job]
            status = found[0]["status"] if found else "null"
            if status == "ready" and seen != "ready":
                qemu.execute("job-complete", {"id": job})
            elif status == "pending" and seen != "pending":
                # the guest's writes wait; overlay and disk hold the same from here on
                why = _end_job(journal, overlay, qemu, job)
                if why:
                    qemu.execute("job-cancel", {"id": job})
            elif status in ("concluded", "null"):
                break
            else:
                with contextlib.suppress(DeadlineError):
                    events.wait(lambda event: event["data"]["id"] == job, timeout_s=0.5)
            seen = status
    if found:
        qemu.execute("job-dismiss", {"id": job})
        why = why or found[0].get("error", "")
        if why:
            _mark(journal, overlay, is_merged=False)
            raise QvmError(
                f"cannot commit what the guest wrote in the meantime to {overlay.disk}: {why}",
                machine=journal.vm.name,
                hint="nothing is lost: free space, then `qvm doctor --fix`; `qvm resume` if it is paused",
            )


def _end_job(journal: Journal, overlay: Overlay, qemu: Session, job: str) -> str:
    """Note that the overlay is no longer needed, and let QEMU end its job; "" or why that failed.

    QmpError: QEMU ended or does not answer. It may have ended the job, so the mark stays.
    """
    try:
        _mark(journal, overlay, is_merged=True)
        qemu.execute("job-finalize", {"id": job})
    except OSError as error:  # perhaps only of the sync, and the words are written
        why = f"{error.filename}: {error.strerror}"
    except QmpError as error:
        if not error.error_class:
            raise
        if [each for each in qemu.execute("query-jobs") if each["id"] == job and each["status"] != "pending"]:
            return ""  # it has ended already
        why = error.what
    else:
        return ""
    with contextlib.suppress(OSError):
        _mark(journal, overlay, is_merged=False)
    return why


def _mark(journal: Journal, overlay: Overlay, *, is_merged: bool) -> None:
    """Note whether an overlay is still needed."""
    marked = [
        replace(each, is_merged=is_merged) if each.file == overlay.file else each
        for each in journal.record.overlays
    ]
    journal.write(overlays=tuple(marked))


def _forget(journal: Journal, overlay: Overlay) -> None:
    """Note that the overlay is no longer needed, then remove it."""
    _mark(journal, overlay, is_merged=True)
    host_files.remove(os.path.join(journal.vm.directory, overlay.file))


def _join_off(journal: Journal) -> str:
    vm = journal.vm
    program = programs.qemu_img(vm)
    names = []
    for overlay in journal.record.overlays:
        path, disk = (os.path.join(vm.directory, name) for name in (overlay.file, overlay.disk))
        if not overlay.is_merged and os.path.exists(path) and os.path.getsize(path):
            if image.header(path).snapshots:
                raise QvmError(
                    f"{overlay.file} holds snapshots that were saved in the meantime",
                    hint=f"`qemu-img snapshot -d` removes them from {overlay.file}; then `qvm doctor --fix`",
                )
            chain.below(vm, path, "qcow2")
            image.require_unused(disk, vm.name)
            words = ["commit", "-q", "-d", "-f", "qcow2", image.safe_name(path)]
            qemuimg.run(program, words, what=f"commit what the guest wrote last to {overlay.disk}")
            host_files.sync(disk)
            names.append(os.path.basename(overlay.disk))
        _forget(journal, overlay)
    return f"what the guest wrote last is in {', '.join(names)}" if names else ""
