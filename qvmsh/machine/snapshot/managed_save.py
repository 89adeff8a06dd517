"""Saved state: the memory of a machine as a snapshot in its disks. `snapshot_restore.load` takes it up again.

May import: `qemu`, `machine`.

    save(vm, note, "ready", has_suspend=True)       # suspend -> snapshot; the guest stays stopped

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
import re
import subprocess
import time

from qvmsh.errors import QmpError, QvmError, StateError, UsageError
from qvmsh.host import files as host_files
from qvmsh.machine import state
from qvmsh.machine.guest import sleep
from qvmsh.machine.guest import ssh as guest
from qvmsh.qemu import ich9, qga, qmp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qvmsh.machine.launch_record import Note
    from qvmsh.machine.machine import Machine

CLOCK_S = 0.5
"""How long the agent of a guest that answers ssh may take: the same can be done by ssh at once."""

PATIENT_S = 3.0
"""How long it may take where ssh does not answer either: a busy guest, or one without ssh."""

NOTICED_S, MUCH_S = 0.5, 2.0
"""How long a guest may stand still before its clock is looked at: by the agent, by ssh."""

NEW = ".qvm-new"
"""Suffix of the snapshot that is taken before one of the same name is replaced."""

INTERNAL = (NEW, ".qvm-back")
"""Names that qvm uses itself while it works."""


def require_name(vm: Machine, name: str) -> None:
    """Refuse names that QEMU's tools would take for something else, and those that nobody could type.

    Raises:
        UsageError: with what is wrong with it.
    """
    hint = "any other text is a name; without one it is the time"
    if not name:
        why = "it is empty"
    elif len(os.fsencode(name)) > 200:
        why = f"it has {len(os.fsencode(name))} bytes, of at most 200"
    elif not name.isprintable():
        why = "it holds signs that cannot be shown"
    elif name != name.strip():
        why = "it begins or ends with a blank"
    elif name.endswith(INTERNAL):
        why = f"qvm itself uses names that end in {' and '.join(INTERNAL)}"
    elif name.isascii() and name.isdigit():
        why, hint = "QEMU would take it for a number", "put a letter into it"
    else:
        return
    shown = repr(name if len(name) <= 60 else name[:60] + "...")
    raise UsageError(f"{shown} cannot be the name of a snapshot: {why}", machine=vm.name, hint=hint)


def unknown(vm: Machine, name: str, there: Iterable[str]) -> StateError:
    """The error for a snapshot that is not there; it names those that are."""
    names = sorted(each for each in there if not each.endswith(INTERNAL))
    return StateError(
        f"there is no snapshot {name if name.strip() else repr(name)}",
        machine=vm.name,
        hint=f"there are: {', '.join(names)}" if names else "`qvm snapshot save NAME` makes one",
    )


def save(vm: Machine, note: Note, name: str, *, has_suspend: bool, timeout_s: float | None = None) -> float:
    """Save memory and disks as the snapshot `name`; the guest is stopped afterwards.

    An older snapshot of that name is replaced; it goes only after the new one has been written.

    Returns:
        The seconds that the guest took to suspend (0 without).

    Raises:
        DeadlineError: the guest does not suspend; it runs on.
        QmpError: QEMU cannot save; the guest runs on and no snapshot was changed.
    """
    from qvmsh.machine.snapshot import obstacles as blockers
    from qvmsh.machine.snapshot import save_delete as snapshots
    from qvmsh.qemu.session import Session  # asyncio: start and kill do without

    require_name(vm, name)
    seen = state.observe(vm)
    pid = seen.pid or 0
    with snapshots.live(vm, note) as (store, disks):
        blockers.require(vm, disks, "save", exchange=store.exchange, pid=pid, has_memory=True)
        kind = state.SUSPENDED if has_suspend else seen.kind
        registers = ich9.read(store.exchange) if kind == state.SUSPENDED else None
    suspended_s = 0.0
    if has_suspend:
        limit_s = sleep.SUSPEND_S if timeout_s is None else timeout_s
        try:
            with Session(note.socket("session"), vm.io.checkpoint) as qemu:
                suspended_s = sleep.fall_asleep(vm, qemu, note, timeout_s=limit_s)[1]
        except KeyboardInterrupt:
            vm.io.warn(f"{vm.name}: the guest was asked to sleep; `qvm wakeup` wakes it, nothing was saved")
            raise
    try:
        with snapshots.live(vm, note) as (store, _):
            snapshots.take(
                store, note, name, snapshots.Request(is_replacing=True),
                kind=kind, registers=registers, pid=pid, stays_held=True,
            )  # fmt: skip
    except QvmError as error:
        if has_suspend:
            _go_on(note)
        error.machine = error.machine or vm.name
        if not os.path.lexists(vm.files.unfinished):
            error.hint = error.hint or "the guest runs on; no snapshot was changed"
        raise
    return suspended_s


def _go_on(note: Note) -> None:
    """Let the guest run again that was sent to sleep for a save that failed."""
    try:
        with exchange(note) as conversation:
            let_go(conversation)
    except (OSError, QmpError):
        pass


@contextlib.contextmanager
def exchange(note: Note, name: str = "qmp") -> Iterator[qmp.Exchange]:
    """A conversation of a few questions: `with exchange(note) as qemu:`."""
    made = qmp.Exchange(note.socket(name), state.GREETING_S).negotiate()
    try:
        yield made
    finally:
        made.close()


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


def put_clock_right_after(vm: Machine, note: Note, held_s: float) -> str:
    """The same for a guest that stood still for so long; told where nothing in it could be asked."""
    if held_s <= NOTICED_S or not _follows_host(vm):
        return ""
    found = put_clock_right(vm, note, has_ssh=held_s > MUCH_S)
    if found or held_s <= MUCH_S:
        return found
    return "its clock may be behind: neither the guest agent nor ssh could set it"


def _follows_host(vm: Machine) -> bool:
    """False where the user wants another time in the guest (VM_RTC_BASE with a date)."""
    return vm.settings.text("VM_RTC_BASE") in ("utc", "localtime")


def put_clock_right(vm: Machine, note: Note, *, has_ssh: bool = True) -> str:
    """Compare the guest's clock with the host's and set it if it is off; returns what was done.

    By the guest agent, else (`has_ssh`) by ssh, else by an agent that takes its time; "" where none can tell,
    and where the user wants another time.
    """
    if not _follows_host(vm):
        return ""
    found = _clock_by_agent(vm, note, CLOCK_S, has_ssh=has_ssh)
    if found is None and has_ssh:
        found = _clock_by_ssh(vm, note) or _clock_by_agent(vm, note, PATIENT_S, has_ssh=False)
    return found or ""


def _clock_by_agent(vm: Machine, note: Note, timeout_s: float, *, has_ssh: bool) -> str | None:
    """What was done; None if no agent tells the time."""
    try:
        behind = time.time() - qga.ask(note.socket("qga"), "guest-get-time", timeout_s=timeout_s) / 1e9
    except (OSError, QmpError):
        return None
    if abs(behind) < 1.0:
        return "clock is right"
    try:
        qga.ask(note.socket("qga"), "guest-set-time", {"time": time.time_ns()}, timeout_s=10.0)
    except (OSError, QmpError):
        found = _clock_by_ssh(vm, note) if has_ssh else ""
        return found or f"clock is {behind:.0f} s behind and could not be set"
    return f"clock was {behind:.0f} s behind, set by the guest agent"


def _clock_by_ssh(vm: Machine, note: Note) -> str:
    if not guest.answers(vm, note, timeout_s=3.0)[0]:  # a log-in that nobody answers takes much longer
        return ""
    try:
        found = guest.connect(vm, "set the clock", interactive=False)
        now = time.time()
        script = (
            f"d=$(( {int(now)} - $(date +%s) )); echo $d; [ ${{d#-}} -lt 3 ] || sudo -n date -s @{int(now)}"
        )
        done = found.run(script, timeout_s=30.0)
    except (QvmError, subprocess.TimeoutExpired):
        return ""
    words = done.stdout.split()
    if not words or not re.fullmatch(r"-?[0-9]{1,15}", words[0]):
        return ""
    if abs(int(words[0])) < 3:
        return "clock is right"
    if done.returncode:
        return f"clock is {words[0]} s behind and could not be set"
    return f"clock was {words[0]} s behind, set by ssh"


def written_files(note: Note) -> list[str]:
    """The files of all disks that the guest writes to, as QEMU names them."""
    from qvmsh.machine.storage.volumes import file_of

    blocks = qmp.ask(note.socket("qmp"), "query-block", timeout_s=5.0)
    found = [block["inserted"] for block in blocks if block.get("inserted")]
    return [file_of(each["image"]["filename"]) for each in found if not each["ro"]]


def sync_images(vm: Machine, files: list[str]) -> None:
    """Make sure that what QEMU wrote is on the disk, not only in the host's memory.

    Args:
        files: from the machine's directory.
    """
    for path in (os.path.join(vm.directory, name) for name in files):
        if os.path.exists(path):  # else it is QEMU's name of something that is no file
            host_files.sync(path)
