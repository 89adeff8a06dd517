"""The shares of a machine as `share list` and `status` report them.

rows(vm, seen)      # [{"tag": "src", "path": "/src", "kind": "9p", "state": "attached", "problem": "", ...}]
"""

from __future__ import annotations

from qvmsh.errors import QmpError, QvmError
from qvmsh.machine.guest.shares import devices, plan
from qvmsh.machine.reports import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from qvmsh.config.shares import ShareLine
    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.state import Observation

ANSWER_S = 1.0
"""How long QEMU may take to say which shares are attached."""
LATER, OFF, UNKNOWN = "attached at the next start", "off", "unknown"


class Shares(Report):
    """Result of `share list`.

    Args:
        shares: `tag`, `path`, `kind`, `read_only`, `mount`, `state`, `problem` and `hint` of each.
    """

    __slots__ = ("machine", "shares")

    def __init__(self, machine: str, rows: Sequence[dict[str, Any]]) -> None:
        self.machine = machine
        self.shares = list(rows)

    def shown(self) -> list[str]:
        if not self.shares:
            return [f"{self.machine}: no directory is shared"]
        found = []
        for each in self.shares:
            found.append(f"{each['tag']:8} {line(each)}")
            found += [f"{'':8} hint: {each['hint']}"] if each["hint"] else []
        return found


class ShareDone(Report):
    """Result of `share add` and `share remove`: `done` is one line."""

    __slots__ = ("done", "machine", "tag")

    def __init__(self, machine: str, tag: str, done: str) -> None:
        self.machine = machine
        self.tag = tag
        self.done = done

    def shown(self) -> list[str]:
        return [f"{self.machine}: {self.tag}: {self.done}"]


def line(row: Mapping[str, Any]) -> str:
    """A share for people, without its tag."""
    parts = [row["kind"], *(["read-only"] if row["read_only"] else []), row["state"]]
    parts += [f"mount={row['mount']}"] if row["mount"] else []
    return f"{row['path']}: {row['problem'] or ', '.join(parts)}"


def rows(vm: BaseMachine, seen: Observation) -> list[dict[str, Any]]:
    """The shares that the running QEMU was given, and those of VM_SHARE.

    Raises:
        ConfigError: the settings have problems.
    """
    configured = plan.configured(vm)
    if not seen.is_live or seen.note is None:
        return [_row(vm, each, OFF) for each in configured]
    given = plan.of_record(seen.note)
    found: dict[str, str] = {}
    if given:
        try:
            with devices.conversation(seen.note, timeout_s=ANSWER_S) as qemu:
                found = devices.states(qemu, given)
        except (OSError, QmpError):  # another command works with it
            pass
    tags = [each.tag for each in given]
    later = [each for each in configured if each.tag not in tags]
    return [
        *(_row(vm, each, found.get(each.tag, UNKNOWN)) for each in given),
        *(_row(vm, each, LATER) for each in later),
    ]


def lost(note: LaunchRecord) -> list[str]:
    """What is wrong with the shares whose program has ended, in which the guest hangs; a line each."""
    try:
        given = plan.of_record(note)
        with devices.conversation(note, timeout_s=ANSWER_S) as qemu:
            found = devices.states(qemu, given) if given else {}
    except (OSError, QvmError):
        return []
    return [f"share {tag}: {devices.ENDED}" for tag, state in found.items() if state == devices.LOST]


def found_rows(vm: BaseMachine, seen: Observation) -> list[dict[str, Any]] | None:
    """The same; None where they cannot be read: the machine's state says why."""
    try:
        return rows(vm, seen)
    except (QvmError, OSError):
        return None


def _row(vm: BaseMachine, share: ShareLine, state: str) -> dict[str, Any]:
    is_attached = state == devices.ATTACHED
    problem, hint = plan.fault(vm.directory, vm.environ, share, is_attached=is_attached)
    if state == devices.LOST:
        problem, hint = devices.ENDED, devices.AFTER_END
    return {
        "tag": share.tag, "path": share.path, "kind": share.kind, "read_only": share.is_read_only,
        "mount": share.mount, "state": state, "problem": problem, "hint": hint or None,
    }  # fmt: skip
