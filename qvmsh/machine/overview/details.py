"""Everything about a machine that `status -v` and `status --json` show.

look_closer(vm, seen)      # {"uuid": "...", "vcpus": 2, "qemu": "7.2.22", "disks": [...], ...}
"""

from __future__ import annotations

import os
import time

from qvmsh.errors import QmpError
from qvmsh.host import process
from qvmsh.machine import identity, registry
from qvmsh.machine.guest.shares import listing
from qvmsh.machine.overview import content, facts
from qvmsh.machine.progress import size
from qvmsh.machine.reports import lasting, shown, stamp
from qvmsh.qemu import qga, qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from qvmsh.machine.launch_record import LaunchRecord
    from qvmsh.machine.machine import BaseMachine
    from qvmsh.machine.state import Observation

ANSWER_S = 1.0
"""How long QEMU, and then the guest agent, may take to answer."""
LOGS = ("serial.log", "qemu.stdout", "qemu.stderr", "qvm.log", "pre-start.log", "post-stop.log")


def look_closer(vm: BaseMachine, seen: Observation) -> dict[str, Any]:
    """The facts by name; None where one is not known, or has no meaning in this state.

    Returns:
        `directory`; `copy_of`, where it was copied from by hand; `uuid`; `since`, when QEMU began;
        `uptime_s`; `vcpus`; `memory_mib`; `accelerator`; `machine_type` and `qemu`, its version, while QEMU
        answers; `binary`; `agent`, True if the guest agent answers; `sockets` and `logs`, paths by name;
        `labels`; `requires`; `shares`, as `share list` has them; `disks` and `snapshots`, as `snapshot list`
        has them.
    """
    note = seen.note if seen.pid else None
    found: dict[str, Any] = {"directory": vm.directory, "uuid": identity.known_uuid(vm) or None}
    found["copy_of"] = registry.original(vm)
    numbers = facts.of(vm, seen.pid, None)
    del numbers["ssh_port"]
    began = time.time() - numbers["uptime_s"] if seen.pid else 0.0
    found["since"] = stamp(began) if seen.pid else None
    found |= numbers | {"machine_type": None, "qemu": None, "agent": None, "binary": None}
    if seen.pid:
        found["binary"] = next(iter(process.arguments(seen.pid)), None)
    if note:
        found |= _asked(note)
    found["sockets"] = _sockets(note)
    logs = {name: os.path.join(vm.files.logs, name) for name in LOGS}
    found["logs"] = {name: path for name, path in logs.items() if os.path.exists(path)}
    found["shares"] = listing.found_rows(vm, seen)
    found["labels"], found["requires"] = registry.labels_of(vm), registry.requirements_of(vm)
    found["disks"], found["snapshots"], _ = content.of(vm)  # where they cannot be read, the state says so
    return found


def _asked(note: LaunchRecord) -> dict[str, Any]:
    """What QEMU and the guest agent answer."""
    found: dict[str, Any] = {}
    try:
        version = qmp.ask(note.socket("qmp"), "query-version", timeout_s=ANSWER_S)["qemu"]
        found["qemu"] = f"{version['major']}.{version['minor']}.{version['micro']}"
        kind = qmp.ask(
            note.socket("qmp"), "qom-get", {"path": "/machine", "property": "type"}, timeout_s=ANSWER_S
        )
        found["machine_type"] = str(kind).removesuffix("-machine")
    except (OSError, QmpError):
        return found
    if os.path.lexists(note.socket("qga")):
        try:
            qga.ask(note.socket("qga"), "guest-ping", timeout_s=ANSWER_S)
            found["agent"] = True
        except (OSError, QmpError):
            found["agent"] = False
    return found


def _sockets(note: LaunchRecord | None) -> dict[str, str]:
    if note is None:
        return {}
    names = ("qmp", "session", "monitor", "serial", "qga")
    return {name: note.socket(name) for name in names if os.path.lexists(note.socket(name))}


def lines(found: Mapping[str, Any]) -> list[str]:
    """The facts for people, a line each."""
    agent = {True: "answers", False: "does not answer", None: ""}[found["agent"]]
    since = f"{shown(found['since'])} ({lasting(found['uptime_s'])})" if found["since"] else ""
    qemu = f"{found['qemu']} ({found['binary']})" if found["qemu"] else found["binary"]
    rows = [
        ("directory", found["directory"]), ("copy of", found["copy_of"]), ("uuid", found["uuid"]),
        ("since", since), ("vcpus", str(found["vcpus"] or "")),
        ("memory", f"{found['memory_mib']} MiB" if found["memory_mib"] else ""),
        ("accelerator", found["accelerator"]), ("machine", found["machine_type"]), ("qemu", qemu),
        ("agent", agent), ("labels", " ".join(found["labels"])), ("requires", " ".join(found["requires"])),
    ]  # fmt: skip
    rows += content.lines(found["disks"] or (), found["snapshots"] or ())
    rows += _first_named("shares", [f"{each['tag']}: {listing.line(each)}" for each in found["shares"] or ()])
    rows += _first_named("sockets", [*found["sockets"].values()])
    rows += _first_named("logs", [f"{each} ({size(_bytes(each))})" for each in found["logs"].values()])
    return [f"  {name:{content.WIDTH}}{text}" for name, text in rows if text]


def _first_named(name: str, texts: list[str]) -> list[tuple[str, str]]:
    return [(name if not at else "", text) for at, text in enumerate(texts)]


def _bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
