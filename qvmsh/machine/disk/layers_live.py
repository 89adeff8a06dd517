"""Work on the overlays of a machine that is on: commit and flatten, by QEMU's block jobs.

May import: `host`, `qemu`, `machine`.

    commit(vm, seen, disk)         # block-commit; then the base goes under a fresh, empty overlay

At the end of a commit QEMU works on the base itself. The guest stands still from there until the fresh
overlay is in its place: nothing it writes may go to the base, since a start would not see it. So, whoever
is killed, overlay and base together hold the same; the journal's step finishes the change or takes it back.
Source: QEMU docs/interop/live-block-operations.rst; measured on 7.2.
"""

from __future__ import annotations

import itertools
import os

from qvmsh.errors import QmpError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process
from qvmsh.machine import state
from qvmsh.machine.monitor import conversation
from qvmsh.machine.snapshot import save_delete as snapshots
from qvmsh.machine.snapshot.recovery import Journal, layer, remove_layer
from qvmsh.machine.snapshot.store import Live
from qvmsh.machine.storage import chain
from qvmsh.machine.storage import selection as diskwork
from qvmsh.machine.storage.volumes import file_of
from qvmsh.qemu import image, qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from qvmsh.machine.launch_record import Note
    from qvmsh.machine.machine import Machine
    from qvmsh.machine.storage.volumes import Volume

COMMIT, STREAM = "qvm-commit", "qvm-stream"


def commit(vm: Machine, seen: state.Observation, disk: Volume) -> None:
    """Write the overlay's data into its base; the guest goes on, and has an empty overlay at the end.

    Raises:
        StateError: it does not run, or its disk is not one that qvm gave it.
        QmpError: QEMU failed; the disk is as it was.
    """
    note, pid = _running(vm, seen, "commit a disk")
    if _options(pid, disk.node) is None:
        is_by_words = disk.source == "words"
        why = "your own words for QEMU name it" if is_by_words else "it has come while the machine was on"
        raise StateError(
            f"cannot commit {disk.id} while it runs: {why}",
            machine=vm.name,
            hint="`qvm stop` first",
        )
    with snapshots.live(vm, note) as (found, disks):
        store = Live(vm, [each for each in disks if each.node == disk.node], found.exchange)
        row = _row(store, lambda each: each["inserted"]["node-name"] == disk.node)
        is_running = seen.kind == state.RUNNING
        journal = Journal(store, "commit", disk.id, was_running=is_running, has_memory=False)
        with vm.io.stage(f"committing {disk.name}"), journal:
            journal.write(device=row["qdev"], node=disk.node)
            _new_layer(vm, disk.path)  # before there is no way back, for want of room say
            words = {"job-id": COMMIT, "device": disk.node, "auto-dismiss": False}
            if row["inserted"]["backing_file_depth"] > 1:
                words["base"] = row["inserted"]["backing_file"]
            store.jobs.execute("block-commit", words)
            job = store.jobs.until(COMMIT, "ready")
            if job is None or job["status"] != "ready":
                store.jobs.finish(COMMIT, "block-commit")
            store.exchange.ask("stop", timeout_s=30.0)
            journal.write(phase="pivot")
            store.jobs.execute("job-complete", {"id": COMMIT})
            store.jobs.finish(COMMIT, "block-commit")
            _under_new_layer(store, disk.path, disk.node, row["qdev"], pid)
            if is_running:
                conversation.resume(store.exchange)


def flatten(vm: Machine, seen: state.Observation, disk: Volume) -> None:
    """Let the overlay take over all that it reads from below (`block-stream`).

    QEMU writes that the disk stands alone before it writes where the data is, which it keeps in memory until
    a flush: killed in between, the disk would lose what it had from below. So the journal knows what it
    stood on until all is flushed.

    Raises:
        StateError: it does not run.
        QmpError: QEMU failed; the disk stands where it stood.
    """
    note, _ = _running(vm, seen, "rebase a disk")
    with snapshots.live(vm, note) as (store, disks):
        one = Live(vm, [each for each in disks if each.node == disk.node], store.exchange)
        journal = Journal(one, "rebase", disk.id, was_running=False, has_memory=False)
        with vm.io.stage(f"rebasing {disk.name}"), journal:
            top, below = chain.layers(disk.path, "qcow2", vm.name, vm.directory)[:2]
            assert top.header is not None
            journal.write(backing=top.header.backing, backing_format=below.format)
            words = {"job-id": STREAM, "device": disk.node, "auto-dismiss": False}
            store.jobs.execute("block-stream", words)
            store.jobs.finish(STREAM, "block-stream")
            _flush(store, disk.node)


