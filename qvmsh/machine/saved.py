"""Saved state: the memory of a machine as a snapshot in its disks, taken and taken up again.

May import: `qemu`, `machine`.

    save(vm, "ready", has_suspend=True)       # suspend -> snapshot; the guest stays stopped
    load(vm, note, "ready")                   # into a QEMU that was started with -S

The guest is sent to sleep first, so that it expects not to run for a while and reads the clock
when it wakes. QEMU before 9.0 loads a sleeping machine as one that runs and can never be woken
(symptom: "guest is not in suspended state"); there the wake-up is begun and stopped at once, and
the snapshot is taken inside the firmware, so that the loaded guest finishes waking by itself. The
two are told apart by QEMU's answer: after `stop` an old one still says "suspended".
Source: QEMU commits b9ae473d80, b4e9ddccd1 (9.0); measured on 7.2.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time

from qvmsh.errors import QmpError, QvmError, StateError, UsageError
from qvmsh.machine import guest, sleep, state
from qvmsh.machine.hardware import MAIN
from qvmsh.qemu import ich9, qga, qmp
from qvmsh.qemu.jobs import Jobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from qvmsh.machine.machine import Machine
    from qvmsh.machine.note import Note
    from qvmsh.qemu.session import Session

CLOCK_S = 0.5
"""How long the agent of a guest that answers ssh may take: the same can be done by ssh at once."""

NEW = ".qvm-new"
"""Suffix of the snapshot that is taken before one of the same name is replaced."""


def require_name(vm: Machine, name: str) -> None:
    """Refuse names that QEMU's tools would take for something else."""
    if not name or not name.isprintable() or len(os.fsencode(name)) > 200 or name.endswith(NEW):
        raise UsageError(f"{name!r} cannot be the name of a snapshot", machine=vm.name)


def save(vm: Machine, note: Note, name: str, *, has_suspend: bool, timeout_s: float | None = None) -> float:
    """Save memory and disks as the snapshot `name`; the guest is stopped afterwards.

    An older snapshot of that name is replaced; it goes only after the new one has been written.

    Returns:
        The seconds that the guest took to suspend (0 without).

    Raises:
        DeadlineError: the guest does not suspend; it runs on.
        QmpError: QEMU cannot save; the guest runs on and no snapshot was changed.
    """
    from qvmsh.qemu.session import Session  # asyncio: start and kill do without

    require_name(vm, name)
    with Session(note.socket("session"), vm.io.checkpoint) as qemu:
        nodes = _writable_nodes(vm, qemu.execute("query-block"))
        registers = _power_registers(note) if has_suspend else None
        limit_s = sleep.SUSPEND_S if timeout_s is None else timeout_s
        suspended_s = sleep.fall_asleep(vm, qemu, note, timeout_s=limit_s)[1] if has_suspend else 0.0
        try:
            with _exchange(note) as exchange:
                hold(exchange, registers)
            _replace(qemu, name, nodes)
        except QvmError as error:
            _go_on(note)
            error.machine = error.machine or vm.name
            error.hint = error.hint or "the guest runs on; no snapshot was changed"
            raise
    return suspended_s


def _writable_nodes(vm: Machine, blocks: list[dict[str, Any]]) -> list[str]:
    """The nodes of all disks that the guest writes to; each must be able to hold snapshots.

    The machine's own disk comes first, since the first one takes the memory; UEFI's variables are
    the last (`-loadvm` would look for the memory there, so it is not used).

    Raises:
        StateError: a writable disk cannot hold a snapshot.
    """
    nodes = []
    for block in blocks:
        inserted = block.get("inserted")
        if not inserted or inserted["ro"]:
            continue
        if inserted["drv"] != "qcow2":
            file = inserted["image"]["filename"]
            raise StateError(
                f"cannot save: the disk {file} is {inserted['drv']}, which holds no snapshots",
                machine=vm.name,
                hint="convert it to qcow2, or make it read-only",
            )
        nodes.append((_rank(block), inserted["node-name"]))
    if not nodes:
        raise StateError("cannot save: there is no disk to save the state in", machine=vm.name)
    return [node for _, node in sorted(nodes, key=lambda each: each[0])]


