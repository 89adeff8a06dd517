"""The list of known machines with their states: what `list` shows.

print(known_machines(os.environ, labels=["web"]))
"""

from __future__ import annotations

import os

from qvmsh.errors import QvmError, UsageError, printable
from qvmsh.host import mounts, process
from qvmsh.machine import launch_record, owner, registry, state
from qvmsh.machine.machine import BaseMachine
from qvmsh.machine.overview import facts
from qvmsh.machine.overview import status as overview_status
from qvmsh.machine.reports import Report, lasting
from qvmsh.qemu import qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord

MISSING = "missing"
"""The directory is not where it was."""
STATES = (
    "stopped", "starting", "running", "paused", "suspended", "shut down", "crashed", "broken", "missing"
)  # fmt: skip
FORGETTING = "`qvm list --prune` forgets it; using it at its new place adds it again"
SILENT = "a network or a program that should serve these files is down; `mount` shows which"
DEPTH = 6
"""How deep `--tree` looks for machines."""
_HEAD = ("name", "state", "pid", "vcpus", "mem", "accel", "ssh", "uptime", "directory")


class Listed(Report):
    """One machine of the list.

    Args:
        machine: its name.
        state: as in `status`; or `missing`: its directory is not where it was.
        directory: where it is.
        detail: one line more, or "".
        pid: QEMU's, or None.
        labels: the words of VM_LABELS.
        requires: the words of VM_REQUIRES.
        hint: what to do about it, or None.
        vcpus, memory_mib, accelerator, uptime_s, ssh_port: as in `facts.Facts`.
        disks, snapshots: the rows of `snapshot list`; None if they were not asked for.
    """

    __slots__ = (
        "accelerator", "detail", "directory", "disks", "hint", "labels", "machine", "memory_mib", "pid",
        "requires", "snapshots", "ssh_port", "state", "uptime_s", "vcpus",
    )  # fmt: skip

    def __init__(
        self,
        machine: str,
        state: str,
        directory: str,
        *,
        detail: str = "",
        hint: str | None = None,
        **more: Any,
    ) -> None:
        self.machine = machine
        self.state = state
        self.directory = directory
        self.detail = detail
        self.hint = hint
        self.pid: int | None = more.get("pid")
        self.labels: list[str] = list(more.get("labels", ()))
        self.requires: list[str] = list(more.get("requires", ()))
        self.vcpus: int | None = more.get("vcpus")
        self.memory_mib: int | None = more.get("memory_mib")
        self.accelerator: str | None = more.get("accelerator")
        self.uptime_s: float | None = more.get("uptime_s")
        self.ssh_port: int | None = more.get("ssh_port")
        self.disks: list[dict[str, Any]] | None = None
        self.snapshots: list[dict[str, Any]] | None = None

    def cells(self) -> tuple[str, ...]:
        """Its row of the table."""
        uptime = lasting(self.uptime_s) if self.uptime_s is not None else None
        memory = f"{self.memory_mib} MiB" if self.memory_mib else None
        numbers = (self.pid, self.vcpus, memory, self.accelerator, self.ssh_port, uptime)
        row = (self.machine, self.state, *(str(each or "-") for each in numbers), self.directory)
        return tuple(printable(each) for each in row)

    def paragraph(self) -> list[str]:
        """Everything about it, a line each: `list -l`."""
        from qvmsh.machine.overview import content

        pid = f" (pid {self.pid})" if self.pid else ""
        lines = [f"{self.machine}: {self.state}{pid}" + (f": {self.detail}" if self.detail else "")]
        hardware = [f"{self.vcpus} vcpus"] if self.vcpus else []
        hardware += [f"{self.memory_mib} MiB"] if self.memory_mib else []
        hardware += [self.accelerator] if self.accelerator else []
        rows = [("hint", self.hint or ""), ("directory", self.directory), ("hardware", ", ".join(hardware))]
        rows += [("ssh", f"127.0.0.1 port {self.ssh_port}" if self.ssh_port else "")]
        rows += [("uptime", lasting(self.uptime_s) if self.uptime_s is not None else "")]
        rows += [("labels", " ".join(self.labels)), ("requires", " ".join(self.requires))]
        rows += content.lines(self.disks or (), self.snapshots or ())
        return [*lines, *(f"  {name:{content.WIDTH}}{text}" for name, text in rows if text)]


