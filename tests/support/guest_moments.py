"""What a command that works on a guest's disks has begun, seen from outside; and commands held in a moment.

`held` stops a command in a moment that chance would miss; `require_nothing_under_way` checks that nothing of
it is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvmsh.errors import QmpError
from qvmsh.qemu import qmp
from tests.support.guest_writer import BEGUN
from tests.support.world import DEADLINE_S, Result, Vm


@dataclass
class Seen:
    """What an `archive` has begun, at one moment."""

    note: dict[str, Any] = field(default_factory=dict)
    """`.qvm/archive.unfinished`; {} for none."""
    jobs: dict[str, str] = field(default_factory=dict)
    tops: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    status: str = ""
    """QEMU's; "" where it did not answer just then."""
    has_journal: bool = False
    """There is a journal of work on snapshots."""
    has_overlay: bool = False
    """There is an overlay of a split disk in `.qvm`."""
    has_base: bool = False
    """A new archive is begun."""
    is_renamed: bool = False
    """The files of a state have their names, but its manifest does not list it yet."""

    @property
    def states(self) -> list[str]:
        return [each["state"] for each in self.note.get("cuts", [])]

    @property
    def join(self) -> str:
        """The status of the job that joins a disk."""
        return next((status for job, status in self.jobs.items() if job.startswith("qvm-join")), "")

    @property
    def is_cut(self) -> bool:
        return any(each.startswith("qvm-cut") for each in self.tops)


def note_path(vm: Vm) -> Path:
    return vm.directory / ".qvm/archive.unfinished"


def note_of(vm: Vm) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(note_path(vm).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def seen(vm: Vm, *, timeout_s: float = 1.0) -> Seen:
    """What is under way just now."""
    found = Seen(
        note_of(vm),
        has_journal=(vm.directory / ".qvm/snapshot.unfinished").exists(),
        has_overlay=any(vm.directory.glob(".qvm/cut-*")),
        has_base=any(vm.directory.glob(".demo-*.part/demo-base.qcow2")),
        is_renamed=_is_renamed(vm),
    )
    try:
        words = (vm.directory / ".qvm/running").read_text().splitlines()
        runtime = next(line.partition(" ")[2] for line in words if line.startswith("runtime "))
        exchange = qmp.Exchange(f"{runtime}/qmp", timeout_s)
        try:
            exchange.negotiate()
            found.jobs = {each["id"]: each["status"] for each in exchange.ask("query-jobs")}
            blocks = exchange.ask("query-block")
            found.tops = [each["inserted"]["node-name"] for each in blocks if each.get("inserted")]
            nodes = exchange.ask("query-named-block-nodes", {"flat": True})
            found.nodes = [each["node-name"] for each in nodes]
            found.status = exchange.ask("query-status")["status"]
        finally:
            exchange.close()
    except (OSError, QmpError, StopIteration):
        pass
    return found


def _is_renamed(vm: Vm) -> bool:
    for path in vm.directory.glob("demo-*/manifest.json"):
        for point in json.loads(path.read_text())["points"]:
            names = [part["name"] for part in point["parts"] if part["name"]]
            if not point["is_done"] and any((path.parent / name).exists() for name in names):
                return True
    return False


def require_nothing_under_way(vm: Vm) -> None:
    """No incomplete file, no journal of interrupted work; in QEMU no job and no node of ours."""
    names = [str(path.relative_to(vm.directory)) for path in vm.directory.rglob("*")]
    left = [name for name in names if ".part" in name or "restore-new" in name]
    left += [name for name in names if name.startswith((".qvm/cut-", ".qvm/staged-", ".qvm/verify-"))]
    left += [name for name in names if name.endswith(".unfinished")]
    assert not left, left
    if vm.qvm("status", "-s").status == 0:
        now = seen(vm, timeout_s=20)
        assert now.status == "running"
        assert not now.jobs
        assert not [each for each in now.nodes if each.startswith("qvm-")], now.nodes
        assert not now.is_cut
    for path in vm.directory.glob("demo-*/manifest.json"):
        manifest = json.loads(path.read_text())
        points = manifest["points"]
        assert all(each["is_done"] for each in points), path
        parts = [part for each in points for part in each["parts"]]
        parts += [part for below in manifest["layers"].values() for part in below]
        known = {part["name"] for part in parts if part["name"]} | {"manifest.json"}
        assert {each.name for each in path.parent.iterdir()} == known


# Processes


def next_command(vm: Vm, *words: str) -> Result:
    """The next command; a program that the killed one had begun may still hold the work lock."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        result = vm.qvm(*words)
        if "is working on it" not in result.err or time.monotonic() > deadline:
            assert result.status == 0, str(result)
            return result
        time.sleep(0.1)


def messages(result: Result) -> str:
    """What a command printed, without the lines of `doctor` about what is in order."""
    lines = (result.out + result.err).splitlines()
    return "\n".join(line for line in lines if not line.startswith("ok "))


def stop_process(child: subprocess.Popen[str]) -> bool:
    """Stop a command and wait until it stands still; False if it has ended."""
    child.send_signal(signal.SIGSTOP)
    while child.poll() is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if status in "Tt":
                return True
        time.sleep(0.0002)
    return False


def held(
    vm: Vm, moment: Callable[[Seen], bool], *words: str, tries: int = 6, step_s: float = 0.0015
) -> subprocess.Popen[str]:
    """A command that is stopped in a certain moment of its work.

    Looked for in small steps; if it is missed, the command is started again.
    """
    chooser = random.Random(0)
    for _ in range(tries):
        child = vm.world.popen(*words, cwd=vm.directory)
        BEGUN.append(child)
        while child.poll() is None and not note_path(vm).exists():
            time.sleep(0.001)
        while stop_process(child):
            if moment(seen(vm)):
                return child
            child.send_signal(signal.SIGCONT)
            time.sleep(chooser.uniform(0, step_s))
        out, err = child.communicate()
        assert child.returncode == 0, out + err
    raise AssertionError(f"that moment of {words} was never seen")


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended."""
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
