"""Where snapshots are: the images of a machine that is off, or the QEMU that has them open.

    store = Images(vm, volumes)            # or Live(vm, volumes, exchange)
    store.create("ready", has_memory=False)
    store.is_whole("ready")                # True: it is on all disks

Each operation is on all disks; none is atomic: the caller keeps a journal (`machine.journal`), and undoes or
completes the work with the same operations.
"""

from __future__ import annotations

import contextlib
import json
import os
from abc import ABC, abstractmethod

from qvmsh.config.words import quote
from qvmsh.errors import ImageError, QmpError, QvmError, StateError
from qvmsh.host import files as host_files
from qvmsh.host import locks, process
from qvmsh.machine import paths, programs, snapshot_names, state
from qvmsh.machine.monitor import conversation
from qvmsh.machine.progress import Watch
from qvmsh.machine.snapshot import consistency, of_s2e
from qvmsh.machine.snapshot.reports import word
from qvmsh.machine.storage import chain, supplies, volumes
from qvmsh.qemu import image, qemuimg, qmp
from qvmsh.qemu.jobs import Jobs
from qvmsh.qemu.qcow2 import Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.storage.volumes import Volume
    from qvmsh.qemu.qmp import Exchange


class Store(ABC):
    """The snapshots in a set of disks; `Images` and `Live` say how they are changed.

    Args:
        volumes: the disks that the guest writes to; the first takes the memory.
    """

    exchange: Exchange | None = None
    """The conversation with the QEMU that has them open."""

    def __init__(self, vm: BaseMachine, volumes: list[Volume]) -> None:
        self.vm = vm
        self.volumes = volumes

    def named(self) -> tuple[tuple[str, str], ...]:
        """Id and path of each disk, as a record in the journal has them."""
        return tuple((each.id, os.path.join(self.vm.directory, each.path)) for each in self.volumes)

    def every(self, volume: Volume) -> list[Snapshot]:
        """The snapshots of one disk, in the order of its table."""
        return chain.snapshots_in(volume.path, volume.format)

    def tags(self, volume: Volume) -> dict[str, Snapshot]:
        """The snapshots of one disk by name; of two with one name QEMU takes the first."""
        return {each.name: each for each in reversed(self.every(volume))}

    def require_one(self, tag: str) -> None:
        """Refuse a name that several snapshots of one disk have, as other tools make them.

        Raises:
            StateError: with a command that removes the first of them.
        """
        for each in self.volumes:
            found = [snapshot for snapshot in self.every(each) if snapshot.name == tag]
            if len(found) > 1:
                raise StateError(
                    f"ambiguous name: {consistency.doubles(each, found)}",
                    machine=self.vm.name,
                    hint=f"`{self._first_removed(each, found[0])}` removes only the first",
                )

    def _first_removed(self, volume: Volume, first: Snapshot) -> str:
        """The command that removes it: by its name alone `qemu-img` takes the first."""
        return f"qemu-img snapshot -d {quote(first.name)} {image.typed(volume.path)}"

    def on(self, tag: str) -> dict[str, Snapshot]:
        """The snapshot on each disk that has it, by the disk's id."""
        found = {each.id: self.tags(each).get(tag) for each in self.volumes}
        return {name: each for name, each in found.items() if each is not None}

    def by_name(self) -> dict[str, dict[str, Snapshot]]:
        """The snapshots by name, each by the id of the disk; as `on` of every name, but read once."""
        found: dict[str, dict[str, Snapshot]] = {}
        for volume in self.volumes:
            for name, each in self.tags(volume).items():
                found.setdefault(name, {})[volume.id] = each
        return found

    def holders(self, tag: str) -> list[Volume]:
        """The disks that have the snapshot."""
        return [each for each in self.volumes if tag in self.tags(each)]

    def is_whole(self, tag: str) -> bool:
        return bool(self.volumes) and len(self.holders(tag)) == len(self.volumes)

    def memory_bytes(self, tag: str) -> int:
        """Size of the memory that the snapshot holds, 0 for one of the disks only."""
        return max((self.tags(each)[tag].vmstate_bytes for each in self.holders(tag)), default=0)

    @abstractmethod
    def create(self, tag: str, *, has_memory: bool) -> None:
        """Take the snapshot on every disk."""

    @abstractmethod
    def delete(self, tag: str) -> None:
        """Remove the snapshot from every disk that has it."""

    @abstractmethod
    def apply(self, tag: str) -> None:
        """Put every disk back, and the memory of a machine that is on."""

    @abstractmethod
    def bitmaps(self) -> int:
        """Remove the dirty bitmaps, which prevent going back; return how many there were."""


