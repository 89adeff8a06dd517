"""What the commands that remove, rename and move machines report."""

from __future__ import annotations

from qvmsh.machine.progress import size
from qvmsh.machine.reports import Report, plural, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


def archived(count: int | None, place: str) -> str:
    """The archived states in a place, for people; None: it is not known how many."""
    return (
        f"what is archived in {place}" if count is None else f"{plural(count, 'archived state')} in {place}"
    )


class Deleted(Report):
    """Result of `delete`.

    Args:
        machine: its name.
        directory: where it was.
        trash: its folder in the trash; None if it was removed.
        foreign: files in the directory that are not the machine's, and stay.
        outside: disks in other directories, which stay.
        archives: the place of its archives elsewhere (VM_ARCHIVE), which stay; None if there are none.
        archives_there: how many archived states are there; None on another host, which is not asked.
        freed_bytes: what was removed; 0 in the trash.
    """

    __slots__ = (
        "archives", "archives_there", "directory", "foreign", "freed_bytes", "machine", "outside", "trash",
    )  # fmt: skip

    def __init__(
        self,
        machine: str,
        directory: str,
        *,
        trash: str | None,
        foreign: Sequence[str],
        outside: Sequence[str],
        archives: str | None,
        archives_there: int | None,
        freed_bytes: int,
    ) -> None:
        self.machine = machine
        self.directory = directory
        self.trash = trash
        self.foreign = list(foreign)
        self.outside = list(outside)
        self.archives = archives
        self.archives_there = archives_there
        self.freed_bytes = freed_bytes

    def shown(self) -> list[str]:
        from qvmsh.config.words import quote

        if self.trash:
            lines = [f"{self.machine}: deleted; `qvm undelete {quote(self.machine)}` takes it back"]
        else:
            lines = [f"{self.machine}: removed, {size(self.freed_bytes)} freed"]
        if self.foreign:
            lines.append(f"{self.machine}: kept in {self.directory}: {', '.join(self.foreign)}")
        if self.outside:
            lines.append(f"{self.machine}: kept: {', '.join(self.outside)}")
        if self.archives:
            lines.append(f"{self.machine}: kept: {archived(self.archives_there, self.archives)}")
        return lines


class Undeleted(Report):
    """Result of `undelete`.

    Args:
        machine: its name.
        directory: where it is again.
    """

    __slots__ = ("directory", "machine")

    def __init__(self, machine: str, directory: str) -> None:
        self.machine = machine
        self.directory = directory

    def shown(self) -> list[str]:
        return [f"{self.machine}: back in {self.directory}"]


def unseen_lines(unseen: Mapping[str, str]) -> list[str]:
    """That machines in the trash cannot be seen, and where: a line each.

    Args:
        unseen: where the links lead, by the link.
    """
    from qvmsh.config.words import quote

    return [
        f"not to be seen in the trash: {target}; is its file system mounted? If it is gone for good: "
        f"`rm {quote(link)}`"
        for link, target in unseen.items()
    ]


class Trashed(Report):
    """Result of `undelete --list`.

    Args:
        machines: `machine`, `deleted` (when), `directory` (where it was) and `used_bytes` of each.
        unseen: links in the trash, and where they lead: to machines on file systems that are not mounted.
    """

    __slots__ = ("machines", "unseen")

    def __init__(self, machines: Sequence[dict[str, Any]], unseen: Mapping[str, str]) -> None:
        self.machines = list(machines)
        self.unseen = dict(unseen)

    def shown(self) -> list[str]:
        lines = [
            f"{each['machine']}: deleted {shown(each['deleted'])}, {size(each['used_bytes'])}, it was in "
            f"{each['directory']}"
            for each in self.machines
        ]
        return lines + unseen_lines(self.unseen)


class Pruned(Report):
    """Result of `prune`.

    Args:
        machines: names of the machines that were removed from the trash.
        freed_bytes: what they took on the disk.
        left: how many are still in the trash, of those that can be seen.
        unseen: links in the trash, and where they lead: to machines on file systems that are not mounted.
    """

    __slots__ = ("freed_bytes", "left", "machines", "unseen")

    def __init__(
        self, machines: Sequence[str], freed_bytes: int, left: int, unseen: Mapping[str, str]
    ) -> None:
        self.machines = list(machines)
        self.freed_bytes = freed_bytes
        self.left = left
        self.unseen = dict(unseen)

    def shown(self) -> list[str]:
        left = f"{plural(self.left, 'machine')} in the trash"
        if self.unseen:
            left += f", and {len(self.unseen)} that cannot be seen"
        if self.machines:
            line = f"removed {', '.join(self.machines)}: {size(self.freed_bytes)} freed; {left}"
        else:
            line = f"nothing to remove; {left} (`qvm undelete --list`)"
        return [line, *unseen_lines(self.unseen)]


class Moved(Report):
    """Result of `rename` and `move`.

    Args:
        machine: its name now.
        directory: where it is now.
        was: the name, or the directory, that it had.
    """

    __slots__ = ("directory", "machine", "was")

    def __init__(self, machine: str, directory: str, was: str) -> None:
        self.machine = machine
        self.directory = directory
        self.was = was

    def shown(self) -> list[str]:
        if self.was.startswith("/"):
            return [f"{self.machine}: moved from {self.was} to {self.directory}"]
        return [f"{self.machine}: renamed, it was {self.was}; it is in {self.directory}"]


class Cloned(Report):
    """Result of `clone`.

    Args:
        source: name of the machine that was cloned.
        machine: name of the new one.
        directory: where the new one is.
        consistency: `quiesced` (the guest's file systems were frozen), `crash-consistent`, or None for a
            machine that was off.
        is_linked: its disks are backed by the base of the other.
        notes: what the user should know about the new machine.
        started: what `start` reported, or None.
        seconds: how long it took.
    """

    __slots__ = (
        "consistency", "directory", "is_linked", "machine", "notes", "seconds", "source", "started"
    )  # fmt: skip

    def __init__(
        self,
        source: str,
        machine: str,
        directory: str,
        *,
        consistency: str | None,
        is_linked: bool,
        notes: Sequence[str],
        seconds: float,
    ) -> None:
        self.source = source
        self.machine = machine
        self.directory = directory
        self.consistency = consistency
        self.is_linked = is_linked
        self.notes = list(notes)
        self.seconds = round(seconds, 3)
        self.started: str | None = None

    def shown(self) -> list[str]:
        how = [self.consistency] if self.consistency else []
        how += ["linked"] if self.is_linked else []
        more = f" ({', '.join(how)})" if how else ""
        lines = [f"{self.machine}: cloned from {self.source}{more} in {self.seconds:.1f} s: {self.directory}"]
        lines += [f"{self.machine}: {each}" for each in self.notes]
        return [*lines, self.started] if self.started else lines


class Renewed(Report):
    """Result of `renew`.

    Args:
        machine: its name.
        uuid: its new one.
        machine_id: its new VM_MACHINE_ID.
        notes: what else changed, and what is still the same as before.
    """

    __slots__ = ("machine", "machine_id", "notes", "uuid")

    def __init__(self, machine: str, uuid: str, machine_id: str, notes: Sequence[str]) -> None:
        self.machine = machine
        self.uuid = uuid
        self.machine_id = machine_id
        self.notes = list(notes)

    def shown(self) -> list[str]:
        first = f"{self.machine}: it is a machine of its own now: uuid {self.uuid}, number {self.machine_id}"
        return [first, *(f"{self.machine}: {each}" for each in self.notes)]