class Listing(Report):
    """Result of `list`: `machines` by name."""

    __slots__ = ("_is_long", "machines")

    def __init__(self, machines: Sequence[Listed], *, is_long: bool = False) -> None:
        self.machines = list(machines)
        self._is_long = is_long

    def __iter__(self) -> Any:
        return iter(self.machines)

    def __len__(self) -> int:
        return len(self.machines)

    def shown(self) -> list[str]:
        if not self.machines:
            return []
        if self._is_long:
            return [line for each in self.machines for line in ("", *each.paragraph())][1:]
        rows = [each.cells() for each in self.machines]
        used = [at for at in range(len(_HEAD)) if any(row[at] != "-" for row in rows)]
        table = [_HEAD, *rows]
        widths = {at: max(len(row[at]) for row in table) for at in used}
        lines = []
        for row, each in zip(table, [None, *self.machines], strict=True):
            lines.append("  ".join(f"{row[at]:{widths[at]}}" for at in used).rstrip())
            if each and each.detail:
                lines.append(f"  {printable(each.detail)}" + (f" ({each.hint})" if each.hint else ""))
        return lines

    def as_json(self) -> dict[str, Any]:
        return {"machines": [each.as_json() for each in self.machines]}


def known_machines(
    environ: Mapping[str, str],
    *,
    names: Sequence[str] = (),
    labels: Sequence[str] = (),
    states: Sequence[str] = (),
    tree: str | None = None,
    is_long: bool = False,
) -> Listing:
    """The machines that are known, or below `tree`, each looked at now; a broken one is listed as broken.

    Args:
        names: only these: directories, names, or patterns of names.
        labels: only those that have all of these labels.
        states: only those in one of these states.

    Raises:
        UsageError: there is no such machine, state or directory.
    """
    unknown = [each for each in states if each not in STATES]
    if unknown:
        raise UsageError(f"list: --state {unknown[0]}: must be one of {', '.join(STATES)}")
    environ = dict(environ)  # read once for each machine, and `os.environ` is slow
    found, holders = [], process.LockHolders(state.PID_WORD)
    rows = [(row.name, _of_row(row, environ)) for row in _wanted(names, tree, environ)]
    busy = holders.directories()  # of another name where a link leads there; then it is asked alone
    ask = _ask_together([vm for _, vm in rows if isinstance(vm, BaseMachine) and vm.directory in busy])
    for name, vm in rows:
        each = _see(vm, name, holders, ask) if isinstance(vm, BaseMachine) else vm
        if set(labels) <= set(each.labels) and (not states or each.state in states):
            found.append(each)
    if is_long:
        for each in found:
            if each.state not in (MISSING, state.BROKEN):
                _add_content(each, environ)
    return Listing(sorted(found, key=lambda each: (each.machine, each.directory)), is_long=is_long)


def _wanted(names: Sequence[str], tree: str | None, environ: Mapping[str, str]) -> list[registry.Known]:
    """The machines to look at; the name of each is the last known one."""
    if tree is not None:
        rows = _looked_at(below(tree))
        if not names:
            return rows
        from fnmatch import fnmatchcase

        return [row for row in rows if any(fnmatchcase(row.name, name) for name in names)]
    if not names:
        return registry.rows(environ)
    places: list[str] = []
    for word in names:
        is_many = registry.is_pattern(word)
        places += registry.matching(word, environ) if is_many else [registry.resolve(word, environ)]
    return _looked_at(dict.fromkeys(map(os.path.abspath, places)))


def _ask_together(vms: Sequence[BaseMachine]) -> Callable[[LaunchRecord], str]:
    """Ask the QEMUs of many machines at the same time; `state.observe` gets the answers by this."""
    sockets = []
    for vm in vms:
        try:
            note = launch_record.read(vm.files)
        except OSError:
            continue
        if note and note.is_of_this_boot:
            sockets.append(note.socket("qmp"))
    answers = qmp.ask_all(sockets, "query-status")

    def ask(note: LaunchRecord) -> str:
        found = answers.get(note.socket("qmp"))
        return str(found["status"]) if found else state.asked(note)

    return ask


def _of_row(row: registry.Known, environ: Mapping[str, str]) -> BaseMachine | Listed:
    """The machine of a row; or what the list says of one that cannot be opened."""
    if row.silent:
        why = f"{row.silent} does not answer"
        return Listed(row.name, state.BROKEN, row.directory, detail=why, hint=SILENT)
    if row.is_there:
        return _opened(row.directory, row.name, environ)
    return Listed(row.name, MISSING, row.directory, detail="its directory is missing", hint=FORGETTING)