def _rank(block: dict[str, Any]) -> int:
    """How well a disk is suited to take the memory: 0 the machine's own, 2 a flash chip."""
    if block["inserted"]["node-name"] == MAIN:
        return 0
    return 2 if "flash" in block["device"] + block.get("qdev", "") else 1


@contextlib.contextmanager
def _exchange(note: Note, name: str = "qmp") -> Iterator[qmp.Exchange]:
    exchange = qmp.Exchange(note.socket(name), state.GREETING_S).negotiate()
    try:
        yield exchange
    finally:
        exchange.close()


def _power_registers(note: Note) -> ich9.Registers | None:
    with _exchange(note) as exchange:
        return ich9.read(exchange)


def hold(exchange: qmp.Exchange, registers: ich9.Registers | None) -> None:
    """Stop the guest so that a snapshot of it can be loaded; see the module's text.

    A QEMU that keeps "suspended" over `stop` (9.0 and later) saves and loads that state as it is.
    """
    exchange.ask("stop", timeout_s=30.0)
    if exchange.ask("query-status")["status"] == "suspended":
        exchange.together("system_wakeup", "stop")
        ich9.restore(exchange, registers)


def let_go(exchange: qmp.Exchange) -> None:
    """Let a guest that was held or loaded run; where QEMU (9.0 and later) says that it sleeps, wake it."""
    exchange.ask("cont", timeout_s=30.0)
    if exchange.ask("query-status")["status"] == "suspended":
        sleep.wake(exchange)


def _replace(qemu: Session, name: str, nodes: list[str]) -> None:
    """Take the snapshot; one of the same name goes only when the new one is there."""
    tags = _tags(qemu)
    arguments = {"vmstate": nodes[0], "devices": nodes}
    for stale in (name + NEW,):
        if any(stale in tags[node] for node in nodes):
            qemu.job("snapshot-delete", {"tag": stale, "devices": nodes})
    if any(name in tags[node] for node in nodes):
        qemu.job("snapshot-save", {"tag": name + NEW, **arguments})
        qemu.job("snapshot-delete", {"tag": name, "devices": nodes})
        qemu.job("snapshot-save", {"tag": name, **arguments})
        qemu.job("snapshot-delete", {"tag": name + NEW, "devices": nodes})
    else:
        qemu.job("snapshot-save", {"tag": name, **arguments})


def _tags(qemu: Session | Jobs) -> dict[str, dict[str, int]]:
    """Snapshots of each node: tag and size of its memory in bytes."""
    return {
        node["node-name"]: {
            each["name"]: each["vm-state-size"] for each in node["image"].get("snapshots", [])
        }
        for node in qemu.execute("query-named-block-nodes", {"flat": True})
    }


def _go_on(note: Note) -> None:
    """Let the guest run again after a save that failed."""
    try:
        with _exchange(note) as exchange:
            let_go(exchange)
    except (OSError, QmpError):
        pass


def load(vm: Machine, note: Note, name: str) -> None:
    """Load the snapshot `name` into a QEMU that was started with `-S`, and let the guest run.

    Raises:
        StateError: there is no such snapshot on every disk, or it has no memory.
        QmpError: QEMU cannot load it. The guest must then never run: end QEMU.
    """
    try:
        with _exchange(note, "session") as exchange:
            _load(vm, Jobs(exchange), name)
    except OSError as error:
        raise QmpError(
            f"QEMU went away while it loaded the snapshot {name}: {error}", machine=vm.name
        ) from None
    note.loading = ""  # from here on the guest's memory is whole
    note.write(vm.files.note)
    with _exchange(note) as exchange:
        let_go(exchange)


def _load(vm: Machine, qemu: Jobs, name: str) -> None:
    nodes = _writable_nodes(vm, qemu.execute("query-block"))
    tag = _loadable(vm, _tags(qemu), nodes, name)
    vmstate = next(node for node in nodes if _tags(qemu)[node][tag])
    drop_bitmaps(qemu, nodes)
    try:
        qemu.job("snapshot-load", {"tag": tag, "vmstate": vmstate, "devices": nodes})
    except QmpError as error:
        raise QmpError(
            f"cannot load the snapshot {name}: {error.what.removeprefix('snapshot-load: ')}",
            machine=vm.name,
            hint="it was saved on other hardware, or by another QEMU: set machine type, memory, vcpus "
            "and devices as they were then",
        ) from None