def _flush(store: Live, node: str) -> None:
    """Let QEMU write out what it holds back of a disk; its monitor has no other word for one disk."""
    command = {"command-line": f'qemu-io {node} "flush"'}
    told = store.jobs.execute("human-monitor-command", command).strip()
    if told:
        raise QmpError(f"flush of {node}: {told}", machine=store.vm.name)


def settle(store: Live, data: dict[str, Any]) -> str:
    """What is done about a commit or a flattening that was cut off while QEMU goes on."""
    name = COMMIT if data["what"] == "commit" else STREAM
    job = store.jobs.until(name, "ready", "running", "paused")
    if job is not None:
        if job["status"] != "concluded":
            store.jobs.execute("block-job-cancel", {"device": name, "force": True})
            store.jobs.until(name)
        store.jobs.execute("job-dismiss", {"id": name})
    if data["what"] == "rebase":
        for each in store.volumes:
            _flush(store, each.node)
    path = data["disks"][0][1]
    if data["phase"] == "pivot":
        pid = locks.holder(store.vm.files.pid_file) or 0
        row = _row(store, lambda each: each.get("qdev") == data["device"])
        if not os.path.samefile(_file(store.vm, row), path):
            _under_new_layer(store, path, data["node"], data["device"], pid)
            return "is finished"
    remove_layer(store.vm, path)
    return "is undone: what the disk holds is the same" if job is not None else "has ended"


def _running(vm: Machine, seen: state.Observation, what: str) -> tuple[Note, int]:
    if seen.note is None or seen.pid is None or seen.kind not in (state.RUNNING, state.PAUSED):
        raise state.not_in_state(vm, seen, what, state.RUNNING)
    return seen.note, seen.pid


def _row(store: Live, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The row of a disk in `query-block`.

    Raises:
        QmpError: QEMU has it no more.
    """
    for each in store.jobs.execute("query-block"):
        if each.get("inserted") and is_wanted(each):
            found: dict[str, Any] = each
            return found
    raise QmpError("QEMU has the disk no more", machine=store.vm.name)


def _file(vm: Machine, row: dict[str, Any]) -> str:
    return os.path.join(vm.directory, file_of(row["inserted"]["image"]["filename"]))


def _options(pid: int, node: str) -> dict[str, Any] | None:
    """What `-blockdev` said of a node when QEMU was started."""
    for word, value in itertools.pairwise(process.arguments(pid)):
        if word == "-blockdev" and value.startswith("{"):
            found: dict[str, Any] = qmp.loads(value)
            if found.get("node-name") == node:
                return found
    return None


def _new_layer(vm: Machine, path: str) -> None:
    """An empty overlay like the one at `path`, on what that stands on.

    The base is not looked for (`-u`): QEMU finds a relative name beside the link, if the disk is one.
    """
    header, place = image.header(path, "qcow2"), layer(path)
    kind = chain.layers(path, "qcow2", vm.name, vm.directory)[1].format
    host_files.remove(place)
    words = ["create", "-q", "-u", "-f", "qcow2", "-F", kind, "-b", header.backing, place]
    words.append(str(header.size_bytes))
    diskwork.run(vm, words, f"make an empty {os.path.basename(path)}")
    was = os.stat(path)
    os.chmod(place, was.st_mode & 0o7777)
    if os.geteuid() == 0:
        os.chown(place, was.st_uid, was.st_gid)


def _under_new_layer(store: Live, path: str, node: str, device: str, pid: int) -> None:
    """Put an empty overlay on the base that QEMU works on after a commit; the guest stands still."""
    options = _options(pid, node)
    assert options is not None
    nodes = {each["node-name"] for each in store.jobs.execute("query-named-block-nodes", {"flat": True})}
    if node in nodes:  # the overlay that is no longer in use
        store.jobs.execute("blockdev-del", {"node-name": node})
    place = os.path.realpath(path)
    if not os.path.exists(layer(path)):
        _new_layer(store.vm, path)
    os.rename(layer(path), place)
    host_files.sync_folder(os.path.dirname(place))
    base = _row(store, lambda each: each.get("qdev") == device)["inserted"]["node-name"]
    store.jobs.execute("blockdev-add", {**options, "backing": None})
    store.jobs.execute("blockdev-snapshot", {"node": base, "overlay": node})