class Images(Store):
    """The images of a machine that is off, by `qemu-img`."""

    def create(self, tag: str, *, has_memory: bool = False) -> None:
        for each in self.volumes:
            self._snapshot(each, "-c", tag, f"save {tag} on {each.id}")

    def delete(self, tag: str) -> None:
        """The memory is removed last: as long as it exists, everything does."""
        for each in reversed(self.volumes):
            while tag in self.tags(each):  # of one of our own names there may be two
                self._snapshot(each, "-d", tag, f"delete {tag} on {each.id}")

    def apply(self, tag: str) -> None:
        for each in self.volumes:
            # by number: to QEMU a name could be another snapshot's number
            self._snapshot(each, "-a", self.tags(each)[tag].id, f"restore {tag} on {each.id}")

    def bitmaps(self) -> int:
        count = 0
        for each in self.volumes:
            words = ["info", "-f", each.format, "--output=json", image.safe_name(each.path)]
            found = json.loads(self._run(each, words, f"read {each.name}"))
            data = found.get("format-specific", {}).get("data", {})
            for bitmap in data.get("bitmaps", ()):
                words = ["bitmap", "--remove", "-f", each.format, image.safe_name(each.path), bitmap["name"]]
                self._run(each, words, f"remove a bitmap of {each.name}")
                count += 1
        return count

    def repair_leaks(self) -> None:
        """Free what a killed QEMU had allocated and not yet used."""
        for each in self.volumes:
            words = ["check", "-q", "-f", each.format, "-r", "leaks", image.safe_name(each.path)]
            try:
                self._run(each, words, f"check {each.name}")
            except ImageError as error:
                self.vm.io.warn(f"{self.vm.name}: {error.what}: {'; '.join(error.details)}")

    def require_free(self) -> None:
        """Refuse where a disk is missing, or another process has one open.

        Raises:
            ImageError: it names the process.
        """
        for each in self.volumes:
            hint = "put it back, or correct the configuration"
            image.require(each.path, self.vm.name, hint=hint, kind=each.format)
            image.require_unused(each.path, self.vm.name)
            if not os.access(each.path, os.W_OK):
                raise supplies.unwritable(self.vm, each.name, each.path, "ask as its owner")

    def _run(self, volume: Volume, words: list[str], what: str) -> str:
        chain.below(self.vm, volume.path, volume.format)  # qemu-img opens all of it
        return qemuimg.run(programs.qemu_img(self.vm), words, cwd=self.vm.directory, what=what)

    def _snapshot(self, volume: Volume, option: str, tag: str, what: str) -> None:
        self.vm.io.checkpoint()
        try:
            self._run(volume, ["snapshot", option, tag, image.safe_name(volume.path)], what)
        except ImageError as error:
            error.machine = self.vm.name
            if any("lock" in line for line in error.details):
                raise image.in_use(volume.path, self.vm.name) from None
            raise
        _sync(volume.path)


class Live(Store):
    """The disks of a running QEMU, by its jobs.

    Args:
        exchange: a conversation with it, negotiated.
    """

    exchange: Exchange

    def __init__(self, vm: BaseMachine, volumes: list[Volume], exchange: Exchange) -> None:
        super().__init__(vm, volumes)
        self.exchange = exchange
        self.jobs = Jobs(exchange, Watch(vm.io, volumes[0].path if volumes else ""))

    def every(self, volume: Volume) -> list[Snapshot]:
        for node in self._nodes():
            if node["node-name"] == volume.node:
                return [
                    Snapshot(row["id"], row["name"], row["date-sec"], row["vm-state-size"])
                    for row in node["image"].get("snapshots", [])
                ]
        return []

    def _first_removed(self, volume: Volume, first: Snapshot) -> str:
        words = json.dumps({"device": volume.node, "id": first.id})
        return f"qvm qmp blockdev-snapshot-delete-internal-sync {quote(words)}"

    def create(self, tag: str, *, has_memory: bool) -> None:
        nodes = [each.node for each in self.volumes]
        if has_memory:
            watch = Watch(self.vm.io, self.volumes[0].path)
            self._job("snapshot-save", {"tag": tag, "vmstate": nodes[0], "devices": nodes}, watch)
            return
        actions = [
            {"type": "blockdev-snapshot-internal-sync", "data": {"device": node, "name": tag}}
            for node in nodes
        ]
        self.jobs.execute("transaction", {"actions": actions})  # all, or none

    def delete(self, tag: str) -> None:
        nodes = [each.node for each in reversed(self.holders(tag))]
        if nodes:
            self._job("snapshot-delete", {"tag": tag, "devices": nodes})

    def apply(self, tag: str) -> None:
        self.require_no_number(tag)
        memory = next(each for each in self.volumes if self.tags(each)[tag].vmstate_bytes)
        nodes = [each.node for each in self.volumes]
        pid = locks.holder(self.vm.files.pid_file) or 0
        watch = Watch(
            self.vm.io, memory.path, reads=lambda: process.read_bytes(pid), total_bytes=self.memory_bytes(tag)
        )
        self._job("snapshot-load", {"tag": tag, "vmstate": memory.node, "devices": nodes}, watch)

    def bitmaps(self) -> int:
        count = 0
        ours = {each.node for each in self.volumes}
        for node in self._nodes():
            for bitmap in node.get("dirty-bitmaps", ()) if node["node-name"] in ours else ():
                where = {"node": node["node-name"], "name": bitmap["name"]}
                self.jobs.execute("block-dirty-bitmap-remove", where)
                count += 1
        return count

    def _nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.jobs.execute("query-named-block-nodes", {"flat": True})
        return found

    def _job(self, command: str, arguments: dict[str, object], watch: Watch | None = None) -> None:
        before = paths.tail(self.vm.files.qemu_stderr, 3)
        try:
            Jobs(self.exchange, watch).job(command, arguments)
        except QmpError as error:
            # which device cannot be saved is only there (QEMU 10.0 and a share of virtiofs)
            output = paths.tail(self.vm.files.qemu_stderr, 3)
            error.details += tuple(f"QEMU: {line}" for line in output if line not in before)
            raise
        except OSError:
            raise QmpError(
                f"QEMU ended during {command}",
                machine=self.vm.name,
                hint="`qvm logs` shows why, `qvm status` what is left; `qvm start` starts it again",
            ) from None

    def require_no_number(self, tag: str) -> None:
        """QEMU takes a name for a number first: refuse a name that is another snapshot's number.

        Raises:
            StateError: it is; nothing was changed.
        """
        for each in self.volumes:
            found = self.tags(each)
            if any(other.id == tag for name, other in found.items() if name != tag):
                raise StateError(
                    f"the name {tag} is also the number of another snapshot on {each.id}",
                    machine=self.vm.name,
                    hint="QEMU would load that one: restore it while the machine is off",
                )