def _loadable(vm: Machine, tags: dict[str, dict[str, int]], nodes: list[str], name: str) -> str:
    """The tag to load: `name`, or what a save that was killed while it replaced `name` left."""
    for tag in (name, name + NEW):
        if all(tag in tags[node] for node in nodes):
            if not any(tags[node][tag] for node in nodes):
                raise StateError(
                    f"the snapshot {name} holds only disks, no memory", machine=vm.name,
                    hint="`qemu-img snapshot -a` puts the disks back while the machine is off",
                )  # fmt: skip
            return tag
    there = sorted({tag for node in nodes for tag in tags[node]})
    missing = [node for node in nodes if name not in tags[node]]
    partly = f" on {', '.join(missing)}" if len(missing) < len(nodes) else ""
    raise StateError(
        f"there is no snapshot {name}{partly}",
        machine=vm.name,
        hint=f"there are: {', '.join(there)}" if there else "`qvm stop --savevm NAME` makes one",
    )


def drop_bitmaps(qemu: Session | Jobs, nodes: list[str]) -> None:
    """Remove the dirty bitmaps of these nodes: QEMU loads no snapshot into a disk that has some.

    The next archive is a whole one then.
    """
    for node in qemu.execute("query-named-block-nodes", {"flat": True}):
        if node["node-name"] in nodes:
            for each in node.get("dirty-bitmaps", []):
                name = {"node": node["node-name"], "name": each["name"]}
                qemu.execute("block-dirty-bitmap-remove", name)


def put_clock_right(vm: Machine, note: Note) -> str:
    """Compare the guest's clock with the host's and set it if it is off; returns what was done.

    By ssh or the guest agent; "" where neither can tell, and where the user wants another time
    (VM_RTC_BASE with a date).
    """
    if vm.settings.text("VM_RTC_BASE") not in ("utc", "localtime"):
        return ""
    try:
        behind = time.time() - qga.ask(note.socket("qga"), "guest-get-time", timeout_s=CLOCK_S) / 1e9
    except (OSError, QmpError):
        return _clock_by_ssh(vm)
    if abs(behind) < 1.0:
        return "clock is right"
    try:
        qga.ask(note.socket("qga"), "guest-set-time", {"time": time.time_ns()}, timeout_s=10.0)
    except (OSError, QmpError):
        return _clock_by_ssh(vm)
    return f"clock was {behind:.0f} s behind, set by the guest agent"


def _clock_by_ssh(vm: Machine) -> str:
    try:
        found = guest.connect(vm, "set the clock", interactive=False)
        now = time.time()
        script = (
            f"d=$(( {int(now)} - $(date +%s) )); echo $d; [ ${{d#-}} -lt 3 ] || sudo -n date -s @{int(now)}"
        )
        done = subprocess.run(
            found.command([script], tty=False),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    except (QvmError, subprocess.TimeoutExpired):
        return ""
    words = done.stdout.split()
    if not words:
        return ""
    if abs(int(words[0])) < 3:
        return "clock is right"
    if done.returncode:
        return f"clock is {words[0]} s behind and could not be set"
    return f"clock was {words[0]} s behind, set by ssh"


def written_files(note: Note) -> list[str]:
    """The files of all disks that the guest writes to, as QEMU names them."""
    blocks = qmp.ask(note.socket("qmp"), "query-block", timeout_s=5.0)
    found = [block["inserted"] for block in blocks if block.get("inserted")]
    return [each["image"]["filename"] for each in found if not each["ro"]]


def sync_images(vm: Machine, files: list[str]) -> None:
    """Make sure that what QEMU wrote is on the disk, not only in the host's memory.

    Args:
        files: from the machine's directory.
    """
    for name in files:
        try:
            fd = os.open(os.path.join(vm.directory, name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # QEMU's name of something that is no plain file
            continue
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