def _looked_at(places: Iterable[str]) -> list[registry.Known]:
    """Directories as rows of the list; with the reason where a file system does not answer."""
    mounted = mounts.Mounts()
    return [
        registry.Known(os.path.basename(each), "", each, mounted.silent_file(each, ".vmrc") or "")
        for each in places
    ]


def below(tree: str, depth: int = DEPTH) -> list[str]:
    """Directories with a `.vmrc` in or below `tree`; links are not followed, machines not searched.

    Raises:
        UsageError: it is not a directory.
    """
    mounted = mounts.Mounts()
    if point := mounted.silent(os.path.abspath(tree)):
        raise UsageError(f"list: --tree {tree}: {point} does not answer", hint=SILENT)
    if not os.path.isdir(tree):
        raise UsageError(f"list: --tree {tree}: not a directory")
    found, left = [], [(os.path.abspath(tree), depth)]
    while left:
        directory, rest = left.pop()
        if mounted.silent(directory):  # a row says so
            found.append(directory)
            continue
        if os.path.lexists(os.path.join(directory, ".vmrc")):
            found.append(directory)
        elif rest:
            try:
                with os.scandir(directory) as entries:
                    left += [(each.path, rest - 1) for each in entries if each.is_dir(follow_symlinks=False)]
            except OSError:  # a folder of another account
                pass
    return sorted(found)


def _add_content(each: Listed, environ: Mapping[str, str]) -> None:
    """Add disks and snapshots; what cannot be read becomes the detail."""
    from qvmsh.machine.overview import content

    try:
        each.disks, each.snapshots, why = content.of(BaseMachine(each.directory, environ=environ))
    except QvmError as error:  # another account's machine
        why = error.what
    each.detail = each.detail or why


def look(
    directory: str,
    name: str,
    environ: Mapping[str, str],
    holders: process.LockHolders | None = None,
    *,
    vm: BaseMachine | None = None,
    ask: Callable[[LaunchRecord], str] | None = None,
) -> Listed:
    """One machine, looked at now; whatever is wrong with it is in the answer.

    Args:
        holders: shared by the looks at many machines.
        vm: the machine, if its configuration was read before.
        ask: as in `state.observe`.
    """
    opened = _opened(directory, name, environ, vm)
    return opened if isinstance(opened, Listed) else _see(opened, name, holders, ask)


def _opened(
    directory: str, name: str, environ: Mapping[str, str], vm: BaseMachine | None = None
) -> BaseMachine | Listed:
    """The machine; or its row, where root does not open it with its own rights.

    Args:
        vm: the machine, if it was opened before.
    """
    try:
        try:
            if vm:
                owner.require_own(directory, environ)
            return vm or BaseMachine(directory, environ=environ)
        except owner.Foreign as foreign:
            from qvmsh.machine import owner_state

            return Listed(**owner_state.look(directory, foreign.account, environ))
    except (QvmError, OSError) as error:
        return _broken(directory, name, environ, error)


def _broken(directory: str, name: str, environ: Mapping[str, str], error: QvmError | OSError) -> Listed:
    what = error.what if isinstance(error, QvmError) else str(error)
    hint = error.hint if isinstance(error, QvmError) else None
    own = registry.labels(directory, environ)
    return Listed(name, state.BROKEN, directory, detail=what, labels=own, hint=hint)


def _see(
    vm: BaseMachine,
    name: str,
    holders: process.LockHolders | None,
    ask: Callable[[LaunchRecord], str] | None,
) -> Listed:
    """The row of an opened machine."""
    vm.lock_holders = holders
    try:
        seen = overview_status.look(vm, is_quiet=True, has_ssh_check=False, ask=ask)
    except (QvmError, OSError) as error:
        return _broken(vm.directory, name, vm.environ, error)
    source = registry.original(vm)
    return Listed(
        vm.name,
        seen.state,
        vm.directory,
        detail=seen.detail or (f"a copy of {source}" if source else ""),
        hint=seen.hint or ("`qvm renew` gives it an identity of its own" if source else None),
        pid=seen.pid,
        labels=registry.labels_of(vm),
        requires=registry.requirements_of(vm),
        **facts.of(vm, seen.pid, seen.ssh_port),
    )