def _sync(path: str) -> None:
    try:
        host_files.sync(path)
    except OSError as error:
        raise QvmError(f"cannot write {os.path.basename(path)}: {error.strerror}") from error


@contextlib.contextmanager
def opened(vm: BaseMachine, what: str) -> Iterator[tuple[Store, list[Volume], state.Observation]]:
    """The snapshots of the machine as it is now, all its disks, and its state.

    Raises:
        StateError: it is in a state in which no snapshot can be changed.
        ImageError: an image is missing, or in use by another process.
    """
    seen = state.observe(vm)
    if not seen.is_live:
        disks = volumes.configured(vm)
        store = Images(vm, [each for each in volumes.written(disks) if each.format == "qcow2"])
        store.require_free()
        yield store, disks, seen
        return
    _, note = state.require(vm, seen, what, state.RUNNING, state.PAUSED, state.SUSPENDED)
    state.require_sound(vm, seen, what)
    state.require_lasting(vm, seen, what)
    with live(vm, note) as (found, disks):
        yield found, disks, seen


@contextlib.contextmanager
def live(vm: BaseMachine, note: LaunchRecord) -> Iterator[tuple[Live, list[Volume]]]:
    """The snapshots of a machine that is on, and all its disks."""
    with state.Answering(vm):
        exchange = conversation.begin(note, "session")
    with exchange, state.Answering(vm, ConnectionError, TimeoutError):
        disks = volumes.of_blocks(vm, exchange.ask("query-block", timeout_s=qmp.ANSWER_S))
        able = [each for each in volumes.written(disks) if each.format == "qcow2"]
        yield Live(vm, able, exchange), disks


def named(store: Store, name: str, entries: Mapping[str, dict[str, Any]]) -> str:
    """The snapshot that a user's word means, see `snapshot_names.meant`.

    That of another machine, on a disk that both use, has to be named in full.

    Args:
        entries: what the metadata know, by name.
    """
    there = store.by_name()
    if name in there:
        return name
    own = {tag for tag, on in there.items() if consistency.may_be_own(store.volumes, on, entries.get(tag))}
    own |= {tag.removesuffix(snapshot_names.NEW) for tag in there if tag.endswith(snapshot_names.NEW)}
    own |= of_s2e.paths(store.vm).keys()
    return snapshot_names.meant(store.vm, name, own)


def resolve(store: Store, name: str, entry: dict[str, Any] | None = None) -> str:
    """The tag of the snapshot `name`: itself, or the new one of a killed save that was replacing it.

    Args:
        entry: what the metadata know of it.

    Raises:
        StateError: it is not there, or not on every disk.
    """
    vm = store.vm
    store.require_one(name)
    for tag in (name, name + snapshot_names.NEW):
        if store.is_whole(tag):
            return tag
    on = store.on(name)
    if not on:
        raise snapshot_names.unknown(vm, name, {tag for each in store.volumes for tag in store.tags(each)})
    missing = [each for each in store.volumes if each.id not in on]
    shown = ", ".join(f"{each.id}, {each.name}" for each in missing)
    if consistency.without(store.volumes, on, entry) == missing:
        raise StateError(
            f"the snapshot {name} was taken without {shown}",
            machine=vm.name,
            hint=("`qvm stop`, then " if isinstance(store, Live) else "")
            + f"`qvm snapshot restore --force {word(name)}` restores the others only; "
            "or remove it from VM_DISKS",
        )
    only = [each for each in store.volumes if each.id in on]
    alone = f"`qemu-img snapshot -a {word(name)} {image.typed(only[0].path)}`"
    raise StateError(
        f"there is no snapshot {name} on {shown}",
        machine=vm.name,
        hint=f"`qvm snapshot delete {word(name)}` removes the rest: disks from different moments do not match"
        + (f"; {alone} restores only {only[0].name}, while the machine is off" if len(only) == 1 else ""),
    )
